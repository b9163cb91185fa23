"""What a scenario has measured so far. It is a result at any moment, also after Ctrl-C."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from kproxy.bench.report import arithmetic, results


class FigureKind(NamedTuple):
    """A quantity as `results.Figure` describes it, without values."""

    name: str
    title: str
    unit: str
    better: results.Better = "lower"
    stack: str | None = None


class CurveKind(NamedTuple):
    """A curve as `results.Curve` describes it, without values."""

    name: str
    title: str
    x_label: str
    unit: str
    better: results.Better = "lower"


class DistributionKind(NamedTuple):
    """A distribution as `results.Distribution` describes it, without values."""

    name: str
    title: str
    unit: str


_Rounds: TypeAlias = dict[int, float]  # round (from 0) → value


class Recording:
    """One scenario's values, by subject and round. Kinds and subjects keep their order of arrival.

    `name` is unique in a run; `scenario` is the scenario's, which may be recorded in several
    places.
    """

    def __init__(self, name: str, title: str, scenario: str = "") -> None:
        self.name = name
        self.scenario = scenario or name
        self._title = title
        self._figures: dict[FigureKind, dict[str, _Rounds]] = {}
        self._curves: dict[CurveKind, dict[str, dict[float, _Rounds]]] = {}
        self._samples: dict[DistributionKind, dict[str, list[float]]] = {}
        self._notes: list[str] = []

    def figure(self, kind: FigureKind, subject: str, number: int, value: float) -> None:
        """Record a value of round `number` (from 0)."""
        self._figures.setdefault(kind, {}).setdefault(subject, {})[number] = value

    def point(self, kind: CurveKind, subject: str, x: float, number: int, value: float) -> None:
        """One place of a curve, in round `number`."""
        places = self._curves.setdefault(kind, {}).setdefault(subject, {})
        places.setdefault(x, {})[number] = value

    def samples(self, kind: DistributionKind, subject: str, values: Iterable[float]) -> None:
        """More single values of a distribution."""
        self._samples.setdefault(kind, {}).setdefault(subject, []).extend(values)

    def note(self, sentence: str) -> None:
        """Add a remark for the reader; an equal one is kept once."""
        if sentence not in self._notes:
            self._notes.append(sentence)

    def result(self, order: Iterable[str]) -> results.Scenario:
        """What was measured until now, with subjects in this order (others after them)."""
        rank = {name: index for index, name in enumerate(order)}

        def ordered(names: Iterable[str]) -> list[str]:
            return sorted(names, key=lambda name: rank.get(name, len(rank)))

        return results.Scenario(
            name=self.name,
            title=self._title,
            figures=tuple(
                results.Figure(
                    name=kind.name,
                    title=kind.title,
                    unit=kind.unit,
                    better=kind.better,
                    series=tuple(
                        results.Series(name, _row(series[name])) for name in ordered(series)
                    ),
                    stack=kind.stack,
                )
                for kind, series in self._figures.items()
            ),
            distributions=tuple(
                results.Distribution(
                    name=kind.name,
                    title=kind.title,
                    unit=kind.unit,
                    series=tuple(
                        results.Quantiles(name, arithmetic.quantiles(samples[name]))
                        for name in ordered(samples)
                        if samples[name]
                    ),
                )
                for kind, samples in self._samples.items()
            ),
            curves=tuple(
                results.Curve(
                    name=kind.name,
                    title=kind.title,
                    x_label=kind.x_label,
                    unit=kind.unit,
                    better=kind.better,
                    series=tuple(
                        results.CurveSeries(name, _points(series[name])) for name in ordered(series)
                    ),
                )
                for kind, series in self._curves.items()
            ),
            notes=tuple(self._notes),
        )


def _row(values: Mapping[int, float]) -> tuple[float | None, ...]:
    """Values by round; None where a round has none."""
    return tuple(values.get(number) for number in range(max(values) + 1))


def _points(places: Mapping[float, _Rounds]) -> tuple[results.Point, ...]:
    return tuple(results.Point(x, _row(places[x])) for x in sorted(places))
