"""The charts of a report, drawn by matplotlib as SVG whose colours the page decides.

Every colour in a drawing is a placeholder that becomes a CSS variable, so that one drawing serves
light, dark and paper. Text stays text: it can be searched, copied and read aloud.

kproxy has the one saturated colour and the one thick line. Peers have labels at their lines and
bars, so no chart depends on seeing colours. Importing this module needs matplotlib, the extra
`report`.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from itertools import cycle
from typing import Any, TypeAlias, TypeVar

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kproxy.bench.report import arithmetic, readings, results

_COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "rule": "#030303",
    "ours": "#040404",
    "ours-soft": "#050505",
    "peer": "#060606",
    "peer-soft": "#070707",
    "paper": "#080808",
    "line-1": "#090909",
    "line-2": "#0a0a0a",
    "line-3": "#0b0b0b",
    "line-4": "#0c0c0c",
    "line-5": "#0d0d0d",
    "line-6": "#0e0e0e",
    "line-7": "#0f0f0f",
    "line-8": "#101010",
}
"""Placeholder of each CSS variable."""

_LINES = {
    "direct": "line-1",
    "haproxy": "line-2",
    "nginx": "line-3",
    "socat": "line-4",
    "envoy": "line-4",
    "uvloop": "line-5",
    "asyncio": "line-6",
    "iptables": "line-7",
    "nftables": "line-8",
}
"""A subject's colour, the same in every chart whichever subjects take part."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kproxy",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["rule"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": _COLOURS["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": _COLOURS["rule"],
    "ytick.color": _COLOURS["rule"],
    "xtick.labelcolor": _COLOURS["muted"],
    "ytick.labelcolor": _COLOURS["muted"],
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.labelsize": 10,
}

_RATIO_HEADING = "kproxy \N{DIVISION SIGN}"
_HEADING = -0.9  # the row of the headings, above the first bar
_WIDTH = 6.6  # inches, of 72 units each
_ROW = 0.34
_LABEL_GAP = 13.0  # points between the baselines of two labels
_LETTER = 6.4
"""Points that a letter takes on average, and a little more: the page chooses the font."""
_GAP = 10.0  # points between columns
_LEAST_BARS = 0.15  # of the width, however long names and numbers are


def bars(
    figure: results.Figure, parts: Sequence[results.Figure] = (), identity: str = "chart"
) -> str:
    """A bar per subject, the best on top: median, every round as a dot, min to max as a whisker.

    `parts` are what the figure is the sum of, drawn one after the other within its bar. Returns
    an SVG element whose ids begin with `identity`.
    """
    ranked = readings.ranked(figure)
    height = _ROW * (len(ranked) + 0.9)
    with _drawing(height) as (drawing, axes):
        for row, reading in enumerate(ranked):
            _bar(axes, row, reading, parts)
            _dots(axes, row, figure, reading)
        widest = max(each.summary.high for each in ranked) or 1.0
        axes.set_xlim(0, widest)
        axes.set_ylim(len(ranked) - 0.5, -1.4)
        axes.set_yticks(range(len(ranked)), [readings.label(each.subject) for each in ranked])
        _own_label_stands_out(axes, ranked)
        axes.tick_params(axis="y", length=0, labelsize=11)
        axes.xaxis.set_visible(False)
        axes.spines[["bottom", "left"]].set_visible(False)
        medians = [_bar_text(each, parts) for each in ranked]
        ratios = [readings.ratio_of(each) for each in ranked]
        room = 72 * _WIDTH
        names = _widest([readings.label(each.subject) for each in ranked])
        columns = _widest(["median", *medians]), _widest([_RATIO_HEADING, *ratios])
        left = (names + _GAP) / room
        drawing.subplots_adjust(
            left=left,
            right=max(1 - (sum(columns) + 2 * _GAP) / room, left + _LEAST_BARS),
            top=0.99,
            bottom=0.01,
        )
        _bar_words(axes, ranked, medians, ratios, sum(columns) + 2 * _GAP)
        return _svg(drawing, identity, figure.title, _bars_in_words(figure, ranked))


def _widest(texts: Sequence[str]) -> float:
    """Points that the longest of some texts takes."""
    return _LETTER * max(map(len, texts))


def _bar(axes: Axes, row: int, reading: readings.Reading, parts: Sequence[results.Figure]) -> None:
    kind = "ours" if _is_ours(reading.subject) else "peer"
    if not parts:
        axes.barh(row, reading.summary.median, height=0.62, color=_COLOURS[kind])
        return
    left = 0.0
    for part, tint in zip(parts, cycle((kind, f"{kind}-soft")), strict=False):
        width = _median(readings.rounds_of(part, reading.subject)) or 0.0
        axes.barh(row, width, left=left, height=0.62, color=_COLOURS[tint])
        left += width


def _dots(axes: Axes, row: int, figure: results.Figure, reading: readings.Reading) -> None:
    """The rounds. A ring in the page's colour keeps them visible on the bar and off it."""
    values = arithmetic.measured(readings.rounds_of(figure, reading.subject))
    if len(values) < 2:
        return
    low, high = reading.summary.low, reading.summary.high
    axes.plot([low, high], [row, row], color=_COLOURS["ink"], linewidth=0.9, zorder=3)
    axes.scatter(
        values,
        [row] * len(values),
        s=11,
        color=_COLOURS["ink"],
        edgecolors=_COLOURS["paper"],
        linewidths=0.5,
        zorder=4,
        clip_on=False,
    )


def _bar_text(reading: readings.Reading, parts: Sequence[results.Figure]) -> str:
    """The median, and what it is the sum of."""
    text = readings.number(reading.summary.median)
    medians = [_median(readings.rounds_of(part, reading.subject)) for part in parts]
    known = [each for each in medians if each is not None]
    return f"{text} = {' + '.join(map(readings.number, known))}" if known else text


def _write(axes: Axes, row: float, place: float, text: str, **looks: Any) -> None:
    """Write `text` beside a bar, `place` points from the right end of the axes."""
    axes.annotate(
        text,
        (1.0, row),
        xycoords=("axes fraction", "data"),
        xytext=(place, 0),
        textcoords="offset points",
        va="center_baseline",
        annotation_clip=False,
        **looks,
    )


def _bar_words(
    axes: Axes,
    ranked: Sequence[readings.Reading],
    medians: Sequence[str],
    ratios: Sequence[str],
    end: float,
) -> None:
    """Two columns of words at the right: the medians, and kproxy's ratio to each."""
    heading: dict[str, Any] = {"fontsize": 10, "color": _COLOURS["muted"]}
    _write(axes, _HEADING, _GAP, "median", **heading)
    _write(axes, _HEADING, end, _RATIO_HEADING, ha="right", **heading)
    for row, (reading, median, ratio) in enumerate(zip(ranked, medians, ratios, strict=True)):
        is_ours = _is_ours(reading.subject)
        looks: dict[str, Any] = {
            "color": _COLOURS["ours" if is_ours else "ink"],
            "fontweight": "bold" if is_ours else "normal",
        }
        _write(axes, row, _GAP, median, **looks)
        _write(axes, row, end, ratio, ha="right", **looks)


def _own_label_stands_out(axes: Axes, ranked: Sequence[readings.Reading]) -> None:
    for tick, reading in zip(axes.get_yticklabels(), ranked, strict=True):
        is_ours = _is_ours(reading.subject)
        tick.set_color(_COLOURS["ours" if is_ours else "ink"])
        tick.set_fontweight("bold" if is_ours else "normal")


def distribution(figure: results.Distribution, identity: str = "chart") -> str:
    """The quantiles of every subject, both axes logarithmic: value over the distance to 100 %.

    The axis of percentiles gives each further nine the same room, as HdrHistogram's plots do, so
    the tail is where the eye is.
    """
    with _drawing(3.2) as (drawing, axes):
        ends = []
        for series in _ours_last(figure.series):
            points = [(1 / (1 - q), v) for q, v in series.quantiles if 0 < q < 1 and v > 0]
            if not points:
                continue
            _line(axes, series.subject, points)
            ends.append((series.subject, points[-1]))
        axes.set_xscale("log")
        axes.set_yscale("log")
        deepest = max((x for _, (x, _) in ends), default=100.0)
        nines = [(q, name) for q, name in _NINES if 1 / (1 - q) <= deepest * 1.001]
        axes.set_xticks([1 / (1 - q) for q, _ in nines], [name for _, name in nines])
        axes.set_xlim(1, deepest)
        axes.xaxis.minorticks_off()
        axes.set_xlabel("percentile, logarithmic towards 100")
        _value_axis(axes)
        _end_labels(drawing, axes, ends)
        return _svg(drawing, identity, figure.title, _distribution_in_words(figure))


_NINES = ((0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99"))


def curve(figure: results.Curve, identity: str = "chart") -> str:
    """How a quantity grows: medians joined, min to max of kproxy's rounds as a band."""
    with _drawing(3.2) as (drawing, axes):
        ends = []
        for series in _ours_last(figure.series):
            found = [(p.x, arithmetic.summarize(p.rounds)) for p in series.points]
            known = [(x, s) for x, s in found if s is not None and (s.low > 0 or not figure.log_y)]
            if not known:
                continue
            points = [(x, summary.median) for x, summary in known]
            colour = _line(axes, series.subject, points, marker="o")
            if _is_ours(series.subject):  # seven bands over each other hide what they lie behind
                lows, highs = [s.low for _, s in known], [s.high for _, s in known]
                reach = [x for x, _ in points]
                axes.fill_between(reach, lows, highs, color=colour, alpha=0.15, linewidth=0)
            ends.append((series.subject, points[-1]))
        places = sorted({point.x for series in figure.series for point in series.points})
        axes.set_xscale("log" if figure.log_x else "linear")
        axes.set_yscale("log" if figure.log_y else "linear")
        if not figure.log_y:
            axes.set_ylim(bottom=0)
        axes.set_xticks(places, [readings.size(x) for x in places])
        axes.xaxis.minorticks_off()
        axes.set_xlabel(f"{figure.x_label}, logarithmic" if figure.log_x else figure.x_label)
        _value_axis(axes)
        _end_labels(drawing, axes, ends)
        return _svg(drawing, identity, figure.title, _curve_in_words(figure))


_Ends: TypeAlias = Sequence[tuple[str, tuple[float, float]]]


def _line(axes: Axes, subject: str, points: Sequence[tuple[float, float]], marker: str = "") -> str:
    """Draw a subject's line; returns its colour."""
    colour = _line_colour(subject)
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        linewidth=2.4 if _is_ours(subject) else 1.2,
        marker=marker,
        markersize=4 if _is_ours(subject) else 3,
        solid_capstyle="round",
    )
    return colour


def _line_colour(subject: str) -> str:
    return _COLOURS["ours" if _is_ours(subject) else _LINES.get(subject, "muted")]


def _value_axis(axes: Axes) -> None:
    """Round numbers, as many as fit; the unit stands in the page, above the chart."""
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        subs = [1.0] if high / low > 300 else [1.0, 2.0, 5.0]
        if high / low < 15:
            subs = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: readings.size(value))
    axes.tick_params(length=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)


def _end_labels(drawing: Figure, axes: Axes, ends: _Ends) -> None:
    """Name every line at its right end, moved up or down where two names would overlap."""
    names = _widest([readings.label(subject) for subject, _ in ends] or [""])
    right = 1 - (names + 2 * _GAP) / (72 * _WIDTH)
    drawing.subplots_adjust(left=0.1, right=right, top=0.98, bottom=0.17)
    if not ends:
        return
    edge = axes.transAxes.transform((1, 0))[0]
    at = [float(axes.transData.transform(point)[1]) for _, point in ends]
    low, high = (float(axes.transAxes.transform((0, y))[1]) for y in (0, 1))
    for (subject, point), y in zip(ends, apart(at, _LABEL_GAP, low, high), strict=True):
        axes.annotate(
            readings.label(subject),
            point,
            xytext=(edge + 10, y),
            textcoords="figure pixels",
            va="center",
            ha="left",
            fontsize=11,
            fontweight="bold" if _is_ours(subject) else "normal",
            color=_line_colour(subject),
            arrowprops={"arrowstyle": "-", "color": _line_colour(subject), "linewidth": 0.6},
            annotation_clip=False,
        )


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """`places` moved as little as needed to lie `gap` from each other and within low..high.

    Where they do not all fit they go beyond `high`, rather than over each other.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [min(max(places[index], low), high) for index in order]
    for index in range(len(moved) - 2, -1, -1):
        moved[index] = min(moved[index], moved[index + 1] - gap)
    moved = [max(place, low + index * gap) for index, place in enumerate(moved)]
    for index in range(1, len(moved)):
        moved[index] = max(moved[index], moved[index - 1] + gap)
    found = [0.0] * len(places)
    for index, place in zip(order, moved, strict=True):
        found[index] = place
    return found


def _is_ours(subject: str) -> bool:
    return subject == results.SUBJECT


_Named = TypeVar("_Named", results.Quantiles, results.CurveSeries)


def _ours_last(series: Sequence[_Named]) -> list[_Named]:
    """In the order of drawing: kproxy's line lies on top."""
    return sorted(series, key=lambda each: _is_ours(each.subject))


def _median(rounds: arithmetic.Rounds) -> float | None:
    summary = arithmetic.summarize(rounds)
    return None if summary is None else summary.median


@contextmanager
def _drawing(height: float) -> Iterator[tuple[Figure, Axes]]:
    """An empty figure, `height` inches high, and its axes, in the style of a report."""
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=(_WIDTH, height), dpi=72)
        yield drawing, drawing.subplots()


def _svg(drawing: Figure, identity: str, title: str, words: str) -> str:
    """The drawing as an SVG element to stand in a page: named, described, without a size.

    Ids get `identity` in front, since those of several charts share one page.
    """
    written = io.StringIO()
    drawing.savefig(written, format="svg", metadata=_NO_METADATA)
    _, _, body = written.getvalue().partition("<svg")
    _, _, body = body.partition(">")
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", body)
    for name, placeholder in _COLOURS.items():
        body = body.replace(placeholder, f"var(--{name})")
    width, height = (72 * inches for inches in drawing.get_size_inches())
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-words" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">\n'
        f'<title id="{identity}-title">{escape(title)}</title>\n'
        f'<desc id="{identity}-words">{escape(words)}</desc>{body}'
    )


_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def _bars_in_words(figure: results.Figure, ranked: Sequence[readings.Reading]) -> str:
    named = [
        f"{readings.label(each.subject)} {readings.number(each.summary.median)}" for each in ranked
    ]
    return f"{figure.title} in {figure.unit}, the best first: {readings.listed(named)}."


def _distribution_in_words(figure: results.Distribution) -> str:
    named = []
    for series in figure.series:
        median, tail = readings.value_at(series, 0.5), readings.value_at(series, 0.99)
        if median is not None and tail is not None:
            pair = f"{readings.number(median)} and {readings.number(tail)}"
            named.append(f"{readings.label(series.subject)} {pair}")
    return f"{figure.title} in {figure.unit}, median and 99th percentile: {readings.listed(named)}."


def _curve_in_words(figure: results.Curve) -> str:
    named = []
    for series in figure.series:
        medians = [_median(point.rounds) for point in series.points]
        known = [readings.number(each) for each in medians if each is not None]
        if known:
            named.append(f"{readings.label(series.subject)} {known[0]} to {known[-1]}")
    return f"{figure.title} in {figure.unit}, by {figure.x_label}: {readings.listed(named)}."
