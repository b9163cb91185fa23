"""Versions that are gone, in the future, or lower than before (K04, K05, K06, K12, K13, K16).

The table of all cases is in test_simulated_outages.

Behaviour: row 37 of docs/behaviour.md.
"""

import asyncio
from collections.abc import Callable

import pytest
import structlog.testing

from kproxy.model import names
from kproxy.simulator.api.server_faults import Kind
from kproxy.simulator.store import resources
from kproxy.sources.api.decisions import progress
from tests import virtual_time
from tests.simulator import objects
from tests.sources.api.rig import simulated_api
from tests.sources.api.rig.simulated_api import Api, Proxy, beside, until

STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streams"])


def relisted(proxy: Proxy) -> Callable[[], bool]:
    """Whether both collections have been listed again."""
    return lambda: all(sum(each.relists.values()) == 2 for each in proxy.counters)


@STREAMING
@pytest.mark.parametrize("kind", [Kind.GONE, Kind.GONE_STATUS])
def test_k04_a_version_that_is_gone_means_a_list_that_finds_deletions(
    kind: Kind, streaming: bool
) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.put_service("old", "10.96.0.9")
        api.put_slice("old-1", "old", "10.1.0.9")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            assert proxy.table() == {"web": {"10.1.0.1"}, "old": {"10.1.0.9"}}
            await api.server.stop()
            api.remove_service("old")
            api.remove_slice("old-1")
            api.put_slice("web-1", "web", "10.1.0.2")
            for resource in ("services", "endpointslices"):
                api.faults.set(kind, verb="watch", resource=resource, count=1)
            await api.server.start()
            await until(relisted(proxy))
            assert proxy.relists() == {"start": 2, "expired": 2}
            assert proxy.table() == {"web": {"10.1.0.2"}}
            # What did not change was not told again.
            changed = frozenset().union(*(each for _, each in proxy.changes[1:]))
            assert {each.name for each in changed} == {"web", "old"}
            # Streams are live again.
            api.put_slice("web-1", "web", "10.1.0.3")
            await until(lambda: proxy.table() == {"web": {"10.1.0.3"}}, 1)
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario, streaming_lists=streaming)


@STREAMING
def test_k06_what_was_deleted_beyond_the_history_is_removed(streaming: bool) -> None:
    async def scenario(api: Api) -> None:
        for number in range(20):
            api.put_service(f"s-{number}", f"10.96.0.{number + 1}")
            api.put_slice(f"s-{number}-1", f"s-{number}", f"10.1.0.{number + 1}")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            await api.server.stop()
            for number in range(0, 20, 2):
                api.remove_service(f"s-{number}")
            for number in range(0, 20, 3):
                api.remove_slice(f"s-{number}-1")
            api.forget_history()
            await api.server.start()
            await until(relisted(proxy))
            assert {name.service.name for name in proxy.plane.backends} == {
                f"s-{number}" for number in range(1, 20, 2)
            }
            # Without endpoints nothing listens.
            assert {opened.name.service.name for opened in proxy.plane.open.values()} == {
                f"s-{number}" for number in range(1, 20, 2) if number % 3
            }
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario, streaming_lists=streaming)


@pytest.mark.parametrize("kind", [Kind.GONE, Kind.TOO_LARGE_VERSION])
def test_k05_when_the_list_fails_for_its_version_too_the_newest_is_asked_for(kind: Kind) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            api.faults.set(kind, verb="list", count=2)
            api.faults.set(Kind.GONE, verb="watch", count=2)
            api.put_slice("web-1", "web", "10.1.0.2")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})
            await until(relisted(proxy))
            assert api.faults.active() == []
            assert proxy.told == []
            assert len(proxy.changes) == 2

    simulated_api.run(scenario, streaming_lists=False)


@STREAMING
def test_k12_a_replica_that_is_behind_brings_nothing_back(streaming: bool) -> None:
    """Both share one past, so one address: a load balancer fails over to the one behind.

    It says that our version is too large. Only a list of the newest state ("") is answered by
    it, and that from etcd: it is then as new as the other one.
    """

    async def scenario() -> None:
        ahead, behind = (Api(streaming_lists=streaming) for _ in range(2))
        await ahead.reserve_port()
        behind.server.port = ahead.server.port
        for each in (ahead, behind):
            each.serve_web("10.1.0.1", "10.1.0.2")
            each.put_slice("web-2", "web", "10.1.0.3")
            each.put_service("old", "10.96.0.9")

        def an_hour_of_changes(api: Api) -> None:
            api.put_slice("web-1", "web", "10.1.0.2")
            api.remove_slice("web-2")
            api.remove_service("old")
            api.put_slice("web-3", "web", "10.1.0.4")

        an_hour_of_changes(ahead)
        now = {"web": {"10.1.0.2", "10.1.0.4"}}
        async with ahead.server, beside(ahead) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            assert proxy.table() == now
            await ahead.server.stop()
            behind.faults.set(Kind.GONE, verb="watch", count=2)
            await behind.server.start()
            while proxy.failures()[progress.Outcome.TOO_LARGE] < 2:
                await asyncio.sleep(0.05)
                assert proxy.table() == now
            an_hour_of_changes(behind)
            await until(relisted(proxy))
            assert proxy.table() == now
            behind.put_slice("web-3", "web", "10.1.0.5")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2", "10.1.0.5"}})
            assert proxy.state() == await simulated_api.fresh_start(behind)
            await behind.server.stop()

    virtual_time.run(scenario)


@STREAMING
def test_k13_a_restored_etcd_is_the_truth_although_its_numbers_are_lower(streaming: bool) -> None:
    async def scenario() -> None:
        lost, restored = (Api(streaming_lists=streaming) for _ in range(2))
        await lost.reserve_port()
        restored.server.port = lost.server.port
        lost.put_service("lost", "10.96.0.8")
        for number in range(50):
            lost.serve_web(f"10.1.0.{number + 1}")
        restored.serve_web("10.1.1.1")
        assert restored.version < lost.version
        async with lost.server, beside(lost) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            await lost.server.stop()
            restored.faults.set(Kind.GONE, verb="watch", count=2)
            with structlog.testing.capture_logs() as logged:
                await restored.server.start()
                await until(lambda: proxy.table() == {"web": {"10.1.1.1"}})
                await until(relisted(proxy))
            restored.put_slice("web-1", "web", "10.1.1.2")
            await until(lambda: proxy.table() == {"web": {"10.1.1.2"}}, 1)
            assert proxy.failures()[progress.Outcome.TOO_LARGE] == 2
            assert proxy.state() == await simulated_api.fresh_start(restored)
            await restored.server.stop()
        went_back = [
            line
            for line in logged
            if line["event"].startswith("the API server returned to an older state")
        ]
        assert sorted(line["resource"] for line in went_back) == [
            "endpointslices.discovery.k8s.io",
            "services",
        ]

    virtual_time.run(scenario)


def test_k16_bookmarks_keep_the_version_of_a_quiet_collection_alive() -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            for number in range(100):
                api.put(resources.PODS, f"pod-{number}", objects.pod("any"))
            await asyncio.sleep(65)
            assert f"services at {api.version}" in proxy.informed.describe()
            assert proxy.counters[0].events["BOOKMARK"] >= 1
            await api.server.stop()
            api.forget_history()
            await api.server.start()
            api.put_service("db", "10.96.0.2")
            db = names.NamespacedName("default", "db")
            await until(lambda: db in proxy.informed.store.service_names())
            assert proxy.relists() == {"start": 2}

    simulated_api.run(scenario)
