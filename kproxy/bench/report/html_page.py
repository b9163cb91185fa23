"""A report as one HTML file that needs nothing else: no script, no font, no request.

The page's own Content-Security-Policy forbids every request. The words around the charts are in
`report.html`, beside this module; the charts themselves are drawn by `kproxy.bench.report.charts`,
and
the numbers of each stand in a table below it.
"""

import base64
import importlib
import itertools
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from kproxy import errors
from kproxy.bench.lab import machine
from kproxy.bench.report import arithmetic, readings, results

_PERCENTILES = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max"))


def write_html(report: results.Report, path: Path) -> None:
    """Write the report as a page to `path`.

    Raises ConfigError without matplotlib, KproxyError when the file cannot be written.
    """
    results.replace(path, page(report).encode())


def require_charts() -> None:
    """Raises ConfigError when charts cannot be drawn. Call it before a long run."""
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise errors.ConfigError(
            "charts need matplotlib, which is not installed: run pip install matplotlib"
        ) from error


def page(report: results.Report) -> str:
    """The report as an HTML document. Raises ConfigError without matplotlib."""
    require_charts()
    template = resources.files("kproxy.bench.report").joinpath("report.html").read_text()
    identities = (f"chart-{number}" for number in itertools.count(1))
    return Template(template).substitute(
        date=escape(_date(report.started)),
        headline="\n".join(
            f'<p class="headline">{escape(each)}</p>' for each in readings.headline(report)
        ),
        warnings=_warnings(readings.warnings(report)),
        scenarios="\n".join(_scenario(each, identities) for each in report.scenarios),
        facts="\n".join(_facts(report)),
        json=base64.b64encode(results.encode(report)).decode(),
    )


def _date(started: str) -> str:
    """RFC 3339 as "2026-11-21 10:00 UTC"; what is none stays as it is."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return started
    return f"{moment:%Y-%m-%d %H:%M %Z}".strip()


def _warnings(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(_capital(each))}.</li>" for each in sentences)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>'


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".")


def _scenario(scenario: results.Scenario, identities: Iterator[str]) -> str:
    notes = "".join(f'<p class="note">{escape(each)}</p>' for each in scenario.notes)
    drawn = "\n".join(_charts(scenario, identities))
    return (
        f"<section>\n<h2>{escape(_capital(scenario.title))}</h2>\n{notes}\n"
        f'<div class="charts">\n{drawn}\n</div>\n</section>'
    )


def _charts(scenario: results.Scenario, identities: Iterator[str]) -> Iterator[str]:
    """Every chart of a scenario that has something to show, with its caption and its numbers."""
    from kproxy.bench.report import charts  # noqa: PLC0415  # needs matplotlib, an extra

    for figure in readings.wholes(scenario):
        found = readings.read(figure)
        if not found:
            continue
        parts = readings.parts(scenario, figure.name)
        subtitle = f"{figure.unit}, {readings.direction(figure.better)}"
        if readings.is_comparison(found):
            drawn = charts.bars(figure, parts, next(identities))
        else:
            drawn = _value(figure, found)
        yield _framed(figure.title, subtitle, drawn, _bars_table(figure, parts), parts)
    for distribution in scenario.distributions:
        if distribution.series:
            drawn = charts.distribution(distribution, next(identities))
            table = _distribution_table(distribution)
            subtitle = f"{distribution.unit}, {readings.direction('lower')}, both axes logarithmic"
            yield _framed(distribution.title, subtitle, drawn, table)
    for curve in scenario.curves:
        if any(series.points for series in curve.series):
            drawn = charts.curve(curve, next(identities))
            subtitle = f"{curve.unit}, {readings.direction(curve.better)}{_axes(curve)}"
            yield _framed(curve.title, subtitle, drawn, _curve_table(curve))


def _axes(curve: results.Curve) -> str:
    """Which axes are logarithmic, in words."""
    match (curve.log_x, curve.log_y):
        case (True, True):
            return ", both axes logarithmic"
        case (True, False):
            return ", horizontal axis logarithmic"
        case (False, True):
            return ", vertical axis logarithmic"
    return ""


def _value(figure: results.Figure, found: Sequence[readings.Reading]) -> str:
    """A figure that compares nothing, in words: one subject, or 0 for all of them."""
    words = readings.listed([readings.label(each.subject) for each in found])
    amount = readings.amount(found[0].summary.median, figure.unit)
    return f'<p class="value"><b>{escape(amount)}</b> {escape(words)}</p>'


def _framed(
    title: str, subtitle: str, drawn: str, table: str, parts: Sequence[results.Figure] = ()
) -> str:
    key = "".join(
        f'<i class="swatch{soft}"></i>{escape(part.title)}'
        for part, soft in zip(parts, itertools.cycle(("", " soft")), strict=False)
    )
    return (
        f"<figure>\n<figcaption><h3>{escape(_capital(title))}</h3>"
        f"<span>{escape(subtitle)}{key}</span></figcaption>\n{drawn}\n"
        f'<details><summary>The numbers</summary><div class="scroll">{table}</div></details>\n'
        "</figure>"
    )


def _bars_table(figure: results.Figure, parts: Sequence[results.Figure]) -> str:
    rounds = max(len(each.rounds) for each in figure.series)
    heads = ["", "median", *(part.title for part in parts), "spread", "kproxy ÷", "95 %"]
    heads += [f"round {number}" for number in range(1, rounds + 1)]
    rows = []
    for each in readings.ranked(figure):
        values = readings.rounds_of(figure, each.subject)
        cells = [
            readings.number(each.summary.median),
            *(_median(readings.rounds_of(part, each.subject)) for part in parts),
            readings.percent(each.summary.spread),
            "" if each.ratio is None else readings.ratio(each.ratio),
            "" if each.interval is None else " to ".join(map(readings.ratio, each.interval)),
            *map(_cell, values),
        ]
        rows.append((each.subject, cells))
    return _table(heads, rows)


def _distribution_table(distribution: results.Distribution) -> str:
    heads = ["", *(name for _, name in _PERCENTILES)]
    rows = [
        (each.subject, [_cell(readings.value_at(each, q)) for q, _ in _PERCENTILES])
        for each in distribution.series
    ]
    return _table(heads, rows)


def _curve_table(curve: results.Curve) -> str:
    places = sorted({point.x for series in curve.series for point in series.points})
    rows = []
    for series in curve.series:
        medians = {point.x: _median(point.rounds) for point in series.points}
        rows.append((series.subject, [medians.get(x, "") for x in places]))
    return _table([curve.x_label, *(f"{x:,g}" for x in places)], rows)


def _table(heads: Iterable[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = []
    for subject, cells in rows:
        mark = ' class="ours"' if subject == results.SUBJECT else ""
        name = f'<th scope="row">{escape(readings.label(subject))}</th>'
        body.append(f"<tr{mark}>{name}{''.join(f'<td>{escape(each)}</td>' for each in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(value: float | None) -> str:
    return "" if value is None else readings.number(value)


def _median(rounds: arithmetic.Rounds) -> str:
    summary = arithmetic.summarize(rounds)
    return _cell(None if summary is None else summary.median)


def _facts(report: results.Report) -> Iterator[str]:
    here = report.machine
    known = [
        ("Command", f"<code>{escape(shlex.join(report.command))}</code>"),
        ("Took", escape(readings.duration(report.seconds))),
        ("Processor", escape(f"{here.cpu}, {here.cores} cores")),
        ("Memory", escape(machine.gibibytes(here.memory))),
        ("Kernel", escape(here.kernel)),
        ("Python", escape(here.python)),
        *((escape(name), escape(version)) for name, version in here.versions.items()),
    ]
    for name, value in known:
        yield f"<dt>{name}</dt><dd>{value}</dd>"
