"""The results as text: tables on a terminal, one complete line per figure in a pipe."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kproxy.bench.report import arithmetic, readings, results

_BAR = "█"
_BAR_WIDTH = 14
_PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max"))
_MISSING = "-"
_NO_INTERVAL = (_MISSING, _MISSING)
_NOT_COMPARED = (_MISSING, _MISSING, *_NO_INTERVAL)
"""Where neither spread nor ratio are known."""
_NARROWEST = 80


def show(report: results.Report, console: Console) -> None:
    """Print the report: for people if `console` is a terminal, for grep and awk otherwise.

    In a pipe no line is wrapped, and each names its scenario, figure and subject.
    """
    if console.is_terminal:
        for part in tables(report):
            console.print(part)
    else:
        for line in lines(report):
            console.file.write(f"{line}\n")  # rich would turn tabs into spaces


def tables(report: results.Report) -> Iterator[RenderableType]:
    """The report as rich tables of at most 80 columns, warnings at the end."""
    for scenario in report.scenarios:
        yield Text(f"\n{scenario.title}", style="bold")
        if scenario.figures:
            yield _figures(scenario)
        for distribution in scenario.distributions:
            yield _distribution(distribution)
        for curve in scenario.curves:
            yield _curve(curve)
        for note in scenario.notes:
            yield Padding(Text(note, style="dim"), (0, 0, 0, 2))
    yield Text("")
    for sentence in readings.headline(report):
        yield Text(sentence)
    for warning in readings.warnings(report):
        yield Text.assemble(("warning: ", "bold yellow"), warning)


def _figures(scenario: results.Scenario) -> Table:
    table = Table(box=None, width=_NARROWEST, pad_edge=False, header_style="dim")
    table.add_column("", ratio=1)
    table.add_column("", width=_BAR_WIDTH, no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("kproxy ÷", justify="right", no_wrap=True)
    for figure in readings.wholes(scenario):
        found = readings.read(figure)
        if not found:
            continue
        parts = readings.parts(scenario, figure.name)
        direction = "more is better" if figure.better == "higher" else "less is better"
        table.add_row(
            Text(figure.title), Text(direction, style="dim"), Text(figure.unit, style="dim")
        )
        if parts:
            table.add_row(Text(f"= {' + '.join(each.title for each in parts)}", style="dim"))
        top = max(each.summary.median for each in found)
        for each in found:
            is_ours = each.subject == results.SUBJECT
            bar = _split(parts, each.subject) if parts else _bar(each.summary.median, top)
            table.add_row(
                _subject(each.subject),
                Text(bar, style="cyan" if is_ours else "dim"),
                readings.number(each.summary.median),
                _spread(each.summary.spread),
                _ratio(each, figure.better),
                style="bold" if is_ours else "",
            )
    return table


def _split(parts: Iterable[results.Figure], subject: str) -> str:
    medians = [_median(readings.rounds_of(part, subject)) for part in parts]
    return " + ".join(map(_cell, medians))


def _bar(value: float, top: float) -> str:
    return _BAR * round(_BAR_WIDTH * value / top) if top > 0 else ""


def _spread(spread: float) -> Text:
    is_noisy = spread > arithmetic.NOISE_LIMIT
    return Text(readings.percent(spread) if spread else "", style="yellow" if is_noisy else "")


def _ratio(reading: readings.Reading, better: results.Better) -> Text:
    if reading.ratio is None:
        return Text(_MISSING, style="dim")
    is_ahead = reading.ratio > 1 if better == "higher" else reading.ratio < 1
    return Text(readings.ratio_of(reading), style="green" if is_ahead else "")


def _distribution(distribution: results.Distribution) -> Table:
    table = _across(distribution.title, distribution.unit, [name for _, name in _PERCENTILES])
    for series in distribution.series:
        cells = [_cell(readings.value_at(series, q)) for q, _ in _PERCENTILES]
        table.add_row(_subject(series.subject), *cells)
    return table


def _curve(curve: results.Curve) -> Table:
    places = sorted({point.x for series in curve.series for point in series.points})
    title = f"{curve.title}, by {curve.x_label}"
    table = _across(title, curve.unit, [readings.size(x) for x in places])
    for series in curve.series:
        medians = {point.x: _median(point.rounds) for point in series.points}
        table.add_row(_subject(series.subject), *(_cell(medians.get(x)) for x in places))
    return table


def _across(title: str, unit: str, columns: Iterable[str]) -> Table:
    """An empty table with a column for each percentile or place."""
    table = Table(box=None, width=_NARROWEST, pad_edge=False, header_style="dim", title_style="")
    table.title, table.title_justify = Text.assemble(title, (f"  {unit}", "dim")), "left"
    table.add_column("", ratio=1, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _subject(subject: str) -> Text:
    style = "bold" if subject == results.SUBJECT else ""
    return Text(f"  {readings.label(subject)}", style=style)


def _cell(value: float | None) -> str:
    return _MISSING if value is None else readings.number(value)


def _median(rounds: arithmetic.Rounds) -> float | None:
    summary = arithmetic.summarize(rounds)
    return None if summary is None else summary.median


def lines(report: results.Report) -> Iterator[str]:
    """The report as lines of fields with a tab between them, warnings at the end.

    Fields: scenario, title of the figure, subject, median, unit, spread, kproxy ÷ subject, and
    the two ends of that ratio's 95 % interval. A
    distribution's title has its percentile behind it, and a curve's its place: "start-up time, at
    1000 Services". The parts of a stack have its title in front: "CPU time per request, user".
    """
    for scenario in report.scenarios:
        for fields in (*_of_figures(scenario), *_of_distributions(scenario), *_of_curves(scenario)):
            yield "\t".join((scenario.name, *fields))
    for warning in readings.warnings(report):
        yield f"warning: {warning}"


_Fields: TypeAlias = tuple[str, str, str, str, str, str, str, str]


def _of_figures(scenario: results.Scenario) -> Iterator[_Fields]:
    parts = [figure for figure in scenario.figures if figure.stack is not None]
    for figure in (*readings.wholes(scenario), *parts):
        title = f"{figure.stack}, {figure.title}" if figure.stack else figure.title
        for each in readings.read(figure):
            ratio = _MISSING if each.ratio is None else f"{each.ratio:.4g}"
            median, spread = f"{each.summary.median:.6g}", f"{each.summary.spread:.3f}"
            low, high = (f"{end:.4g}" for end in each.interval) if each.interval else _NO_INTERVAL
            yield title, each.subject, median, figure.unit, spread, ratio, low, high


def _of_distributions(scenario: results.Scenario) -> Iterator[_Fields]:
    for each in scenario.distributions:
        for series in each.series:
            for q, name in _PERCENTILES:
                value = readings.value_at(series, q)
                if value is not None:
                    figure = f"{each.title}, {name}"
                    yield figure, series.subject, f"{value:.6g}", each.unit, *_NOT_COMPARED


def _of_curves(scenario: results.Scenario) -> Iterator[_Fields]:
    for each in scenario.curves:
        for series in each.series:
            for point in series.points:
                at = arithmetic.summarize(point.rounds)
                if at is not None:
                    figure = f"{each.title}, at {point.x:.0f} {each.x_label}"
                    median, spread = f"{at.median:.6g}", f"{at.spread:.3f}"
                    yield figure, series.subject, median, each.unit, spread, _MISSING, *_NO_INTERVAL
