"""Interleaved rounds: every subject has its turns in each round, and the order rotates.

All subjects run while the rounds last; one that is not loaded costs nothing. So a disturbance of
the machine affects all of them alike, and their ratio within a round is meaningful.

A turn is short, and a round has several of each subject's, since a shared machine is no steadier
over a second than over 10 ms: the speed of a loop of plain Python, taken in pairs of
neighbouring slices, differed by 14 % of itself whether the slices were 5 ms long or 400 ms. So the
number of turns makes a ratio exact, not their length.
"""

import contextlib
import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from kproxy import errors
from kproxy.bench.lab import processes, recording, rig
from kproxy.bench.load import headroom, messages
from kproxy.bench.report import results
from kproxy.bench.subjects import subject

WARM_UP = 64
START_S = 0.2
"""Seconds to start and warm up a subject, on average: for the plan of a run."""

_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)


class Cut(NamedTuple):
    """How a scenario's time is cut: `turns` of `seconds` (as planned) per round and subject."""

    rounds: int
    turns: int
    seconds: float

    def round_seconds(self, subjects: int) -> float:
        """What a round of so many subjects is planned to take."""
        return subjects * self.turns * self.seconds

    def planned(self, subjects: int) -> float:
        """What all of it is planned to take, with starting the subjects."""
        return subjects * START_S + self.rounds * self.round_seconds(subjects)


class Result(NamedTuple):
    """The figure that is worth showing while the run lasts."""

    value: float
    unit: str


class Loaded(NamedTuple):
    """The outcome of a load, and the CPU that the subject spent on it.

    `backend_busy` is the share of the time that the backend did not spend waiting.
    """

    outcome: messages.Outcome
    usage: processes.Usage
    backend_busy: float


class Sums(Generic[_K]):
    """The outcomes of the turns that belong together, by their keys."""

    def __init__(self) -> None:
        self._sums: dict[_K, messages.Outcome] = {}

    def add(self, key: _K, outcome: messages.Outcome) -> messages.Outcome:
        """The outcome of all turns of `key`, this one included."""
        before = [self._sums[key]] if key in self._sums else []
        self._sums[key] = total = messages.in_a_row([*before, outcome])
        return total


class Limits:
    """What limited a closed loop other than the subject; reported when all turns are over."""

    def __init__(self) -> None:
        self._seconds: dict[str, tuple[float, ...]] = {}

    def add(self, name: str, loaded: Loaded) -> None:
        """A turn of subject `name`."""
        took = loaded.outcome.seconds
        turn = (took, took * loaded.outcome.busy, took * loaded.backend_busy, loaded.usage.total)
        before = self._seconds.get(name, (0.0,) * len(turn))
        self._seconds[name] = tuple(map(operator.add, before, turn))

    def report(self, lab: rig.Rig, scenario: str) -> None:
        """Warn of every subject whose figure was limited by something else."""
        for name, (took, *parts) in self._seconds.items():
            limit = headroom.bottleneck(*(part / took for part in parts))
            if limit:
                lab.warn(f"{scenario}: with {name}, {limit}")


def interleave(
    lab: rig.Rig,
    into: recording.Recording,
    plan: messages.Plan,
    services: subject.Services,
    cut: Cut,
    measure: Callable[[str, subject.Running, int], Result],
) -> None:
    """Start every subject, warm it up with a little of `plan`, and call `measure` in each turn.

    `measure` gets the subject's name, the subject, and the number of the round (from 0), and gives
    the round's figure so far. A subject that fails is named in a warning, and the others go on.
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
        others = len(running.keys() - {results.SUBJECT})
        who = f"{results.SUBJECT} beside {others} others" if others > 1 else results.SUBJECT
        for number in range(cut.rounds):
            which = f"round {number + 1} of {cut.rounds}"
            with lab.shown.stage(f"{into.name}: {who}, {which}", cut.round_seconds(len(running))):
                for turn in range(cut.turns):
                    for name in rotated(list(running), number * cut.turns + turn):
                        with warning(lab, f"{into.name}: {name}, {which}: not measured"):
                            result = measure(name, running[name], number)
                            if name == results.SUBJECT:
                                lab.shown.figure(*result)


@contextlib.contextmanager
def warning(lab: rig.Rig, complaint: str) -> Iterator[None]:
    """A failure of a program or a network in the block becomes a warning; the run goes on."""
    try:
        yield
    except (errors.KproxyError, OSError) as error:
        lab.warn(f"{complaint}: {error}")


def warm_up(lab: rig.Rig, running: subject.Running, plan: messages.Plan) -> None:
    """Make the first connections to a process, which count in no turn."""
    target = running.target
    if plan.kind == "bulk":
        lab.carry_out(msgspec.structs.replace(plan, target=target, size=1 << 20))
        return
    small = messages.Plan(kind="connect", target=target, seconds=5.0, count=WARM_UP)
    if not lab.generators.run(small).done:
        raise errors.KproxyError(f"nothing answers at {target}")


def rotated(items: Sequence[_T], by: int) -> list[_T]:
    """The items, starting at index `by`."""
    start = by % max(len(items), 1)
    return [*items[start:], *items[:start]]


def load(
    lab: rig.Rig,
    scenario: str,
    name: str,
    running: subject.Running,
    plan: messages.Plan,
    *,
    lead_in: float = 0.0,
) -> Loaded:
    """Carry out a plan against a subject, and measure its CPU time. Warns of failures.

    `lead_in` seconds of the same load come first and are in no figure: at first the processor's
    caches hold the data of other subjects, which would show in a turn so short. Raises KproxyError
    when no operation succeeded.
    """
    plan = msgspec.structs.replace(plan, target=running.target)
    if lead_in:
        led_in = lab.carry_out(msgspec.structs.replace(plan, seconds=lead_in))
        _warn_of_failures(lab, scenario, name, led_in)
    served = lab.backends.served()
    used = running.usage()
    outcome = lab.carry_out(plan)
    usage = running.usage() - used
    now = lab.backends.served()
    if not outcome.done:
        reasons = ", ".join(outcome.failures) or "nothing was answered"
        raise errors.KproxyError(f"no operation succeeded ({reasons})")
    _warn_of_failures(lab, scenario, name, outcome)
    if plan.kind == "rate" and outcome.busy > headroom.LIMIT:
        lab.warn(
            f"{scenario}: the load generator was busy {outcome.busy:.0%} of the time at "
            f"{plan.rate:g} requests/s: part of the latency through {name} is its own"
        )
    backend_busy = headroom.busy(now.elapsed - served.elapsed, now.waited - served.waited)
    return Loaded(outcome, usage, backend_busy)


def _warn_of_failures(lab: rig.Rig, scenario: str, name: str, outcome: messages.Outcome) -> None:
    if outcome.failures:
        lab.warn(f"{scenario}: {failures(outcome)} through {name}")


def failures(outcome: messages.Outcome) -> str:
    """How many operations failed, and why: "3 of 1000 failed (TimeoutError: 3)"."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in outcome.failures.items())
    return f"{outcome.failed} of {outcome.done + outcome.failed} failed ({reasons})"
