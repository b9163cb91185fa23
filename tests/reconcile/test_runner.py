"""When the runner syncs: pacing by a pure clock, the rest on a loop whose clock jumps.

Behaviour: row 47 of docs/behaviour.md.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator

import pytest
import structlog.testing

from kproxy import turns
from kproxy.reconcile import runner
from tests import virtual_time


def spent(pacing: runner.Pacing, requests: list[float]) -> list[float]:
    """When syncs run that are asked for at `requests`, each as soon as it is allowed."""
    ran: list[float] = []
    for request in requests:
        at = max([request, *ran[-1:]])
        at += pacing.delay(at)
        pacing.spend(at)
        ran.append(at)
    return ran


@pytest.mark.parametrize(
    ("interval", "burst", "requests", "ran"),
    [
        pytest.param(1.0, 2, [0, 0], [0, 0], id="a burst of two at once"),
        pytest.param(1.0, 2, [0, 0, 0, 0], [0, 0, 1, 2], id="then one per interval"),
        pytest.param(1.0, 1, [0, 0, 0], [0, 1, 2], id="without a burst"),
        pytest.param(1.0, 2, [0, 0, 0.5], [0, 0, 1], id="half an interval earns half a sync"),
        pytest.param(1.0, 2, [0, 0, 1, 2, 3], [0, 0, 1, 2, 3], id="no faster, no delay"),
        pytest.param(1.0, 2, [0, 0, 9, 9, 9], [0, 0, 9, 9, 10], id="quiet earns one burst only"),
        pytest.param(1.0, 2, [0, 0, 1.5, 1.5], [0, 0, 1.5, 2], id="a fraction is kept"),
        pytest.param(0.05, 2, [0, 0, 0], [0, 0, 0.05], id="another interval"),
        pytest.param(1.0, 2, [7, 7, 7], [7, 7, 8], id="the clock starts anywhere"),
        pytest.param(0.0, 1, [0, 0, 0, 0], [0, 0, 0, 0], id="no interval, no limit"),
    ],
)
def test_a_burst_at_once_and_then_one_sync_per_interval(
    interval: float, burst: int, requests: list[float], ran: list[float]
) -> None:
    assert spent(runner.Pacing(interval, burst), requests) == pytest.approx(ran)


class Rig:
    """A runner whose syncs are recorded with their time: ("sync" or "full", seconds)."""

    def __init__(self, *, interval: float = 0.05, period: float = 30.0) -> None:
        self.ran: list[tuple[str, float]] = []
        self.wants_retry = False
        self.on_sync: Callable[[], None] = lambda: None
        self.steps = 0
        self.worked = 0.0
        """Seconds that steps have taken: each claims a millisecond."""
        self.runner = runner.Runner(
            lambda: self._record("sync"),
            lambda: self._record("full"),
            lambda: self.wants_retry,
            interval=interval,
            period=period,
            stopwatch=lambda: self.worked,
        )

    def _record(self, kind: str) -> Iterator[None]:
        self.ran.append((kind, round(asyncio.get_running_loop().time(), 6)))
        self.on_sync()
        for _ in range(self.steps):
            self.worked += 0.001
            yield

    def times(self, kind: str) -> list[float]:
        return [at for each, at in self.ran if each == kind]


def play(rig: Rig, script: Callable[[], Awaitable[None]]) -> list[tuple[str, float]]:
    """Run `script` beside the runner, then end it; what ran."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(rig.runner.run())
            await script()
            running.cancel()

    virtual_time.run(main)
    return rig.ran


def test_a_request_in_a_quiet_time_is_served_at_once() -> None:
    rig = Rig()

    async def script() -> None:
        await asyncio.sleep(5)
        rig.runner.request()
        await asyncio.sleep(1)

    assert play(rig, script) == [("sync", 5)]


def test_a_look_at_everything_comes_soon_when_it_is_asked_for() -> None:
    rig = Rig()

    async def script() -> None:
        await asyncio.sleep(5)
        rig.runner.request_full()
        rig.runner.request()
        await asyncio.sleep(1)
        rig.runner.request()
        await asyncio.sleep(1)

    assert play(rig, script) == [("full", 5), ("sync", 6)]


def test_requests_of_one_moment_are_one_sync() -> None:
    rig = Rig()

    async def script() -> None:
        for _ in range(100):
            rig.runner.request()
        await asyncio.sleep(1)

    assert play(rig, script) == [("sync", 0)]


def test_a_stream_of_requests_is_paced_and_the_last_one_is_served() -> None:
    rig = Rig(interval=0.05)

    async def script() -> None:
        for _ in range(100):  # one endpoint flapping at 100 Hz, docs/faults.md C13
            rig.runner.request()
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)

    play(rig, script)
    times = rig.times("sync")
    for count, at in enumerate(times, 1):
        assert count <= 2 + at / 0.05 + 1e-6
    assert len(times) >= 1 / 0.05
    assert times[-1] >= 0.99


def test_a_request_while_a_sync_runs_is_not_lost() -> None:
    rig = Rig()

    def again() -> None:
        if len(rig.ran) < 3:
            rig.runner.request()

    rig.on_sync = again

    async def script() -> None:
        rig.runner.request()
        await asyncio.sleep(1)

    assert play(rig, script) == [("sync", 0), ("sync", 0), ("sync", 0.05)]


def test_others_have_their_turn_while_a_long_sync_runs() -> None:
    rig = Rig()
    rig.steps = 100
    seen: list[float] = []

    async def script() -> None:
        rig.runner.request()
        while rig.worked < 0.1:
            await asyncio.sleep(0)
            seen.append(rig.worked)

    play(rig, script)
    gaps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert max(gaps) <= turns.SLICE + 0.001


def test_without_a_request_everything_is_looked_at_periodically() -> None:
    rig = Rig(period=30)
    assert play(rig, lambda: asyncio.sleep(100)) == [("full", 30), ("full", 60), ("full", 90)]


def test_a_sync_on_request_does_not_put_the_full_one_off() -> None:
    rig = Rig(period=30)

    async def script() -> None:
        await asyncio.sleep(29)
        rig.runner.request()
        await asyncio.sleep(2)

    assert play(rig, script) == [("sync", 29), ("full", 30)]


def test_a_constant_stream_of_requests_does_not_keep_the_full_sync_away() -> None:
    rig = Rig(interval=1, period=30)

    async def script() -> None:
        for _ in range(1000):
            rig.runner.request()
            await asyncio.sleep(0.1)

    play(rig, script)
    full = rig.times("full")
    assert len(full) == 3
    for nth, at in enumerate(full, 1):
        assert 30 * nth <= at <= 30 * nth + nth * 1.0 + 1e-6
    assert len(rig.ran) <= 2 + 100


def test_nor_does_it_when_every_sync_brings_another_request() -> None:
    rig = Rig(interval=1, period=30)
    rig.on_sync = rig.runner.request
    rig.runner.request()
    play(rig, lambda: asyncio.sleep(100))
    assert rig.times("full") == [30, 60, 90]


def test_what_failed_is_retried_after_1_s_and_then_ever_later_up_to_30_s() -> None:
    rig = Rig(period=3600)

    async def script() -> None:
        rig.wants_retry = True
        rig.runner.request()
        await asyncio.sleep(130)

    assert play(rig, script) == [
        ("sync", 0),
        *(("full", at) for at in (1, 3, 7, 15, 31, 61, 91, 121)),
    ]


def test_what_failed_in_a_periodic_sync_is_first_retried_after_1_s_too() -> None:
    rig = Rig(period=30)

    def fail() -> None:
        rig.wants_retry = True

    rig.on_sync = fail
    assert play(rig, lambda: asyncio.sleep(36)) == [("full", 30), ("full", 31), ("full", 33)]


def test_retries_never_come_later_than_the_periodic_sync_would() -> None:
    rig = Rig(period=5)
    rig.wants_retry = True
    rig.runner.request()
    play(rig, lambda: asyncio.sleep(23))
    assert rig.times("full") == [1, 3, 7, 12, 17, 22]


def test_requests_neither_hasten_nor_delay_the_retries() -> None:
    rig = Rig(period=3600)

    async def script() -> None:
        rig.wants_retry = True
        for _ in range(80):
            rig.runner.request()
            await asyncio.sleep(0.1)

    play(rig, script)
    assert rig.times("full") == pytest.approx([1, 3, 7], abs=0.11)


def test_after_a_success_the_next_failure_starts_at_1_s_again() -> None:
    rig = Rig(period=3600)

    async def script() -> None:
        rig.wants_retry = True
        rig.runner.request()
        await asyncio.sleep(6.9)  # full syncs at 1 and 3; the one at 7 finds nothing failed
        rig.wants_retry = False
        await asyncio.sleep(93.1)
        rig.wants_retry = True
        rig.runner.request()
        await asyncio.sleep(3.5)

    assert play(rig, script) == [
        ("sync", 0),
        *(("full", at) for at in (1, 3, 7)),
        ("sync", 100),
        *(("full", at) for at in (101, 103)),
    ]


def test_a_sync_that_raises_is_counted_and_logged_and_the_runner_lives() -> None:
    rig = Rig(period=30)

    def fail() -> None:
        if len(rig.ran) <= 2:
            raise RuntimeError("a bug")

    rig.on_sync = fail

    async def script() -> None:
        rig.runner.request()
        await asyncio.sleep(31)
        rig.runner.request()
        await asyncio.sleep(1)

    with structlog.testing.capture_logs() as logs:
        ran = play(rig, script)
    assert ran == [("sync", 0), ("full", 30), ("sync", 31)]
    assert rig.runner.failures == 2
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "internal error: sync failed, retrying at the next full sync")
    ] * 2


def test_a_loop_on_which_nothing_can_happen_any_more_is_an_error_and_no_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(virtual_time.StuckError):
        virtual_time.run(main)
