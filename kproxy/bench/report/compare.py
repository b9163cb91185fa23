"""Two reports side by side: what changed beyond noise, what did not, what is only in one.

A machine is faster on some days than on others, so the absolute figures of two runs differ although
kproxy is the same. Therefore kproxy is also compared as its ratio to each peer, round by round:
both ran on the machine of that moment. Runs of different machines are compared in no other way.

A change is real here when both hold:

* the Mann-Whitney U test gives p <= 0.05, the test and the level of Go's benchstat. It assumes
  nothing of how noise is distributed, and needs `FEWEST_ROUNDS` in each run;
* the medians differ by more than `SMALLEST_CHANGE`, since two runs of one build repeat only
  within that.

So of comparisons in which nothing has changed at most one in twenty is called a change by the
first alone, and next to none with the second where the noise is below it.
"""

import math
import statistics as stdlib_statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kproxy.bench.lab import machine
from kproxy.bench.report import arithmetic, readings, results

LEVEL = 0.05
SMALLEST_CHANGE = 0.1
FEWEST_ROUNDS = 4


class Verdict(StrEnum):
    """What can be said of one figure in two runs."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no change beyond noise"
    TOO_FEW = "too few rounds for a verdict"
    ONLY_BEFORE = "only in the first"
    ONLY_AFTER = "only in the second"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one subject in both runs.

    `name` is the figure's in the report, `figure` its title. `peer` is None for the figure
    itself; otherwise kproxy's ratio to that peer is compared. `before` and `after` are medians,
    None where not measured. `p_value` is None when there was nothing to test.
    """

    scenario: str
    name: str
    figure: str
    subject: str
    peer: str | None
    verdict: Verdict
    before: float | None
    after: float | None
    p_value: float | None = None

    @property
    def factor(self) -> float | None:
        """after / before."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return self.after / self.before


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is compared: its title, values by round, and which way is good."""

    title: str
    rounds: tuple[float, ...]
    better: results.Better


_Key: TypeAlias = tuple[str, str, str, str | None]
"""Scenario, figure, subject, peer."""


def compare(before: results.Report, after: results.Report) -> list[Change]:
    """Every figure of the two reports, in the order of the first, then what only the second has.

    Absolute figures are left out when the two ran on different hardware.
    """
    absolute = machine.is_same_hardware(before.machine, after.machine)
    old = dict(_measured(before, absolute=absolute))
    new = dict(_measured(after, absolute=absolute))
    return [_change(key, old.get(key), new.get(key)) for key in old | new]


def _measured(report: results.Report, *, absolute: bool) -> Iterator[tuple[_Key, _Measured]]:
    """All that can be compared, by its key; what was never measured is left out."""
    for scenario in report.scenarios:
        for quantity in _quantities(scenario):
            ours = quantity.rounds.get(results.SUBJECT, ())
            for subject, rounds in quantity.rounds.items():
                found: list[tuple[str, str | None, arithmetic.Rounds]] = []
                if absolute:
                    found.append((subject, None, rounds))
                if subject != results.SUBJECT:
                    found.append((results.SUBJECT, subject, arithmetic.ratios(ours, rounds)))
                for whose, peer, values in found:
                    if known := tuple(arithmetic.measured(values)):
                        key = (scenario.name, quantity.name, whose, peer)
                        yield key, _Measured(quantity.title, known, quantity.better)


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A figure, or one place of a curve: every subject's rounds."""

    name: str
    title: str
    better: results.Better
    rounds: Mapping[str, arithmetic.Rounds]


def _quantities(scenario: results.Scenario) -> Iterator[_Quantity]:
    for figure in readings.wholes(scenario):
        rounds: dict[str, arithmetic.Rounds] = {each.subject: each.rounds for each in figure.series}
        yield _Quantity(figure.name, figure.title, figure.better, rounds)
    for curve in scenario.curves:
        places: dict[float, dict[str, arithmetic.Rounds]] = {}
        for series in curve.series:
            for point in series.points:
                places.setdefault(point.x, {})[series.subject] = point.rounds
        for x, rounds in places.items():
            title = f"{curve.title} at {readings.size(x)} {curve.x_label}"
            yield _Quantity(f"{curve.name} {x:g}", title, curve.better, rounds)


def _change(key: _Key, old: _Measured | None, new: _Measured | None) -> Change:
    scenario, figure, subject, peer = key
    title = next((each.title for each in (old, new) if each is not None), figure)
    before = None if old is None else stdlib_statistics.median(old.rounds)
    after = None if new is None else stdlib_statistics.median(new.rounds)
    if old is None or new is None or before is None or after is None:
        verdict = Verdict.ONLY_AFTER if old is None else Verdict.ONLY_BEFORE
        return Change(scenario, figure, title, subject, peer, verdict, before, after)
    p_value = arithmetic.mann_whitney(old.rounds, new.rounds)
    if min(len(old.rounds), len(new.rounds)) < FEWEST_ROUNDS:
        verdict = Verdict.TOO_FEW
    elif p_value > LEVEL or not _is_big(before, after):
        verdict = Verdict.SAME
    else:
        is_better = (after > before) == (new.better == "higher")
        verdict = Verdict.BETTER if is_better else Verdict.WORSE
    return Change(scenario, figure, title, subject, peer, verdict, before, after, p_value)


def _is_big(before: float, after: float) -> bool:
    """Whether one is more than SMALLEST_CHANGE above the other: the same way up and down."""
    low, high = sorted((abs(before), abs(after)))
    return before * after < 0 or high > low * (1 + SMALLEST_CHANGE)


def regressions(before: results.Report, after: results.Report) -> list[list[Change]]:
    """Figures in which kproxy has fallen behind: its ratio to *every* peer is worse beyond noise.

    Each as the changes of its ratios. What only some ratios show is those peers' doing, or noise
    of theirs; what kproxy has lost, all of them show. Ratios with too few rounds are not asked.
    """
    judged: dict[tuple[str, str], list[Change]] = {}
    for each in compare(before, after):
        is_judged = each.verdict in {Verdict.BETTER, Verdict.WORSE, Verdict.SAME}
        if each.peer is not None and is_judged:
            judged.setdefault((each.scenario, each.name), []).append(each)
    return [
        found for found in judged.values() if all(each.verdict is Verdict.WORSE for each in found)
    ]


def show(before: results.Report, after: results.Report, console: Console) -> None:
    """Print the comparison: what changed in a table, the rest in a sentence or two."""
    changes = compare(before, after)
    for sentence in _circumstances(before, after):
        _print(console, sentence)
    changed = [each for each in changes if each.verdict in {Verdict.BETTER, Verdict.WORSE}]
    if changed:
        console.print(_table(changed))
    elif any(each.verdict is Verdict.SAME for each in changes):
        _print(console, "Nothing changed beyond noise.")
    for sentence in _the_rest(changes):
        _print(console, sentence)
    for verdict, other in ((Verdict.ONLY_BEFORE, after), (Verdict.ONLY_AFTER, before)):
        found = [each for each in changes if each.verdict is verdict]
        if missing := list(dict.fromkeys(_missing(found, other))):
            _print(console, f"{_capital(verdict)}: {'; '.join(missing)}.")


def _print(console: Console, sentence: str) -> None:
    console.print(Text(sentence), soft_wrap=not console.is_terminal)


def _circumstances(before: results.Report, after: results.Report) -> Iterator[str]:
    """What a reader must know before believing the comparison."""
    differences = machine.differences(before.machine, after.machine)
    if not machine.is_same_hardware(before.machine, after.machine):
        yield "Different machines: only ratios to peers are compared."
    if differences:
        yield f"Not the same in both: {'; '.join(differences)}."
    for which, report in (("first", before), ("second", after)):
        for warning in readings.warnings(report):
            yield f"The {which} run: {warning}."


def _table(changed: list[Change]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for heading in ("before", "after", "change", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for each in changed:
        colour = "green" if each.verdict is Verdict.BETTER else "red"
        table.add_row(
            Text(name(each)),
            _cell(each.before),
            _cell(each.after),
            _percent(each.factor),
            "" if each.p_value is None else f"{each.p_value:.3f}",
            Text(each.verdict, style=colour),
        )
    return table


def name(change: Change) -> str:
    """What has changed, for reading: "connect: connections per second, kproxy ÷ haproxy"."""
    whose = readings.label(change.subject)
    if change.peer is not None:
        whose += f" \N{DIVISION SIGN} {readings.label(change.peer)}"
    return f"{change.scenario}: {change.figure}, {whose}"


def _cell(value: float | None) -> str:
    return "" if value is None else readings.number(value)


def _percent(factor: float | None) -> str:
    return "" if factor is None or not math.isfinite(factor) else f"{100 * (factor - 1):+.0f} %"


def _the_rest(changes: list[Change]) -> Iterator[str]:
    """Sentences about what was compared and is in no table."""
    counts = {verdict: [c for c in changes if c.verdict is verdict] for verdict in Verdict}
    if same := counts[Verdict.SAME]:
        yield f"{_figures(len(same))} did not change beyond noise."
    if few := counts[Verdict.TOO_FEW]:
        where = readings.listed(list(dict.fromkeys(each.scenario for each in few)))
        yield (
            f"{_figures(len(few))} of {where} "
            f"cannot be judged: {FEWEST_ROUNDS} rounds or more are needed in each run (--rounds)."
        )


def _missing(changes: Iterable[Change], other: results.Report) -> Iterator[str]:
    """What `other` has nothing of, in as few words as that takes: whole scenarios, whole subjects.

    May say the same more than once.
    """
    figures = {(s.name, quantity.name) for s in other.scenarios for quantity in _quantities(s)}
    scenarios = {scenario for scenario, _ in figures}
    subjects = {
        subject
        for scenario in other.scenarios
        for quantity in _quantities(scenario)
        for subject in quantity.rounds
    }
    for each in changes:
        if each.scenario not in scenarios:
            yield f"all of {each.scenario}"
        elif (missing := each.peer or each.subject) not in subjects:
            yield f"all of {readings.label(missing)}"
        elif (each.scenario, each.name) not in figures:
            yield f"{each.scenario}: {each.figure}"
        else:
            yield name(each)


def _figures(count: int) -> str:
    return "1 figure" if count == 1 else f"{count} figures"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
