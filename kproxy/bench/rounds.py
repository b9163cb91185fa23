"""Interleaved rounds: every subject is measured once per round, and the order rotates.

All subjects run while the rounds last (who is not loaded costs nothing), so that what disturbs the
machine for some seconds falls on all of them alike, and a ratio within a round means something.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from kproxy import errors
from kproxy.bench import headroom, messages, processes, recording, rig
from kproxy.bench.subjects import subject

WARM_UP = 64
START_S = 0.2
"""What it takes to start and warm up a subject, on average: for the plan of a run."""

_T = TypeVar("_T")


class Result(NamedTuple):
    """The figure of one turn that is worth showing while the run lasts."""

    value: float
    unit: str


class Loaded(NamedTuple):
    """What came of a load, and the CPU seconds that the subject spent on it."""

    outcome: messages.Outcome
    usage: processes.Usage


def interleave(
    lab: rig.Rig,
    into: recording.Recording,
    plan: messages.Plan,
    services: subject.Services,
    rounds: int,
    seconds: float,
    measure: Callable[[str, subject.Running, int], Result],
) -> None:
    """Start every subject, warm it up with a little of `plan`, and call `measure` in each turn.

    `measure` gets the subject's name, the subject, and the number of the round (from 0); a turn
    is planned to take `seconds`. A subject that fails is named in a warning, and the others go
    on.
    """
    with contextlib.ExitStack() as stack:
        running: dict[str, subject.Running] = {}
        for each in lab.concerned(into.scenario):
            with (
                lab.shown.stage(f"{into.name}: starting {each.name}", START_S),
                warning(lab, f"{into.name}: {each.name} was left out"),
            ):
                started = stack.enter_context(each.start(services, lab.place))
                warm_up(lab, started, plan)
                running[each.name] = started
        for number in range(rounds):
            for name in rotated(list(running), number):
                where = f"{into.name}: {name}, round {number + 1} of {rounds}"
                with lab.shown.stage(where, seconds), warning(lab, f"{where}: not measured"):
                    lab.shown.figure(*measure(name, running[name], number))


@contextlib.contextmanager
def warning(lab: rig.Rig, complaint: str) -> Iterator[None]:
    """What fails in the block, as programs and networks do, becomes a warning; the run goes on."""
    try:
        yield
    except (errors.KproxyError, OSError) as error:
        lab.warn(f"{complaint}: {error}")


def warm_up(lab: rig.Rig, running: subject.Running, plan: messages.Plan) -> None:
    """Nobody is to be charged for a process's first connections."""
    target = running.target
    if plan.kind == "bulk":
        lab.carry_out(msgspec.structs.replace(plan, target=target, size=1 << 20))
        return
    small = messages.Plan(kind="connect", target=target, seconds=5.0, count=WARM_UP)
    if not lab.generators.run(small).done:
        raise errors.KproxyError(f"nothing answers at {target}")


def rotated(items: Sequence[_T], by: int) -> list[_T]:
    """The items, beginning `by` places later."""
    start = by % max(len(items), 1)
    return [*items[start:], *items[:start]]


def load(
    lab: rig.Rig, scenario: str, name: str, running: subject.Running, plan: messages.Plan
) -> Loaded:
    """Carry out a plan against a subject, and weigh it. Warns of failures and of bottlenecks.

    Raises KproxyError when nothing at all was done.
    """
    served = lab.backends.served()
    used = running.usage()
    outcome = lab.carry_out(msgspec.structs.replace(plan, target=running.target))
    usage = running.usage() - used
    if not outcome.done:
        reasons = ", ".join(outcome.failures) or "nothing was answered"
        raise errors.KproxyError(f"no operation succeeded ({reasons})")
    if outcome.failures:
        lab.warn(f"{scenario}: {failures(outcome)} through {name}")
    if running.process is not None and plan.kind in {"connect", "request"}:
        now = lab.backends.served()
        backend_busy = headroom.busy(now.elapsed - served.elapsed, now.waited - served.waited)
        limit = headroom.bottleneck(outcome.busy, backend_busy, usage.total / outcome.seconds)
        if limit:
            lab.warn(f"{scenario}: with {name}, {limit}")
    if plan.kind == "rate" and outcome.busy > headroom.LIMIT:
        lab.warn(
            f"{scenario}: the load generator was busy {outcome.busy:.0%} of the time at "
            f"{plan.rate:g} requests/s: part of the latency through {name} is its own"
        )
    return Loaded(outcome, usage)


def failures(outcome: messages.Outcome) -> str:
    """How many operations failed, and why: "3 of 1000 failed (TimeoutError: 3)"."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in outcome.failures.items())
    return f"{outcome.failed} of {outcome.done + outcome.failed} failed ({reasons})"
