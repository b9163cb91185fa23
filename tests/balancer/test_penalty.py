"""The penalty box: when a backend goes in, when it is probed, when it comes out."""

import pytest

from kproxy.balancer import penalty
from kproxy.model import addresses

A = addresses.SocketAddress("10.0.0.1", 80)
B = addresses.SocketAddress("10.0.0.2", 80)
C = addresses.SocketAddress("10.0.0.3", 80)


class Recorder:
    """A watcher that records its notifications."""

    def __init__(self) -> None:
        self.notified: list[tuple[addresses.SocketAddress, bool]] = []

    def penalty_changed(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        self.notified.append((backend, boxed))


@pytest.fixture
def watcher() -> Recorder:
    return Recorder()


@pytest.fixture
def box(watcher: Recorder) -> penalty.PenaltyBox:
    box = penalty.PenaltyBox()
    for backend in (A, B, C):
        assert box.watch(backend, watcher) is False
    return box


def fail_probe(box: penalty.PenaltyBox, backend: addresses.SocketAddress, now: float) -> None:
    assert backend in box.due_probes(now)
    box.probe_started(backend)
    assert box.fail(backend, now) is False


def test_an_unused_box_is_empty(box: penalty.PenaltyBox) -> None:
    assert not box
    assert len(box) == 0
    assert box.next_due() is None
    assert box.due_probes(1e9) == []
    assert box.snapshot() == []
    assert box.until(A) is None


def test_the_first_failure_boxes_a_backend_for_one_second(
    box: penalty.PenaltyBox, watcher: Recorder
) -> None:
    assert box.fail(A, 100.0) is True
    assert box
    assert A in box
    assert B not in box
    assert watcher.notified == [(A, True)]
    assert box.until(A) == box.next_due() == 101.0
    assert box.snapshot() == [penalty.Penalty(A, 101.0, 1, False)]


def test_penalties_double_with_each_failed_probe_up_to_thirty_seconds(
    box: penalty.PenaltyBox,
) -> None:
    box.fail(A, 0.0)
    penalties = []
    now = 0.0
    for _ in range(8):
        due = box.next_due()
        assert due is not None
        penalties.append(due - now)
        now = due
        fail_probe(box, A, now)
    assert penalties == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_backend_that_is_dead_for_years_stays_at_the_longest_penalty(
    box: penalty.PenaltyBox,
) -> None:
    box.fail(A, 0.0)
    now = 0.0
    for _ in range(2000):
        now = box.next_due() or now
        fail_probe(box, A, now)
    assert box.next_due() == now + penalty.LONGEST_PENALTY


def test_success_frees_and_forgets_the_doubling(box: penalty.PenaltyBox, watcher: Recorder) -> None:
    box.fail(A, 0.0)
    fail_probe(box, A, 1.0)
    box.probe_started(A)
    box.succeed(A)
    assert not box
    assert box.next_due() is None
    assert watcher.notified == [(A, True), (A, False)]
    assert box.fail(A, 10.0) is True
    assert box.until(A) == 11.0


def test_a_clients_successful_dial_frees_as_well(box: penalty.PenaltyBox) -> None:
    box.fail(A, 0.0)
    box.succeed(A)
    assert not box
    assert box.next_due() is None


def test_success_of_a_free_backend_notifies_no_watcher(
    box: penalty.PenaltyBox, watcher: Recorder
) -> None:
    box.succeed(A)
    assert watcher.notified == []


def test_time_alone_frees_no_backend(box: penalty.PenaltyBox) -> None:
    box.fail(A, 0.0)
    assert box.due_probes(1e6) == [A]
    assert A in box


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([0.1, 0.2, 0.9], id="during the penalty"),
        pytest.param([1.0, 1.5, 3.0], id="after it, before the probe"),
    ],
)
def test_failures_of_clients_neither_double_the_penalty_nor_delay_the_probe(
    box: penalty.PenaltyBox, watcher: Recorder, failures: list[float]
) -> None:
    box.fail(A, 0.0)
    for now in failures:
        assert box.fail(A, now) is False
    assert box.snapshot() == [penalty.Penalty(A, 1.0, 1, False)]
    assert watcher.notified == [(A, True)]


def test_failures_while_a_probe_runs_double_once_per_penalty(box: penalty.PenaltyBox) -> None:
    box.fail(A, 0.0)
    box.probe_started(A)
    for now in (1.0, 1.1, 1.2):
        box.fail(A, now)
    assert box.snapshot() == [penalty.Penalty(A, 3.0, 2, False)]


def test_a_probe_is_due_when_the_penalty_has_run_out_and_not_before(
    box: penalty.PenaltyBox,
) -> None:
    box.fail(A, 0.0)
    assert box.due_probes(0.999) == []
    assert box.due_probes(1.0) == [A]
    assert box.due_probes(1.0) == [A]


def test_a_running_probe_is_not_due_again(box: penalty.PenaltyBox) -> None:
    box.fail(A, 0.0)
    box.probe_started(A)
    box.probe_started(A)
    assert box.due_probes(100.0) == []
    assert box.next_due() is None
    assert box.snapshot() == [penalty.Penalty(A, 1.0, 1, True)]


def test_due_probes_come_longest_overdue_first(box: penalty.PenaltyBox) -> None:
    box.fail(C, 0.0)
    box.fail(A, 0.5)
    box.fail(B, 0.2)
    assert box.next_due() == 1.0
    assert box.due_probes(1.2) == [C, B]
    assert box.due_probes(1.5) == [C, B, A]
    box.probe_started(C)
    assert box.next_due() == 1.2


def test_a_late_watcher_learns_that_the_backend_is_boxed(box: penalty.PenaltyBox) -> None:
    box.fail(A, 0.0)
    late = Recorder()
    assert box.watch(A, late) is True
    box.succeed(A)
    assert late.notified == [(A, False)]


def test_each_watcher_is_notified_once_and_only_of_its_own_backends(
    box: penalty.PenaltyBox,
) -> None:
    other = Recorder()
    box.watch(A, other)
    box.watch(A, other)
    box.fail(A, 0.0)
    box.fail(B, 0.0)
    assert other.notified == [(A, True)]


@pytest.mark.parametrize("probing", [False, True])
def test_a_backend_is_forgotten_with_its_last_watcher(
    box: penalty.PenaltyBox, watcher: Recorder, probing: bool
) -> None:
    other = Recorder()
    box.watch(A, other)
    box.fail(A, 0.0)
    if probing:
        box.probe_started(A)
    box.unwatch(A, watcher)
    assert A in box
    box.unwatch(A, other)
    assert not box
    assert box.due_probes(1e9) == []
    box.fail(A, 2.0)
    box.succeed(A)
    assert not box
    assert other.notified == [(A, True)]
    assert box.watch(A, watcher) is False


def test_unwatching_what_is_not_watched_does_nothing(box: penalty.PenaltyBox) -> None:
    box.unwatch(addresses.SocketAddress("10.9.9.9", 1), Recorder())
    box.unwatch(A, Recorder())
    assert box.fail(A, 0.0) is True


def test_failure_of_an_unwatched_backend_is_ignored() -> None:
    box = penalty.PenaltyBox()
    assert box.fail(A, 0.0) is False
    box.probe_started(A)
    assert not box
    assert box.next_due() is None


class TestOwnAddresses:
    def test_a_barred_backend_is_out_of_reach_and_not_probed(self, watcher: Recorder) -> None:
        box = penalty.PenaltyBox()
        box.watch(A, watcher)
        box.fail(A, 0.0)
        box.bar(A, "default/web")
        assert watcher.notified == [(A, True), (A, True)]
        assert box.owner(A) == "default/web"
        assert box.owner(B) is None
        assert A not in box
        assert box.due_probes(1e9) == []
        assert box.fail(A, 1.0) is False
        box.succeed(A)
        assert watcher.notified[2:] == []
        assert box.watch(A, watcher) is True
        box.unbar(A)
        box.unbar(A)
        assert watcher.notified[2:] == [(A, False)]
        assert box.owner(A) is None

    def test_an_unwatched_address_can_be_barred(self, watcher: Recorder) -> None:
        box = penalty.PenaltyBox()
        box.bar(A, "default/web")
        assert box.watch(A, watcher) is True
        box.unwatch(A, watcher)
        box.unbar(A)
        assert watcher.notified == []

    @pytest.mark.parametrize("every", ["0.0.0.0", "::"])
    def test_a_port_on_every_address_bars_the_host_s_own(
        self, watcher: Recorder, every: str
    ) -> None:
        box = penalty.PenaltyBox(lambda address: address in ("127.0.0.1", "10.0.0.1"))
        local = addresses.SocketAddress("10.0.0.1", 10256)
        remote = addresses.SocketAddress("10.0.0.2", 10256)
        box.watch(local, watcher)
        box.watch(remote, watcher)
        box.watch(A, watcher)
        box.bar(addresses.SocketAddress(every, 10256), "kproxy's healthz")
        assert watcher.notified == [(local, True)]
        assert box.owner(local) == "kproxy's healthz"
        assert box.watch(addresses.SocketAddress("127.0.0.1", 10256), watcher) is True
        assert box.owner(remote) is None
