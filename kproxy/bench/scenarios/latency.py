"""latency: what a user waits, at fixed rates below anybody's limit. Open loops."""

from kproxy.bench import messages, recording, rig, rounds, statistics
from kproxy.bench.subjects import subject

_MICROSECONDS = 1e6
_X_LABEL = "connections"

CURVES = {
    50: recording.CurveKind("p50", "median latency", _X_LABEL, "µs"),
    99: recording.CurveKind("p99", "99th percentile of latency", _X_LABEL, "µs"),
}


def latency(lab: rig.Rig, into: recording.Recording) -> None:
    """Requests at fixed rates over 1 to 1,000 open connections, timed from when they were due."""
    loads = lab.size.latency_loads
    seconds = lab.size.latency_s

    def measure(name: str, running: subject.Running, number: int) -> rounds.Result:
        for connections, rate in loads:
            plan = messages.Plan(
                kind="rate",
                target=running.target,
                seconds=seconds,
                connections=connections,
                rate=rate,
                patience=2.0,
            )
            outcome, _ = rounds.load(lab, into.name, name, running, plan)
            times = [time * _MICROSECONDS for time in outcome.times]
            for percent, curve in CURVES.items():
                value = statistics.percentile(times, percent)
                into.point(curve, name, connections, number, value)
                into.figure(_figure(percent, connections, rate), name, number, value)
            into.samples(_distribution(connections, rate), name, times)
        return rounds.Result(statistics.percentile(times, 50), "µs")

    into.note(
        "Latency counts from the moment each request was due, whatever became of those before."
    )
    plan = messages.Plan(kind="rate", target=lab.endpoints[0])
    turn = len(loads) * (seconds + 0.1)
    rounds.interleave(lab, into, plan, [lab.endpoints[:1]], lab.size.rounds, turn, measure)


def _load(connections: int, rate: float) -> str:
    count = "1 connection" if connections == 1 else f"{connections:,} connections"
    return f"{count}, {rate:,.0f} requests/s"


def _figure(percent: int, connections: int, rate: float) -> recording.FigureKind:
    title = "median" if percent == 50 else "99th percentile"
    return recording.FigureKind(
        f"p{percent}_{connections}", f"{title}: {_load(connections, rate)}", "µs"
    )


def _distribution(connections: int, rate: float) -> recording.DistributionKind:
    return recording.DistributionKind(
        f"latency_{connections}", f"latency: {_load(connections, rate)}", "µs"
    )
