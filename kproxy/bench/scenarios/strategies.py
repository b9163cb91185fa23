"""strategies: how evenly connections are spread, when they are short and when they stay."""

from kproxy.bench import messages, recording, rig, rounds, statistics
from kproxy.bench.subjects import kproxy_run, subject

LONG_LIVED = 200
_AT_ONCE = 8

CHI_SQUARE = recording.FigureKind(
    "chi_square", "short connections: chi-square against equal shares", "χ²"
)
P_VALUE = recording.FigureKind(
    "p_value", "short connections: probability of a worse spread by chance", "p", "higher"
)
LARGEST = recording.FigureKind("largest_share", "short connections: the largest share", "%")
SKEW = recording.FigureKind(
    "skew", f"{LONG_LIVED} long-lived connections: most ÷ mean per endpoint", "times"
)


def strategies(lab: rig.Rig, into: recording.Recording) -> None:
    """Short connections over four endpoints, counted by the backends; then long-lived ones."""
    into.note(
        f"{lab.size.strategies_connections:,} short connections over {rig.ENDPOINTS} endpoints. "
        "A rotation is more even than chance (p near 1); choice at random gives any p."
    )
    concerned = [
        *lab.concerned(into.name),
        kproxy_run.Kproxy("kproxy-random", strategy="random"),
    ]
    for each in concerned:
        where = f"{into.name}: {each.name}"
        with (
            lab.shown.stage(where, seconds(lab.size.strategies_connections)),
            rounds.warning(lab, f"{where} was not measured"),
        ):
            lab.shown.figure(_measure(lab, each, into), "% to one endpoint")


def seconds(connections: int) -> float:
    """What one subject is planned to take."""
    return rounds.START_S + 0.2 + connections / 3000


def _measure(lab: rig.Rig, each: subject.Subject, into: recording.Recording) -> float:
    with each.start([lab.endpoints], lab.place) as running:
        before = lab.backends.served()
        plan = messages.Plan(
            kind="connect",
            target=running.target,
            seconds=30.0,
            connections=_AT_ONCE,
            count=lab.size.strategies_connections,
        )
        rounds.load(lab, into.name, each.name, running, plan)
        served = lab.backends.served()
        counts = [served.accepted[e.port] - before.accepted[e.port] for e in lab.endpoints]
        tested = statistics.chi_square(counts)
        largest = 100 * max(counts) / sum(counts)
        into.figure(CHI_SQUARE, each.name, 0, tested.statistic)
        into.figure(P_VALUE, each.name, 0, tested.p_value)
        into.figure(LARGEST, each.name, 0, largest)
        held = messages.Plan(kind="hold", target=running.target, connections=LONG_LIVED)
        lab.generators.run(held)
        opened = lab.backends.served().open
        by_endpoint = [opened[e.port] for e in lab.endpoints]
        into.figure(SKEW, each.name, 0, max(by_endpoint) * len(by_endpoint) / sum(by_endpoint))
    return largest
