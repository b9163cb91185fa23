"""strategies: how evenly short and long-lived connections are spread."""

from kproxy.bench.lab import recording, rig, rounds
from kproxy.bench.load import messages
from kproxy.bench.report import arithmetic
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
        f"{lab.size.strategies_connections:,} short connections over {rig.ENDPOINTS} endpoints in "
        "each round. "
        "A rotation is more even than chance (p near 1); choice at random gives any p."
    )
    concerned = [
        *lab.concerned(into.name),
        kproxy_run.Kproxy("kproxy-random", strategy="random"),
    ]
    for each in concerned:
        where = f"{into.name}: {each.name}"
        with (
            lab.shown.stage(where, seconds(lab.size.slow_rounds, lab.size.strategies_connections)),
            rounds.warning(lab, f"{where} was not measured"),
        ):
            lab.shown.figure(_measure(lab, each, into), "% to one endpoint")


def seconds(count: int, connections: int) -> float:
    """Seconds that `count` rounds of one subject are planned to take."""
    return rounds.START_S + count * (0.15 + connections / 5000)


def _measure(lab: rig.Rig, each: subject.Subject, into: recording.Recording) -> float:
    """All rounds of a subject; returns the largest share in the last of them."""
    largest = 0.0
    with each.start([lab.endpoints], lab.place) as running:
        for number in range(lab.size.slow_rounds):
            counts = _short_connections(lab, each.name, running, into)
            tested = arithmetic.chi_square(counts)
            largest = 100 * max(counts) / sum(counts)
            into.figure(LARGEST, each.name, number, largest)
            into.figure(CHI_SQUARE, each.name, number, tested.statistic)
            into.figure(P_VALUE, each.name, number, tested.p_value)
            held = messages.Plan(kind="hold", target=running.target, connections=LONG_LIVED)
            lab.generators.run(held)
            opened = lab.backends.served().open
            most, all_of_them = max(opened.values()), sum(opened.values())
            into.figure(SKEW, each.name, number, most * rig.ENDPOINTS / all_of_them)
    return largest


def _short_connections(
    lab: rig.Rig, name: str, running: subject.Running, into: recording.Recording
) -> list[int]:
    """How many connections of a round each endpoint got."""
    before = lab.backends.served().accepted
    plan = messages.Plan(
        kind="connect",
        target=running.target,
        seconds=30.0,
        connections=_AT_ONCE,
        count=lab.size.strategies_connections,
    )
    rounds.load(lab, into.name, name, running, plan)
    after = lab.backends.served().accepted
    return [after[each.port] - before[each.port] for each in lab.endpoints]
