"""latency: how long a user waits, at fixed rates below every subject's limit. Open loops."""

from kproxy.bench import budget
from kproxy.bench.lab import recording, rig, rounds
from kproxy.bench.load import messages
from kproxy.bench.report import arithmetic
from kproxy.bench.subjects import subject

_MICROSECONDS = 1e6
_WEIGHING_S = 0.02
_KEPT = 100  # connections to each of a dozen subjects: they must fit into 4,096 files
_PERCENTILES = {50: "median", 99: "99th percentile"}


def latency(lab: rig.Rig, into: recording.Recording) -> None:
    """Requests at fixed rates over 1 to 1,000 open connections, timed from when they were due."""
    loads = lab.size.latency_loads
    seconds = lab.size.latency_s
    sums: rounds.Sums[tuple[str, int, int]] = rounds.Sums()

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        for connections, rate in loads:
            plan = messages.Plan(
                kind="rate",
                target=running.target,
                seconds=seconds,
                connections=connections,
                rate=rate,
                patience=2.0,
                keep=connections <= _KEPT,
            )
            outcome = rounds.load(lab, into.name, name, running, plan).outcome
            times = [time * _MICROSECONDS for time in outcome.times]
            into.samples(_distribution(connections, rate), name, times)
            outcome = sums.add((name, number, connections), outcome)
            times = sorted(time * _MICROSECONDS for time in outcome.times)
            for percent in _PERCENTILES:
                value = arithmetic.percentile(times, percent)
                into.figure(_figure(percent, connections, rate), name, number, value)
        return rounds.Result(arithmetic.percentile(times, 50), "µs")

    into.note(
        "Latency counts from the moment each request was due, even if earlier ones are unanswered."
    )
    plan = messages.Plan(kind="rate", target=lab.endpoints[0])
    rounds.interleave(lab, into, plan, [lab.endpoints[:1]], cut(lab.size), measure)


def cut(size: budget.Budget) -> rounds.Cut:
    """How it is cut into turns: each has every load, and opens connections that are not kept."""
    opened = sum(connections for connections, _ in size.latency_loads if connections > _KEPT)
    loads = len(size.latency_loads) * (size.latency_s + _WEIGHING_S)
    return rounds.Cut(size.rounds, size.latency_turns, loads + opened / 4000)


def _load(connections: int, rate: float) -> str:
    count = "1 connection" if connections == 1 else f"{connections:,} connections"
    return f"{count}, {rate:,.0f} requests/s"


def _figure(percent: int, connections: int, rate: float) -> recording.FigureKind:
    title = f"{_PERCENTILES[percent]}: {_load(connections, rate)}"
    return recording.FigureKind(f"p{percent}_{connections}", title, "µs")


def _distribution(connections: int, rate: float) -> recording.DistributionKind:
    return recording.DistributionKind(
        f"latency_{connections}", f"latency: {_load(connections, rate)}", "µs"
    )
