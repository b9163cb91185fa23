"""What the shop says at its end."""

from collections import Counter
from collections.abc import Sequence

from kproxy.demo.shop import board, comparison, registry, tally


def show(shown: board.Board, counted: tally.Tally) -> None:
    """The counters by service and node, the repeated attempts, and the failures."""
    shown.say()
    shown.rows(("SERVICE", "ANSWERS", "BY PODS"), services(counted))
    shown.say()
    shown.rows(
        ("NODE", "ANSWERS"), [(name, str(count)) for name, count in sorted(counted.by_node.items())]
    )
    if counted.retries:
        shown.say()
        found = sorted(counted.retries.items())
        shown.rows(("ATTEMPTS REPEATED BY", "COUNT"), [(why, str(count)) for why, count in found])
    shown.say()
    if not counted.failed:
        shown.say(
            f"0 of {counted.requests} requests failed; the slowest took {counted.slowest:.2f} s."
        )
        return
    shown.say(f"{counted.failed} of {counted.requests} requests failed:")
    for failure in counted.failures:
        shown.say(str(failure))
    if counted.failed > len(counted.failures):
        shown.say(f"and {counted.failed - len(counted.failures)} more")


def compare(shown: board.Board, rows: Sequence[comparison.Row]) -> None:
    """What both architectures did while a pod ended, in each way."""
    shown.say()
    shown.rows(
        ("A POD IS", "WAY OF A REQUEST", "REQUESTS", "FAILED", "FAILING FOR", "SLOWEST"),
        [
            (row.death.value, name, *_cells(outcome))
            for row in rows
            for name, outcome in (
                ("Ingress, Service, kproxy", row.through_service),
                ("gateway, registry", row.through_registry),
            )
        ],
    )
    shown.say()
    shown.say(
        f"The registry believes a pod for {registry.EXPIRY_SECONDS:g} s after its last heartbeat, "
        "and the gateway sends it its share until then. kproxy notices that a pod does not take a "
        "connection, and asks the next one within 0.25 s."
    )


def _cells(outcome: comparison.Outcome) -> tuple[str, str, str, str]:
    return (
        str(outcome.requests),
        str(outcome.failed),
        f"{outcome.failing_for:.1f} s" if outcome.failed else "",
        f"{outcome.slowest:.2f} s",
    )


def services(counted: tally.Tally) -> list[tuple[str, str, str]]:
    """For each service, how many answers it gave, by how many pods."""
    answers: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for pod, count in counted.by_pod.items():
        service = pod.partition("-")[0]
        answers[service] += count
        members[service] += 1
    return [(name, str(answers[name]), str(members[name])) for name in sorted(answers)]
