"""The arithmetic of the benchmark: percentiles, spread, ratios per round, verdicts. Pure.

A figure is measured once per peer and round. Peers are compared inside a round, where the
machine was in the same mood, and only then across rounds: the ratio reported is the median of the
per-round ratios, never the ratio of two medians.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")

Figures = dict[str, float]
"""What one measurement gave: figure name such as `connect.connections_per_s` to its value."""


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` per cent of `values` do not exceed.

    Nearest rank: always a value that was measured, never an interpolation. Raises ValueError
    when there are no values or `percent` is outside 0..100.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"percentile {percent} is outside 0..100")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread(values: Sequence[float]) -> float:
    """(max - min) / median: 0.1 means that the rounds lie within a tenth of the median.

    0 for a single value. When the median is 0, 0 if all values are equal and infinity otherwise.
    """
    width = max(values) - min(values)
    if width == 0:
        return 0.0
    middle = statistics.median(values)
    return width / middle if middle else math.inf


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """ours / theirs for each round in which both were measured and theirs is not 0."""
    return [ours[r] / theirs[r] for r in sorted(ours) if theirs.get(r)]


def rotated(items: Sequence[T], by: int) -> list[T]:
    """`items` beginning `by` places further on, so that over the rounds each one goes first."""
    if not items:
        return []
    start = by % len(items)
    return [*items[start:], *items[:start]]


@dataclass(slots=True)
class Round:
    """One pass over every scenario and peer. `figures` is keyed by peer name."""

    number: int
    order: list[str]
    figures: dict[str, Figures] = field(default_factory=dict)

    def add(self, peer: str, measured: Mapping[str, float]) -> None:
        self.figures.setdefault(peer, {}).update(measured)


def series(rounds: Iterable[Round], peer: str, figure: str) -> dict[int, float]:
    """`figure` of `peer` by round number, without the rounds that lack it."""
    return {r.number: r.figures[peer][figure] for r in rounds if figure in r.figures.get(peer, {})}


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure over all rounds. `ratio` is subject / peer; None where either is missing."""

    median: float
    spread: float
    ratio: float | None


def summarize(rounds: Sequence[Round], subject: str, peer: str, figure: str) -> Summary | None:
    """The figure of `peer`, and how `subject` compares. None when no round measured it."""
    theirs = series(rounds, peer, figure)
    if not theirs:
        return None
    compared = [] if peer == subject else ratios(series(rounds, subject, figure), theirs)
    values = list(theirs.values())
    return Summary(
        median=statistics.median(values),
        spread=spread(values),
        ratio=statistics.median(compared) if compared else None,
    )


class Verdict(StrEnum):
    """What became of a target."""

    REACHED = "reached"
    ABOVE_FLOOR = "above the floor"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure the subject has to reach.

    `against` names the peer whose figure divides the subject's, `over` another figure of the
    subject that does; with neither, the figure itself counts. `worst` takes the worst round
    instead of the median: for what must never happen at all.
    """

    label: str
    figure: str
    limit: float
    at_least: bool = False
    floor: float | None = None
    against: str | None = None
    over: str | None = None
    worst: bool = False

    def reached(self, rounds: Sequence[Round], subject: str) -> float | None:
        """The value to hold against the limit, or None when it was not measured."""
        ours = series(rounds, subject, self.figure)
        if self.against is not None:
            values = ratios(ours, series(rounds, self.against, self.figure))
        elif self.over is not None:
            values = ratios(ours, series(rounds, subject, self.over))
        else:
            values = list(ours.values())
        if not values:
            return None
        if self.worst:
            return min(values) if self.at_least else max(values)
        return statistics.median(values)

    def verdict(self, value: float | None) -> Verdict:
        """Whether `value` is on the right side of the limit; a limit met exactly is reached."""
        if value is None:
            return Verdict.NOT_MEASURED
        if (value >= self.limit) if self.at_least else (value <= self.limit):
            return Verdict.REACHED
        if self.floor is not None and value >= self.floor:
            return Verdict.ABOVE_FLOOR
        return Verdict.MISSED
