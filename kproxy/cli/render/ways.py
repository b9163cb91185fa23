"""The way of one connection through each mode, as text: the steps, then a table of the ends."""

from collections.abc import Iterator, Sequence

from kproxy import errors
from kproxy.modes.packet import Packet, Verdict, Way
from kproxy.modes.traces import ON_DEAD, Trace


def text(packet: Packet, traced: Sequence[Trace]) -> str:
    """Each mode's way, and what they come to, side by side."""
    return "\n".join(map(errors.printable, _lines(packet, traced)))


def _lines(packet: Packet, traced: Sequence[Trace]) -> Iterator[str]:
    yield f"The first packet: {packet}"
    for each in traced:
        yield ""
        yield f"== {each.mode}"
        yield from _ways(packet, each)
    yield ""
    yield "== side by side"
    rows = [("MODE", "MEETS", "ENDPOINTS", "THE POD SEES", "IF THE POD IS DEAD")]
    rows += [_row(each) for each in traced]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[4]]).rstrip()


def _ways(packet: Packet, traced: Trace) -> Iterator[str]:
    """Steps that all ways share come once; then each way's own."""
    ways = traced.ways
    shared = 0
    if len(ways) > 1:
        while all(len(way.steps) > shared for way in ways) and (
            len({way.steps[shared] for way in ways}) == 1
        ):
            shared += 1
        yield from _steps(packet, ways[0], 0, shared)
    for way in ways:
        if len(ways) > 1:
            yield f"  with a probability of {way.chance:.3g}:"
        start = way.steps[shared - 1].packet if shared else packet
        yield from _steps(start, way, shared, len(way.steps))
        yield f"    → {_end(way)}"


def _steps(before: Packet, way: Way, first: int, last: int) -> Iterator[str]:
    for step in way.steps[first:last]:
        yield f"    {step.where}: {step.rule}"
        if step.why:
            yield f"        {step.why}"
        if step.packet != before:
            yield f"        now {step.packet}"
        before = step.packet


def _end(way: Way) -> str:
    if way.verdict is Verdict.SERVED:
        return f"served by {way.packet.destination}, which sees {way.packet.source}"
    return way.verdict.value


def _row(traced: Trace) -> tuple[str, str, str, str, str]:
    served = [way for way in traced.ways if way.verdict is Verdict.SERVED]
    meets = ", ".join(sorted(verdict.value for verdict in traced.verdicts))
    if not served:
        return traced.mode, meets, "-", "-", "-"
    shown = [f"{way.packet.destination} {way.chance:.3g}" for way in served[:3]]
    if len(served) > len(shown):
        shown.append(f"{len(served) - len(shown)} more")
    sources = ", ".join(dict.fromkeys(way.packet.source for way in served))
    return traced.mode, meets, ", ".join(shown), sources, ON_DEAD[traced.mode]
