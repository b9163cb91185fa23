"""When a proxy is well, alive and ready, by a clock that the test turns."""

import contextlib

import pytest

from kproxy.ops import health
from kproxy.ops.serving import heads
from tests.ops import recordings


class Clock:
    """Monotonic seconds and Unix nanoseconds, as far apart as they may be."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> int:
        return 1_795_171_900_348_238_093 + round((self.now - 1000.0) * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def syncs(clock: Clock) -> health.SyncRecord:
    return health.SyncRecord(lambda: clock.now, clock.wall)


def sync(syncs: health.SyncRecord) -> None:
    with syncs.sync():
        pass


def test_before_the_first_sync_it_is_alive_and_not_ready(
    syncs: health.SyncRecord, clock: Clock
) -> None:
    clock.now += 3600

    assert syncs.is_alive
    assert not syncs.is_ready
    assert '"lastUpdated": "0001-01-01 00:00:00 +0000 UTC"' in syncs.report(is_well=False)

    sync(syncs)

    assert syncs.is_ready


def test_a_change_may_be_pending_for_a_minute(syncs: health.SyncRecord, clock: Clock) -> None:
    sync(syncs)
    syncs.queue()
    clock.now += 59.9
    assert syncs.is_ready

    clock.now += 0.1

    assert not syncs.is_alive
    assert not syncs.is_ready

    sync(syncs)

    assert syncs.is_ready


def test_a_steady_stream_of_changes_does_not_hide_a_hang(
    syncs: health.SyncRecord, clock: Clock
) -> None:
    sync(syncs)
    for _ in range(61):
        syncs.queue()
        clock.now += 1

    assert not syncs.is_alive


def test_a_quiet_proxy_stays_well(syncs: health.SyncRecord, clock: Clock) -> None:
    sync(syncs)
    clock.now += 86400

    assert syncs.is_ready


def test_syncs_that_fail_leave_their_work_pending(syncs: health.SyncRecord, clock: Clock) -> None:
    sync(syncs)
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError), syncs.sync():
            raise ZeroDivisionError
        clock.now += 30

    assert not syncs.is_alive
    assert syncs.durations.cumulative()[-1] == (float("inf"), 1)


def test_what_is_queued_during_a_sync_is_pending_after_it(
    syncs: health.SyncRecord, clock: Clock
) -> None:
    with syncs.sync():
        clock.now += 40
        syncs.queue()
        clock.now += 10
    assert syncs.is_ready

    clock.now += 50

    assert not syncs.is_alive


def test_a_sync_that_hangs_is_noticed(syncs: health.SyncRecord, clock: Clock) -> None:
    sync(syncs)
    with syncs.sync():
        clock.now += 60

        assert not syncs.is_alive


def test_stopping_ends_readiness_and_not_life(syncs: health.SyncRecord) -> None:
    sync(syncs)

    syncs.stop()

    assert syncs.is_alive
    assert not syncs.is_ready


def test_an_unhealthy_report_has_the_time_of_the_last_sync(
    syncs: health.SyncRecord, clock: Clock
) -> None:
    clock.now += 9.0
    sync(syncs)
    then = syncs.now()
    clock.now += 100.0

    assert syncs.report(is_well=False) == (
        f'{{"lastUpdated": "{then}","currentTime": "{syncs.now()}"}}'
    )
    assert then != syncs.now()


def test_a_healthy_report_is_kube_proxys_to_the_byte(syncs: health.SyncRecord) -> None:
    _, _, recorded = recordings.answer("healthz.http.txt")

    assert recordings.masked(recorded) == b'{"lastUpdated": "T0","currentTime": "T0"}'
    assert recordings.masked(syncs.report(is_well=True).encode()) == recordings.masked(recorded)


@pytest.mark.parametrize(
    ("wall", "since_start", "expected"),
    [
        pytest.param(
            1_795_171_900_348_238_093,
            9.0543979,
            "2026-11-20 10:51:40.348238093 +0000 UTC m=+9.054397900",
            id="as recorded",
        ),
        pytest.param(
            1_795_171_900_340_000_000,
            0.25,
            "2026-11-20 10:51:40.34 +0000 UTC m=+0.250000000",
            id="zeros at the end of the fraction",
        ),
        pytest.param(
            1_795_171_900_000_000_000,
            0.0,
            "2026-11-20 10:51:40 +0000 UTC m=+0.000000000",
            id="a whole second",
        ),
    ],
)
def test_time_is_written_as_go_does(wall: int, since_start: float, expected: str) -> None:
    assert health.go_time(wall, since_start) == expected


async def test_row_49_a_node_that_is_about_to_go_fails_healthz_and_not_livez(
    syncs: health.SyncRecord,
) -> None:
    sync(syncs)
    site = health.make_site(syncs)
    request = heads.Request("GET", "/", {}, is_http_10=False, keeps_alive=True, accepts_gzip=False)
    for is_leaving, status in ((False, 200), (True, 503), (False, 200)):
        syncs.note_leaving(is_leaving=is_leaving)
        found = [await site.routes[path](request) for path in ("/healthz", "/livez")]
        assert [each.status for each in found] == [status, 200]
    assert syncs.is_ready
