"""Objects and answers that are huge, broken or senseless (K17, K18, K19), through the API.

The table of all cases is in test_simulated_outages.
"""

import asyncio
import itertools
from typing import Any

import pytest

from kproxy.simulator.api.server_faults import Kind
from kproxy.simulator.store import resources
from kproxy.turns import SLICE
from tests.sources.api.rig import fake_api, simulated_api
from tests.sources.api.rig.simulated_api import Api, beside, until

MILD = {Kind.DUPLICATE_EVENTS, Kind.REORDER_EVENTS, Kind.OVERSIZED_OBJECTS, Kind.SLOW_LIST}
"""Switches that clients need not notice."""

APART = {
    Kind.SILENT_DEATH,  # for as long as it is on, not for some requests
    Kind.ROTATED_TOKEN,  # needs a kubeconfig that is read again
    Kind.ENDLESS_PAGES,  # has objects that are not there
}
"""Switches that this case does not fit."""

SLOW = {Kind.ENDLESS_FIELDS}
"""Switches that send megabytes."""


@pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streams"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.extra) if kind in SLOW else kind
        for kind in Kind
        if kind not in APART
    ],
)
def test_k17_whatever_goes_wrong_for_a_while_nothing_is_lost(kind: Kind, streaming: bool) -> None:
    """Switched on before the first list, and again while it is being followed."""

    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.faults.set(kind, count=5)
        async with beside(api) as proxy:
            await until(lambda: proxy.table() == {"web": {"10.1.0.1"}}, 1000)
            api.faults.set(kind, count=10)
            for number in range(2, 12):
                api.put_service(f"s-{number}", f"10.96.1.{number}")
                api.put_slice("web-1", "web", f"10.1.0.{number}")
                await asyncio.sleep(20)
            api.remove_service("s-2")
            last = {"web": {"10.1.0.11"}} | {f"s-{number}": set() for number in range(3, 12)}
            await until(lambda: proxy.table() == last, 2000)
            await until(lambda: not proxy.informed.problems(), 2000)
            assert len(proxy.told) <= 4, proxy.sentences()
            if kind in MILD:
                assert proxy.told == []
            api.faults.clear()
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario, streaming_lists=streaming)


class Turns:
    """How much was taken in between two turns of the event loop."""

    def __init__(self) -> None:
        self.largest = 0
        self.count = 0

    async def watch(self, proxy: simulated_api.Proxy) -> None:
        """Look at each turn, until all is there."""
        before = 0
        while not proxy.informed.has_synced:
            now = len(proxy.informed.store.service_names())
            self.largest = max(self.largest, now - before)
            before = now
            self.count += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streams"])
async def test_k18_a_list_of_50_megabytes_lets_the_loop_turn_between_its_objects(
    streaming: bool,
) -> None:
    """With a clock by which each look at it takes half a slice: time itself is not measured."""
    api = Api(streaming_lists=streaming)
    for number in range(50):
        api.put_service(f"s-{number}", f"10.96.0.{number + 1}")
    api.faults.set(Kind.OVERSIZED_OBJECTS, resource="services", size=1_000_000)
    ticks = itertools.count(step=SLICE / 2)
    async with api.server, beside(api, clock=lambda: float(next(ticks))) as proxy:
        turns = Turns()
        async with asyncio.timeout(60):
            await turns.watch(proxy)
        assert len(proxy.table()) == 50
        assert turns.largest <= 3
        assert turns.count >= 50 / 3
        assert proxy.told == []


async def test_k18_the_loop_turns_between_many_small_objects() -> None:
    api = Api(streaming_lists=False)
    for number in range(3000):
        api.put_service(f"s-{number}", f"10.96.{number // 250}.{number % 250 + 1}")
    ticks = itertools.count(step=SLICE / 10)
    async with api.server, beside(api, clock=lambda: float(next(ticks))) as proxy:
        turns = Turns()
        async with asyncio.timeout(60):
            await turns.watch(proxy)
        assert len(proxy.table()) == 3000
        assert turns.largest <= 11


def test_k18_one_object_of_ten_thousand_endpoints_is_taken_in_beside_others() -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.put_service("db", "10.96.0.2")
        crowd = [f"10.2.{number // 250}.{number % 250}" for number in range(10_000)]
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            api.put_slice("db-1", "db", *crowd)
            api.put_slice("web-1", "web", "10.1.0.2")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}, "db": set(crowd)})
            assert proxy.told == []
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario)


def port(**fields: Any) -> dict[str, Any]:
    return {"name": "http", "port": 80, "protocol": "TCP", **fields}


SENSELESS_SERVICES: dict[str, dict[str, Any]] = {
    "port 0": {"ports": [port(port=0)]},
    "port 65536": {"ports": [port(port=65536)]},
    "port as text": {"ports": [port(port="80")]},
    "port null": {"ports": [port(port=None)]},
    "protocol in small letters": {"ports": [port(protocol="tcp")]},
    "protocol unknown": {"ports": [port(protocol="QUIC")]},
    "no ports": {"ports": []},
    "ports a text": {"ports": "80"},
    "name twice": {"ports": [port(), port(port=81)]},
    "port twice": {"ports": [port(), port(name="other")]},
    "address out of range": {"clusterIP": "999.1.1.1"},
    "address with a sign": {"clusterIP": "10.96.0.1\n"},
    "address a number": {"clusterIP": 10},
    "unknown type": {"type": "Imaginary"},
    "unknown affinity": {"sessionAffinity": "Sticky"},
    "spec null": {},
}
UNSERVED_SERVICES: dict[str, dict[str, Any]] = {
    "headless": {"clusterIP": "None"},
    "no address yet": {"clusterIP": ""},
    "another family": {"clusterIP": "fd00::1"},
    "only SCTP": {"ports": [port(protocol="SCTP")]},
    "only UDP": {"ports": [port(protocol="UDP")]},
    "elsewhere": {"type": "ExternalName", "externalName": "example.org"},
}


@pytest.mark.parametrize("case", SENSELESS_SERVICES)
def test_k19_an_invalid_service_is_reported_once_and_harms_no_other(case: str) -> None:
    spec = SENSELESS_SERVICES[case]

    async def scenario(api: Api) -> None:
        def put_senseless(**more: Any) -> None:
            if spec:
                api.put_service("bad", "10.96.0.66", **{**spec, **more})
            else:
                api.put(resources.SERVICES, "bad", {"spec": None, **more})

        api.serve_web("10.1.0.1")
        put_senseless()
        api.put_slice("bad-1", "bad", "10.1.0.66")
        async with beside(api) as proxy:
            await proxy.synced()
            assert proxy.table() == {"web": {"10.1.0.1"}}
            (told,) = proxy.sentences()
            assert told.startswith("services: Service default/bad: ")
            assert told.endswith("skipped")
            await asyncio.sleep(1)
            # Sensible, and senseless again: what was last good stays.
            api.put_service("bad", "10.96.0.66")
            await until(lambda: "bad" in proxy.table())
            assert proxy.informed.problems() == ()
            put_senseless(publishNotReadyAddresses=True)
            api.put_slice("web-1", "web", "10.1.0.2")
            await until(lambda: proxy.table()["web"] == {"10.1.0.2"})
            await until(lambda: len(proxy.told) == 2)
            assert proxy.sentences()[1].endswith("its last good version stays")
            assert proxy.table()["bad"] == {"10.1.0.66"}
            api.remove_service("bad")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})
            assert proxy.informed.problems() == ()

    simulated_api.run(scenario)


@pytest.mark.parametrize("case", UNSERVED_SERVICES)
def test_k19_a_service_that_is_not_for_a_proxy_is_left_alone(case: str) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.put_service("other", "10.96.0.66", **UNSERVED_SERVICES[case])
        api.put_slice("other-1", "other", "10.1.0.66")
        async with beside(api) as proxy:
            await proxy.synced()
            assert {opened.name.service.name for opened in proxy.plane.open.values()} == {"web"}
            assert "skipped" not in "".join(proxy.sentences())

    simulated_api.run(scenario)


def endpoint(*addresses: object) -> dict[str, Any]:
    return {"addresses": list(addresses)}


SENSELESS_SLICES: dict[str, dict[str, Any]] = {
    "port 0": {"ports": [port(port=0)]},
    "port 65536": {"ports": [port(port=65536)]},
    "port as text": {"ports": [port(port="8080")]},
    "protocol in small letters": {"ports": [port(protocol="tcp")]},
    "address of five parts": {"endpoints": [endpoint("10.1.0.1.5")]},
    "address of octal numbers": {"endpoints": [endpoint("0177.0.0.1")]},
    "address a number": {"endpoints": [endpoint(5)]},
    "endpoints a text": {"endpoints": "10.1.0.1"},
}
UNSERVED_SLICES: dict[str, dict[str, Any]] = {
    "no endpoints": {"endpoints": []},
    "endpoints null": {"endpoints": None},
    "ports null": {"ports": None},
    "SCTP": {"ports": [port(protocol="SCTP")]},
    "names": {"addressType": "FQDN", "endpoints": [endpoint("example.org")]},
}


@pytest.mark.parametrize("case", SENSELESS_SLICES)
def test_k19_an_invalid_slice_is_reported_once_and_harms_no_other(case: str) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        body = {**fake_api.sliced("web", "10.1.0.66"), **SENSELESS_SLICES[case]}
        api.put(resources.ENDPOINT_SLICES, "web-2", body)
        async with beside(api) as proxy:
            await proxy.synced()
            assert proxy.table() == {"web": {"10.1.0.1"}}
            (told,) = proxy.sentences()
            assert told.startswith("endpointslices.discovery.k8s.io: EndpointSlice default/web-2: ")
            api.put_slice("web-2", "web", "10.1.0.66")
            await until(lambda: proxy.table() == {"web": {"10.1.0.1", "10.1.0.66"}})
            assert proxy.informed.problems() == ()

    simulated_api.run(scenario)


@pytest.mark.parametrize("case", UNSERVED_SLICES)
def test_k19_a_slice_of_nothing_for_a_proxy_takes_nothing_away(case: str) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        body = {**fake_api.sliced("web", "10.1.0.66"), **UNSERVED_SLICES[case]}
        api.put(resources.ENDPOINT_SLICES, "web-2", body)
        async with beside(api) as proxy:
            await proxy.synced()
            assert proxy.table() == {"web": {"10.1.0.1"}}

    simulated_api.run(scenario)


def test_k19_whatever_a_service_is_the_name_it_has_is_reported() -> None:
    """Many senseless ones at once: one problem each, and the good one among them is served."""

    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        bad = {case: spec for case, spec in SENSELESS_SERVICES.items() if spec}
        for number, spec in enumerate(bad.values()):
            api.put_service(f"bad-{number}", "10.96.0.66", **spec)
        async with beside(api) as proxy:
            await proxy.synced()
            assert proxy.table() == {"web": {"10.1.0.1"}}
            told = [problem.subject for problem in proxy.informed.problems()]
            assert sorted(told) == sorted(f"Service default/bad-{n}" for n in range(len(bad)))

    simulated_api.run(scenario)
