"""The generator: its counts are exact, and its latencies hide nothing."""

import contextlib
import math
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy import errors
from kproxy.bench.lab import network
from kproxy.bench.load import closedloop, http1, loading, messages
from tests.bench import servers
from tests.datapath.rig import harness

pytestmark = pytest.mark.xdist_group("time")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is given up because this machine is busy."""
    monkeypatch.setattr(closedloop, "_STUCK", 20.0)


@pytest.fixture
def generator() -> Iterator[loading.Generator]:
    with contextlib.closing(loading.Generator()) as generator:
        yield generator


def _carry_out(plan: messages.Plan) -> messages.Outcome:
    with contextlib.closing(loading.Generator()) as generator:
        return generator.carry_out(plan)


def test_short_connections_are_counted_exactly() -> None:
    with servers.plain() as server:
        outcome = _carry_out(
            messages.Plan(
                kind="connect", target=server.address, connections=4, count=50, seconds=20
            )
        )
    assert outcome.failures == {}
    assert outcome.done == len(outcome.times) == server.answered == 50


def test_requests_are_counted_exactly_and_share_their_connections() -> None:
    with servers.plain() as server:
        outcome = _carry_out(
            messages.Plan(
                kind="request", target=server.address, connections=4, count=100, seconds=20
            )
        )
    assert outcome.failures == {}
    assert outcome.done == len(outcome.times) == 100
    assert server.answered == 4 + 100  # one each before the clock started
    assert server.accepted == 4


@pytest.mark.parametrize("kind", ["connect", "request"])
def test_what_is_under_way_when_the_time_is_up_is_waited_for_and_counted(
    kind: Literal["connect", "request"],
) -> None:
    first = 4 if kind == "request" else 0  # before the clock starts
    # One of the four that are sent at once: on a busy machine there is no time for more.
    with servers.plain(stall_at=first + 2, stall_s=0.1) as server:
        outcome = _carry_out(
            messages.Plan(kind=kind, target=server.address, connections=4, seconds=0.01)
        )
        assert outcome.done == len(outcome.times) == server.answered - first
    assert outcome.failures == {}
    assert outcome.seconds >= 0.1


def test_an_answer_that_never_comes_is_a_failure_of_a_closed_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closedloop, "_STUCK", 0.0)
    with servers.plain(stall_at=3, stall_s=math.inf) as server:
        plan = messages.Plan(
            kind="connect", target=server.address, connections=4, count=4, seconds=2.0
        )
        outcome = _carry_out(plan)
    assert (outcome.done, outcome.failures) == (2, {"no answer": 2})
    assert outcome.seconds < plan.seconds  # to the last answer, not to the end of waiting


def test_fewer_requests_than_connections_leave_some_unused(generator: loading.Generator) -> None:
    with servers.plain() as server:
        plan = messages.Plan(kind="request", target=server.address, connections=5, count=2)
        outcome = generator.carry_out(plan)
        assert (outcome.done, outcome.failures) == (2, {})


def test_kept_connections_are_used_again_by_the_next_plan_with_their_target(
    generator: loading.Generator,
) -> None:
    with servers.plain() as one, servers.plain() as other:
        for server in (one, other, one, other):
            plan = messages.Plan(
                kind="request",
                target=server.address,
                connections=3,
                count=10,
                seconds=20,
                keep=True,
            )
            assert generator.carry_out(plan).done == 10
        assert (one.accepted, other.accepted) == (3, 3)
        assert (one.answered, other.answered) == (23, 23)


def test_kept_connections_are_replaced_when_one_of_them_was_lost(
    generator: loading.Generator,
) -> None:
    with servers.plain() as server:
        plan = messages.Plan(
            kind="request", target=server.address, connections=3, count=10, seconds=20, keep=True
        )
        assert generator.carry_out(plan).done == 10
        server.hang_up()
        assert generator.carry_out(plan).failures
        assert generator.carry_out(plan).done == 10
        assert server.accepted == 6


@pytest.mark.parametrize("kind", ["request", "rate"])
def test_a_plan_that_keeps_nothing_leaves_nothing_open(
    generator: loading.Generator, kind: Literal["request", "rate"]
) -> None:
    with servers.plain() as server:
        plan = messages.Plan(
            kind=kind, target=server.address, connections=3, count=10, seconds=0.05, rate=100
        )
        generator.carry_out(plan)
        generator.carry_out(plan)
        assert server.accepted == 6


def test_a_plan_of_another_kind_closes_what_was_kept(generator: loading.Generator) -> None:
    with servers.plain() as server:
        plan = messages.Plan(
            kind="request", target=server.address, connections=3, count=10, seconds=20, keep=True
        )
        generator.carry_out(plan)
        generator.carry_out(messages.Plan(kind="connect", target=server.address, count=1))
        generator.carry_out(plan)
        assert server.accepted == 3 + 1 + 3


def test_plans_are_carried_out_however_many_files_are_open(generator: loading.Generator) -> None:
    """Waiting for microseconds takes select(2), which knows 1,024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        harness.open_files_limit(most),
        contextlib.ExitStack() as stack,
        servers.plain() as server,
    ):
        for _ in range(1100):
            stack.enter_context(socket.socket())
        plans: tuple[tuple[messages.Kind, float], ...] = (
            ("connect", 20),
            ("request", 20),
            ("rate", 0.05),
            ("arrivals", 0.05),
        )
        for kind, seconds in plans:
            plan = messages.Plan(
                kind=kind, target=server.address, connections=2, count=5, seconds=seconds, rate=100
            )
            outcome = generator.carry_out(plan)
            assert (outcome.done, outcome.failures) == (5, {})


def test_an_open_loop_sends_every_request_that_is_due() -> None:
    with servers.plain() as server:
        outcome = _carry_out(
            messages.Plan(kind="rate", target=server.address, connections=3, rate=500, seconds=0.2)
        )
    assert (outcome.done, len(outcome.times), outcome.failures) == (100, 100, {})
    assert server.answered == 103


def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    # 100 requests, one each 5 ms; the 20th answer takes 250 ms, in which 50 others are due. A
    # generator that waited would see one slow request (coordinated omission).
    with servers.plain(stall_at=22, stall_s=0.25) as server:
        outcome = _carry_out(
            messages.Plan(kind="rate", target=server.address, connections=2, rate=200, seconds=0.5)
        )
    assert outcome.done == 100
    assert sum(time > 0.125 for time in outcome.times) >= 24  # half of those due in the stall
    assert max(outcome.times) >= 0.24


def test_arrivals_come_at_their_rate_through_a_stall() -> None:
    with servers.plain(stall_at=10, stall_s=0.25) as server:
        outcome = _carry_out(
            messages.Plan(kind="arrivals", target=server.address, rate=200, seconds=0.4)
        )
    assert outcome.done == 80
    assert server.accepted == 80
    assert sum(time > 0.125 for time in outcome.times) >= 24


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "closed without an answer", id="no-answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", "ValueError", id="an-answer-without-length"),
    ],
)
def test_what_is_no_answer_is_a_failure(answer: bytes, reason: str) -> None:
    with servers.plain(answer) as server:
        outcome = _carry_out(
            messages.Plan(kind="arrivals", target=server.address, rate=500, seconds=0.02)
        )
    assert outcome.done == 0
    assert outcome.failures == {reason: 10}


def test_an_answer_that_does_not_come_in_time_is_a_failure() -> None:
    with servers.plain(stall_at=1, stall_s=math.inf) as server:
        outcome = _carry_out(
            messages.Plan(
                kind="arrivals", target=server.address, rate=100, seconds=0.05, patience=0.1
            )
        )
    assert outcome.failures == {"no answer": 5}


def test_a_refused_connection_is_a_failure_of_an_open_loop() -> None:
    [unused] = network.free_addresses(1)
    outcome = _carry_out(messages.Plan(kind="arrivals", target=unused, rate=500, seconds=0.01))
    assert outcome.failures == {"ConnectionRefusedError": 5}


def test_a_closed_loop_ends_when_everybody_is_refused() -> None:
    [unused] = network.free_addresses(1)
    outcome = _carry_out(messages.Plan(kind="connect", target=unused, connections=3, seconds=60))
    assert outcome.failures == {"ConnectionRefusedError": 3}


def test_a_truncated_answer_is_a_failure_of_a_short_connection() -> None:
    with servers.plain(http1.answer(80)[:-1]) as server:
        outcome = _carry_out(
            messages.Plan(kind="connect", target=server.address, connections=1, seconds=0.05)
        )
    assert outcome.done == 0
    assert set(outcome.failures) == {"closed without a whole answer"}


def test_held_connections_stay_until_the_next_plan(generator: loading.Generator) -> None:
    with servers.plain() as server:
        plan = messages.Plan(kind="hold", target=server.address, connections=5)
        assert generator.carry_out(plan).done == 5
        assert server.accepted == 5


def test_a_pool_divides_a_plan_and_adds_up_what_came_of_it(tmp_path: Path) -> None:
    with servers.plain() as server, loading.start(2, tmp_path) as pool:
        outcome = pool.run(
            messages.Plan(kind="rate", target=server.address, connections=4, rate=500, seconds=0.2)
        )
        assert outcome.done == 100
        assert server.accepted == 4


def test_a_pool_goes_on_after_a_target_that_does_not_answer(tmp_path: Path) -> None:
    [unused] = network.free_addresses(1)
    with servers.plain() as server, loading.start(2, tmp_path) as pool:
        with pytest.raises(errors.KproxyError, match="does not answer: Connection refused"):
            pool.run(messages.Plan(kind="hold", target=unused, connections=4))
        plan = messages.Plan(kind="hold", target=server.address, connections=4)
        assert pool.run(plan).done == 4


@given(
    st.integers(1, 2000), st.integers(1, 16), st.sampled_from(["connect", "rate", "hold", "bulk"])
)
def test_the_parts_of_a_plan_together_are_the_plan(
    connections: int, count: int, kind: messages.Kind
) -> None:
    plan = messages.Plan(
        kind=kind, target=network.Address("127.0.0.1", 1), connections=connections, rate=1000.0
    )
    parts = loading.divided(plan, count)
    assert len(parts) == min(count, connections)
    assert sum(part.connections for part in parts) == connections
    assert sum(part.rate for part in parts) == pytest.approx(1000)
    assert min(part.connections for part in parts) >= 1
