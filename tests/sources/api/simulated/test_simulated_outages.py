"""The cases K01 to K26 of the fault catalogue, control plane: where each is proved.

Here, beside a simulated API server and on a clock that jumps: the server is away, silent, slow,
or turns clients away.

    K01  absent at the start            here
    K02  away for ten minutes           here; with traffic: e2e/test_api_restarts
    K03  restarted, versions go on      here; a hundred times: e2e/test_api_restarts
    K04  410, status and event          test_simulated_versions
    K05  the relist fails as well       test_simulated_versions
    K06  deleted while disconnected     test_simulated_versions
    K07  every watch ends at once       here; other endings: test_reflector
    K08  packets dropped, no FIN        test_simulated_network
    K09  stopped, the kernel answers    here; SIGSTOP: e2e/test_api_restarts
    K10  headers, or TLS, never come    here; test_simulated_network
    K11  stalls in the middle of a line here
    K12  the other replica is behind    test_simulated_versions
    K13  etcd restored                  test_simulated_versions
    K14  events out of order            test_event_order
    K15  slices before their Service    test_event_order
    K16  bookmarks; unknown things      test_simulated_versions; test_event_order
    K17  what cannot be read            test_reflector; every switch: test_simulated_objects
    K18  huge lists and objects         test_simulated_objects
    K19  objects that make no sense     test_simulated_objects
    K20  401, 403                       test_informer; while serving: here
    K21  TLS                            test_informer; expired: test_simulated_network
    K22  200 proxies restart at once    here
    K23  the wall clock is stepped      here
    K24  redirects, bombs, headers      test_informer
    K25  bugs behind the callbacks      test_informer
    K26  convergence                    convergence/test_api_history
"""

import ast
import asyncio
import contextlib
import itertools
import random
import time
from pathlib import Path

import pytest

import kproxy
from kproxy.simulator.api.server_faults import Kind
from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import backoff
from tests import virtual_time
from tests.sources.api.rig import simulated_api
from tests.sources.api.rig.simulated_api import Api, beside, until

HOURS = 2
STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["lists", "streams"])


def clock() -> float:
    return asyncio.get_running_loop().time()


@STREAMING
def test_k01_a_server_that_is_absent_for_a_minute_opens_nothing_early(streaming: bool) -> None:
    async def scenario() -> None:
        api = Api(streaming_lists=streaming)
        api.serve_web("10.1.0.1")
        await api.reserve_port()
        async with beside(api) as proxy:
            await asyncio.sleep(60)
            attempts = proxy.counters[0].failures[progress.Outcome.UNREACHABLE]
            assert 60 / 4 <= attempts <= 60  # 0.8 s, doubling to 4 s, each drawn from all of it
            assert (proxy.changes, proxy.plane.messages) == ([], [])
            assert len(proxy.told) == 2  # Services and endpoints, once each
            api.faults.set(Kind.INTERNAL_ERROR, resource="endpointslices")
            async with api.server:
                await until(lambda: proxy.counters[0].relists)
                await asyncio.sleep(60)
                assert not proxy.informed.has_synced
                assert (proxy.changes, proxy.plane.messages) == ([], [])
                api.faults.clear()
                await proxy.synced()
                assert proxy.table() == {"web": {"10.1.0.1"}}
                assert len(proxy.changes) == 1
                await until(lambda: not proxy.informed.problems())

    virtual_time.run(scenario)


def test_k02_ten_minutes_without_a_server_change_nothing_and_are_reported() -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(100)
            before, lost_at = proxy.state(), clock()
            await api.server.stop()
            ages = []
            for _ in range(10):
                await asyncio.sleep(60)
                assert proxy.state() == before
                for each in proxy.counters:
                    assert each.contact.failing_since is not None
                    assert each.contact.failing_since == pytest.approx(lost_at, abs=10)
                assert proxy.counters[0].contact.heard_at is not None
                ages.append(clock() - proxy.counters[0].contact.heard_at)
            assert ages == pytest.approx([60.0 * minute for minute in range(1, 11)], abs=5)
            assert "out of contact for 6" in proxy.informed.describe()
            assert len(proxy.told) == 2
            assert all("what was last known is served" in each for each in proxy.sentences())
            await api.server.start()
            await until(lambda: not proxy.informed.problems())
            assert "out of contact" not in proxy.informed.describe()
            assert proxy.relists() == {"start": 2}
            assert len(proxy.changes) == 1

    simulated_api.run(scenario)


@STREAMING
def test_k03_a_restart_means_no_list_and_loses_no_change(streaming: bool) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.put_service("old", "10.96.0.9")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            await api.server.stop()
            await asyncio.sleep(7)
            api.put_slice("web-1", "web", "10.1.0.2")
            api.put_slice("web-2", "web", "10.1.0.3")
            api.remove_service("old")
            await asyncio.sleep(7)
            assert proxy.table()["web"] == {"10.1.0.1"}
            await api.server.start()
            await until(lambda: proxy.table() == {"web": {"10.1.0.2", "10.1.0.3"}})
            assert proxy.relists() == {"start": 2}
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario, streaming_lists=streaming)


@pytest.mark.extra
def test_k03_a_hundred_restarts_mean_no_list_and_lose_no_change() -> None:
    async def scenario(api: Api) -> None:
        rng = random.Random(3)
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            for number in range(100):
                await asyncio.sleep(rng.uniform(0, 90))
                api.put_slice("web-1", "web", f"10.1.1.{number}")
                await api.server.stop()
                api.put_slice("web-2", "web", f"10.1.2.{number}")
                await asyncio.sleep(rng.uniform(0, 20))
                await api.server.start()
                wanted = {"web": {f"10.1.1.{number}", f"10.1.2.{number}"}}
                await until(lambda wanted=wanted: proxy.table() == wanted)  # type: ignore[misc]
            assert proxy.relists() == {"start": 2}
            assert proxy.state() == await simulated_api.fresh_start(api)

    simulated_api.run(scenario)


@pytest.mark.parametrize(
    "kind",
    [
        Kind.EMPTY_WATCH,
        pytest.param(Kind.ABRUPT_CLOSE, marks=pytest.mark.extra),
        pytest.param(Kind.GONE, marks=pytest.mark.extra),
        pytest.param(Kind.GONE_STATUS, marks=pytest.mark.extra),
    ],
)
@pytest.mark.parametrize(
    "streaming",
    [
        pytest.param(False, id="lists"),
        pytest.param(True, id="streams", marks=pytest.mark.extra),
    ],
)
def test_k07_watches_that_never_last_are_asked_for_with_patience(
    kind: Kind, streaming: bool
) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            api.faults.set(kind, verb="watch")
            await asyncio.sleep(600)
            before = [sum(each.failures.values()) for each in proxy.counters]
            await asyncio.sleep(HOURS * 3600)
            for each, begun in zip(proxy.counters, before, strict=True):
                asked = sum(each.failures.values()) - begun
                # Never more than backoff.LONGEST apart. A failed streaming list is no failure of
                # its own, but it is waited after like one: two waits for each that is counted.
                seldom = HOURS * 3600 / backoff.LONGEST / (2 if streaming else 1)
                assert seldom <= asked <= 0.22 * HOURS * 3600
            assert proxy.table() == {"web": {"10.1.0.1"}}
            assert len(proxy.changes) == 1
            assert len(proxy.told) <= 2
            api.faults.clear()
            api.put_slice("web-1", "web", "10.1.0.2")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})

    simulated_api.run(scenario, streaming_lists=streaming)


def test_k09_a_server_that_is_silent_is_left_for_another_before_its_watch_would_end() -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            # What is open stays open, as the kernel of a stopped process keeps it.
            api.faults.set(Kind.SILENT_WATCH, count=2)
            await asyncio.sleep(1)
            assert api.faults.active() == []
            silent_since = clock()
            api.put_slice("web-1", "web", "10.1.0.2")
            await asyncio.sleep(1)
            assert proxy.table() == {"web": {"10.1.0.1"}}
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})
            assert clock() - silent_since <= 5
            assert proxy.failures()[progress.Outcome.DEAF] == 1
            assert proxy.told == []  # a server may be silent when nothing changes
            assert proxy.relists() == {"start": 2}

    simulated_api.run(scenario)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_k10_headers_that_never_come_are_waited_for_30_seconds(verb: str) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        api.faults.set(Kind.STALLED_HEADERS, verb=verb, count=2)
        async with beside(api) as proxy:
            begun = clock()
            api.put_slice("web-1", "web", "10.1.0.2")
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})
            await until(lambda: all(each.watches for each in proxy.counters))
            assert 30 <= clock() - begun <= 30 + 2
            assert proxy.failures()[progress.Outcome.UNREACHABLE] == 2
            assert all("no answer within 30 s" in each for each in proxy.sentences())

    simulated_api.run(scenario, streaming_lists=False)


def test_k11_half_a_line_is_never_applied() -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            api.faults.set(Kind.HALF_LINE, resource="endpointslices", count=3)
            for number in range(2, 5):
                api.put_slice("web-1", "web", f"10.1.0.{number}")
                await asyncio.sleep(0.01)
                assert proxy.table() == {"web": {"10.1.0.1"}}
            await until(lambda: proxy.table() == {"web": {"10.1.0.4"}})
            # The second watch ends at once and without an event, and a list follows.
            assert proxy.counters[1].failures[progress.Outcome.BROKEN_OFF] == 2
            assert proxy.relists() == {"start": 2, "broken-off": 1}

    simulated_api.run(scenario)


@pytest.mark.parametrize("kind", [Kind.UNAUTHORIZED, Kind.FORBIDDEN])
def test_k20_a_refused_proxy_goes_on_serving_and_recovers_within_5_seconds(
    kind: Kind,
) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with beside(api) as proxy:
            await proxy.synced()
            await asyncio.sleep(1)
            api.faults.set(kind)
            api.faults.set(Kind.EMPTY_WATCH, count=2)
            api.put_slice("web-1", "web", "10.1.0.2")
            await asyncio.sleep(600)
            assert proxy.table() == {"web": {"10.1.0.1"}}
            assert len(proxy.informed.problems()) == 2
            if kind is Kind.FORBIDDEN:
                assert all(each.failures["forbidden"] <= 600 / 2 for each in proxy.counters)
            api.faults.clear()
            begun = clock()
            await until(lambda: proxy.table() == {"web": {"10.1.0.2"}})
            assert clock() - begun <= 5
            await until(lambda: not proxy.informed.problems())
            assert proxy.relists() == {"start": 2, kind.value: 2}
            assert simulated_api.TOKEN not in "".join(proxy.sentences())

    simulated_api.run(scenario)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(None, id="restart", marks=pytest.mark.extra),
        pytest.param(Kind.TOO_MANY_REQUESTS, id="429", marks=pytest.mark.extra),
    ],
)
def test_k22_two_hundred_proxies_that_lost_the_same_server_do_not_come_back_together(
    kind: Kind | None,
) -> None:
    async def scenario(api: Api) -> None:
        api.serve_web("10.1.0.1")
        async with contextlib.AsyncExitStack() as stack:
            proxies = [
                await stack.enter_async_context(beside(api, seed=seed)) for seed in range(200)
            ]
            await until(lambda: all(each.informed.has_synced for each in proxies))
            await asyncio.sleep(10)
            await api.server.stop()
            await asyncio.sleep(20)
            begun = clock()
            if kind is not None:
                api.faults.set(kind, count=200, seconds=45)
            await api.server.start()
            moments: dict[int, float] = {}
            before = [each.counters[1].watches for each in proxies]
            while len(moments) < len(proxies):
                for number, each in enumerate(proxies):
                    if each.counters[1].watches > before[number]:
                        moments.setdefault(number, clock() - begun)
                await asyncio.sleep(0.1)
                assert clock() - begun <= 120
            spread = sorted(moments.values())

            def busiest(of: list[float]) -> int:
                return max(
                    sum(start <= moment < start + 1 for moment in of) for start in range(120)
                )

            # Waits are drawn from [0, SOON), so what is left of one when the server is back is in
            # its first second for 1/2 - 1/16 = 7/16 of the proxies; with three deviations of 7.
            # Of those that 429 meets half are early; the other half come within what is left.
            assert backoff.SOON == 4.0
            assert busiest(spread) <= 200 * 7 / 16 + 3 * 7
            assert spread[-1] - spread[0] >= (3 if kind is None else 8)
            if kind is not None:
                # Those that were turned away kept away for as long as they were asked to.
                late = [moment for moment in spread if moment >= 45]
                assert len(late) >= 50
                assert busiest(late) <= 50

    simulated_api.run(scenario)


def test_k23_a_wall_clock_that_is_stepped_all_the_time_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(api: Api) -> list[object]:
        api.serve_web("10.1.0.1")
        seen: list[object] = []
        async with beside(api) as proxy:
            await proxy.synced()
            for number in range(20):
                api.put_slice("web-1", "web", f"10.1.0.{number + 1}")
                if number % 5 == 4:
                    await api.server.stop()
                    await asyncio.sleep(40)
                    await api.server.start()
                await asyncio.sleep(100)
                seen += [proxy.table(), *((c.watches, c.failures.copy()) for c in proxy.counters)]
            return [*seen, proxy.relists(), [round(moment, 1) for moment, _ in proxy.changes]]

    undisturbed = simulated_api.run(scenario)
    wall, steps = time.time, itertools.cycle([3600.0, -3600.0])
    monkeypatch.setattr(time, "time", lambda: wall() + next(steps))
    assert simulated_api.run(scenario) == undisturbed


def test_k23_nothing_that_decides_reads_the_wall_clock() -> None:
    """Except for when credentials expire, which plugins tell in Unix time (sources/api/client)."""
    root = Path(kproxy.__file__).parent
    asked = {
        str(path.relative_to(root))
        for layer in ("balancer", "sources", "datapath", "portal", "reconcile")
        for path in (root / layer).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if _is_wall_clock(node)
    }
    assert asked == {"sources/api/client.py"}


def _is_wall_clock(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr)
        in {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("dt", "now")}
    )
