"""The arithmetic of a run: percentiles, spread, ratios, tests against chance. Pure.

Subjects are compared within a round, in which the machine behaved alike, and only then
across rounds: a ratio is the median of the ratios per round, never the ratio of two medians.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

Rounds: TypeAlias = Sequence[float | None]
"""One value per round; None where nothing was measured."""

NOISE_LIMIT = 0.15
"""A spread above this is worth a warning: the machine was busy with something else."""

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
"""The quantiles that are kept of a distribution, beside its maximum: closer towards the tail."""

_MAX_TERMS = 10_000
_EPSILON = 1e-15
_TINY = 1e-300


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` per cent of `values` do not exceed.

    Nearest rank: always a value that was measured, never an interpolation, so a p99 of 50
    requests is the slowest of them and not a number between two. Raises ValueError when there
    are no values or `percent` is outside 0..100.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile of no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"percentile {percent} is outside 0..100")
    return ordered[_nearest_rank(len(ordered), percent / 100)]


def quantiles(
    values: Iterable[float], at: Sequence[float] = QUANTILES
) -> tuple[tuple[float, float], ...]:
    """(q, value) by nearest rank for each q of `at` that `values` are enough for, and q = 1.

    A q between the last two values would only repeat the maximum: p99.99 needs 10,000 values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the quantiles of no values")
    count = len(ordered)
    found = [(q, ordered[_nearest_rank(count, q)]) for q in at if q < 1 and (1 - q) * count >= 1]
    return (*found, (1.0, ordered[-1]))


def _nearest_rank(count: int, q: float) -> int:
    """The index, from 0, of quantile `q` among `count` sorted values."""
    # 0.07 * 100 is 7.000000000000001: without the rounding its rank would be the eighth.
    return max(0, math.ceil(round(q * count, 9)) - 1)


def measured(rounds: Rounds) -> list[float]:
    """The values without the rounds that have none."""
    return [value for value in rounds if value is not None]


def spread(values: Sequence[float]) -> float:
    """(max - min) / median: 0.1 means that all rounds lie within a tenth of the median.

    The whole range, since of three or five rounds there are no quartiles to speak of. 0 for a
    single value. When the median is 0, 0 if all values are equal and infinity otherwise.
    """
    width = max(values) - min(values)
    if width == 0:
        return 0.0
    middle = statistics.median(values)
    return width / abs(middle) if middle else math.inf


@dataclass(frozen=True, slots=True)
class Summary:
    """Some rounds in short. `spread` is (max - min) / median."""

    median: float
    low: float
    high: float
    spread: float


def summarize(rounds: Rounds) -> Summary | None:
    """The rounds in short, or None when nothing was measured."""
    values = measured(rounds)
    if not values:
        return None
    return Summary(statistics.median(values), min(values), max(values), spread(values))


def ratios(ours: Rounds, theirs: Rounds) -> list[float | None]:
    """ours / theirs in each round; None where one was not measured or theirs is 0."""
    return [
        None if our is None or not their else our / their
        for our, their in zip(ours, theirs, strict=False)
    ]


_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t at 97.5 %, for 1 to 30 degrees of freedom; beyond, the last serves."""


def interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Where the true ratio lies with 95 % confidence; None for fewer than two ratios, or one <= 0.

    Student's t over the logarithms: a ratio of 2 and one of a half are equally far from 1. It
    holds for the rounds of this run; from one run to the next the machine differs too.
    """
    if len(ratios) < 2 or min(ratios) <= 0:
        return None
    logs = [math.log(each) for each in ratios]
    middle, freedom = statistics.fmean(logs), len(logs) - 1
    reach = _T_975[min(freedom, len(_T_975)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle - reach), math.exp(middle + reach)


def total(parts: Sequence[Rounds]) -> list[float | None]:
    """The sum of the parts in each round; None where a part was not measured."""
    return [
        None if any(value is None for value in values) else math.fsum(measured(values))
        for values in zip(*parts, strict=False)
    ]


def latency_from_intended(
    started: float, interval: float, finished: Iterable[float | None]
) -> list[float]:
    """How long each request of an open loop took, from when it was *meant* to be sent.

    Request n was due at `started + n * interval` whether or not the connection was ready for
    it. Counted from the actual send, a server that stalls for a second would spoil one request
    instead of all that were due meanwhile (coordinated omission: Gil Tene, "How NOT to measure
    latency"). `finished` has the moments of the replies in the order of the requests, on the
    clock of `started`; None for a request that got no reply, which is left out.
    """
    return [
        moment - (started + number * interval)
        for number, moment in enumerate(finished)
        if moment is not None
    ]


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Pearson's test: whether counts look drawn from what was expected."""

    statistic: float
    degrees_of_freedom: int
    p_value: float
    """How likely counts at least as uneven are if all is as expected."""


def chi_square(observed: Sequence[int], expected: Sequence[float] | None = None) -> ChiSquare:
    """Pearson's chi-square test of `observed` counts, against equal shares by default.

    `expected` may be in any unit: it is scaled to the sum of the counts. The p-value is an
    approximation that wants some 5 expected in every cell. Raises ValueError for fewer than two
    cells, nothing counted, or a cell that is expected to be empty.
    """
    shares = expected if expected is not None else [1.0] * len(observed)
    if len(observed) < 2 or len(shares) != len(observed):
        raise ValueError("chi-square needs two cells or more, and an expectation for each")
    if sum(observed) <= 0 or min(shares) <= 0:
        raise ValueError("chi-square needs counts, and something expected in every cell")
    scale = sum(observed) / math.fsum(shares)
    statistic = math.fsum(
        (count - share * scale) ** 2 / (share * scale)
        for count, share in zip(observed, shares, strict=True)
    )
    freedom = len(observed) - 1
    return ChiSquare(statistic, freedom, gamma_q(freedom / 2, statistic / 2))


def gamma_q(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x), for a > 0 and x >= 0.

    The series below x = a + 1 and Lentz's continued fraction above it converge fast (Numerical
    Recipes, section 6.2; DLMF 8.11.4 and 8.9.2).
    """
    if a <= 0 or x < 0:
        raise ValueError(f"Q({a}, {x}) is not defined")
    if x == 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        return max(0.0, 1.0 - scale * _gamma_series(a, x))
    return scale * _gamma_fraction(a, x)


def _gamma_series(a: float, x: float) -> float:
    term = total = 1 / a
    for n in range(1, _MAX_TERMS):
        term *= x / (a + n)
        total += term
        if term < total * _EPSILON:
            break
    return total


def _gamma_fraction(a: float, x: float) -> float:
    b = x + 1 - a
    c = 1 / _TINY
    d = 1 / b
    fraction = d
    for n in range(1, _MAX_TERMS):
        numerator = -n * (n - a)
        b += 2
        d = 1 / _away_from_zero(numerator * d + b)
        c = _away_from_zero(b + numerator / c)
        fraction *= d * c
        if abs(d * c - 1) < _EPSILON:
            break
    return fraction


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def mann_whitney(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The two-sided p-value of the Mann-Whitney U test: whether both come from one distribution.

    Exact, ties included: of all divisions of the pooled ranks into two groups of these sizes, the
    share whose rank sum is at least as far from the expected one. It assumes nothing about the
    distribution of the noise. With few values it cannot be very sure: 4 against 4 give 0.029 at
    best, 3 against 3 only 0.1. 1.0 when a side is empty.
    """
    if not ours or not theirs:
        return 1.0
    ranks = _doubled_midranks([*ours, *theirs])
    expected = len(ours) * (len(ranks) + 1)  # of the doubled rank sum
    distance = abs(sum(ranks[: len(ours)]) - expected)
    ways = _rank_sums(ranks, len(ours))
    extreme = sum(count for value, count in enumerate(ways) if abs(value - expected) >= distance)
    return extreme / sum(ways)


def _doubled_midranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 1; equal values share the mean of theirs. Twice, so
    that halves stay whole numbers.
    """
    doubled: dict[float, int] = {}
    below = 0
    for value, equals in groupby(sorted(values)):
        count = sum(1 for _ in equals)
        doubled[value] = 2 * below + count + 1
        below += count
    return [doubled[value] for value in values]


def _rank_sums(ranks: Sequence[int], size: int) -> list[int]:
    """In how many ways `size` of the ranks have each sum, by the sum.

    The counts are digits of one large number for every size, so that a shift and an addition add
    a rank to all groups at once: thirty rounds against thirty take milliseconds.
    """
    width = len(ranks) // 8 + 1  # bytes: there are fewer than 2 ** len(ranks) ways in all
    ways = [1, *(0 for _ in range(size))]
    for rank in ranks:
        for chosen in range(size, 0, -1):
            ways[chosen] += ways[chosen - 1] << 8 * width * rank
    digits = ways[size].to_bytes(width * (sum(ranks) + 1), "little")
    return [
        int.from_bytes(digits[at : at + width], "little") for at in range(0, len(digits), width)
    ]
