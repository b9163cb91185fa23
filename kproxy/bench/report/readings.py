"""What a report shows: wholes, ratios, the headline, and numbers as text. Pure."""

import math
import statistics as stdlib_statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from kproxy.bench.report import arithmetic, results

_PROXIES = ("haproxy", "nginx", "envoy", "socat")
_PLAIN = ("asyncio", "uvloop")
_HEADLINES = 3
_NO_HEADLINE = {"affinity", "faults", "strategies"}
"""Scenarios whose main figure is no measure of what a proxy costs."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One subject's figure. `ratio` is kproxy ÷ subject, the median of the ratios per round;
    None for kproxy itself and where the two were never measured in one round. `interval` is
    where it lies with 95 % confidence; None where one round is all there is.
    """

    subject: str
    summary: arithmetic.Summary
    ratio: float | None
    interval: tuple[float, float] | None = None

    @property
    def margin(self) -> float | None:
        """Half the width of the interval: what stands behind a ±."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


def wholes(scenario: results.Scenario) -> list[results.Figure]:
    """The scenario's figures, with the parts of each stack added up to one figure.

    The whole stands where its first part stood, and is named after its stack.
    """
    found: dict[str, results.Figure] = {}
    for figure in scenario.figures:
        if figure.stack is None:
            found[figure.name] = figure
        elif figure.stack not in found:
            found[figure.stack] = _whole(figure.stack, parts(scenario, figure.stack))
    return list(found.values())


def parts(scenario: results.Scenario, stack: str) -> list[results.Figure]:
    """The figures that make up `stack`, in order; none when it is no stack."""
    return [figure for figure in scenario.figures if figure.stack == stack]


def _whole(stack: str, members: Sequence[results.Figure]) -> results.Figure:
    subjects = [each.subject for each in members[0].series]
    summed = []
    for subject in subjects:
        found = [rounds_of(figure, subject) for figure in members]
        summed.append(results.Series(subject, tuple(arithmetic.total(found))))
    return msgspec.structs.replace(
        members[0], name=stack, title=stack, stack=None, series=tuple(summed)
    )


def rounds_of(figure: results.Figure, subject: str) -> tuple[float | None, ...]:
    """The subject's rounds; none when the figure was not measured of it."""
    return next((each.rounds for each in figure.series if each.subject == subject), ())


def read(figure: results.Figure) -> list[Reading]:
    """Every subject of the figure that was measured at all, in the report's order."""
    ours = rounds_of(figure, results.SUBJECT)
    found = []
    for series in figure.series:
        summary = arithmetic.summarize(series.rounds)
        if summary is None:
            continue
        is_peer = series.subject != results.SUBJECT
        compared = arithmetic.measured(arithmetic.ratios(ours, series.rounds)) if is_peer else []
        middle = stdlib_statistics.median(compared) if compared else None
        found.append(Reading(series.subject, summary, middle, arithmetic.interval(compared)))
    return found


def ranked(figure: results.Figure) -> list[Reading]:
    """The same, the best first."""
    return sorted(
        read(figure), key=lambda each: each.summary.median, reverse=figure.better == "higher"
    )


def value_at(series: results.Quantiles, q: float) -> float | None:
    """The quantile `q` of a distribution, or None when it was not kept."""
    return next((value for at, value in series.quantiles if math.isclose(at, q)), None)


def noise(report: results.Report) -> str | None:
    """A sentence when rounds lie further apart than NOISE_LIMIT; None when the machine was calm.

    Only each scenario's main figure counts: tails and longest times differ from round to round
    on the calmest machine.
    """
    spreads = [
        (reading.summary.spread, scenario, figure, reading.subject)
        for scenario in report.scenarios
        for figure in wholes(scenario)[:1]
        for reading in read(figure)
    ]
    loud = [each for each in spreads if each[0] > arithmetic.NOISE_LIMIT]
    if not loud:
        return None
    worst, scenario, figure, subject = max(loud, key=lambda each: each[0])
    return (
        f"the machine was noisy: in {len(loud)} of {len(spreads)} main figures the rounds spread "
        f"over {percent(arithmetic.NOISE_LIMIT)} (most: {scenario.name}, {figure.title} of "
        f"{label(subject)}, {percent(worst)}); close other programs, or take more rounds"
    )


def warnings(report: results.Report) -> list[str]:
    """What a reader must know before trusting the figures."""
    found = list(report.warnings)
    if report.interrupted:
        found.insert(0, "the run was interrupted: what is missing was not measured")
    if (sentence := noise(report)) is not None:
        found.append(sentence)
    return found


def headline(report: results.Report) -> list[str]:
    """The run in up to three sentences: kproxy's main figures beside the peers a reader knows."""
    found = []
    for scenario in report.scenarios:
        sentence = None if scenario.name in _NO_HEADLINE else _main_figure(scenario)
        if sentence is not None:
            found.append(sentence)
    return found[:_HEADLINES]


def _main_figure(scenario: results.Scenario) -> str | None:
    figures = wholes(scenario)
    if not figures:
        return None
    readings = {each.subject: each for each in read(figures[0])}
    ours = readings.get(results.SUBJECT)
    compared = [
        f"{ratio(reading.ratio)} times {label(reading.subject)}"
        for subjects in (_PROXIES, _PLAIN, (results.DIRECT,))
        for reading in [readings[each] for each in subjects if each in readings][:1]
        if reading.ratio is not None
    ]
    if ours is None or not compared:
        return None
    verb = "reaches" if figures[0].better == "higher" else "takes"
    amount_ = amount(ours.summary.median, figures[0].unit)
    title = scenario.title[:1].upper() + scenario.title[1:]
    return f"{title}: kproxy {verb} {amount_}, {listed(compared)}."


def label(subject: str) -> str:
    """A subject's name for reading."""
    return "no proxy" if subject == results.DIRECT else subject


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def number(value: float) -> str:
    """Three digits, or all before the point: "13,942", "67.2", "0.972"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    if decimals > 6:
        return f"{value:.2e}"
    return f"{value:,.{decimals}f}"


def amount(value: float, unit: str) -> str:
    """A figure with its unit: "13,942 requests/s"."""
    return f"{number(value)} {unit}".rstrip()


def ratio(value: float) -> str:
    """A ratio for reading, to the hundredth: "0.97"; large ones whole, of small ones one digit."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.01 or value == 0 else f"{value:.1g}"


def ratio_of(reading: Reading) -> str:
    """A reading's ratio with its margin: "0.97 ±0.02"; "" where there is none.

    "±?" where the margin is as large as the ratio: the rounds differ too much for a verdict.
    """
    if reading.ratio is None:
        return ""
    margin, middle = reading.margin, ratio(reading.ratio)
    if margin is None:
        return middle
    return f"{middle} ±{ratio(margin) if margin < reading.ratio else '?'}"


def direction(better: results.Better) -> str:
    """ "higher is better" or "lower is better"."""
    return f"{better} is better"


def is_comparison(found: Sequence[Reading]) -> bool:
    """Whether there is something to draw: two subjects at least, and not all of them 0."""
    return len(found) > 1 and any(each.summary.high for each in found)


def percent(share: float) -> str:
    """0.153 as "15 %"."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "∞"


def size(value: float) -> str:
    """A place on a logarithmic axis in few characters: "1", "1,000", "10k", "1M"."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:,g}"


def duration(seconds: float) -> str:
    """Seconds for reading: "8 s", "2 min 05 s"."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"
