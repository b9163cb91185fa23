"""The arithmetic against answers worked out by hand or printed in tables."""

import math
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.bench.report import arithmetic

ONE_TO_TEN = [3.0, 1.0, 2.0, 5.0, 4.0, 10.0, 9.0, 8.0, 7.0, 6.0]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        pytest.param(ONE_TO_TEN, 50, 5.0, id="p50-of-ten-is-the-fifth"),
        pytest.param(ONE_TO_TEN, 51, 6.0, id="just-above-half-is-the-sixth"),
        pytest.param(ONE_TO_TEN, 90, 9.0, id="p90-of-ten-is-the-ninth"),
        pytest.param(ONE_TO_TEN, 99, 10.0, id="p99-of-ten-is-the-last"),
        pytest.param(ONE_TO_TEN, 100, 10.0, id="p100-is-the-maximum"),
        pytest.param(ONE_TO_TEN, 0, 1.0, id="p0-is-the-minimum"),
        pytest.param([7.5], 99, 7.5, id="one-value-is-every-percentile"),
        pytest.param(range(1, 1001), 99, 990, id="p99-of-a-thousand"),
        pytest.param(range(1, 101), 7, 7, id="floats-do-not-shift-the-rank"),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert arithmetic.percentile(values, percent) == expected


@pytest.mark.parametrize(
    ("values", "percent"),
    [
        pytest.param([], 50, id="no-values"),
        pytest.param([1.0], -1, id="below-0"),
        pytest.param([1.0], 100.1, id="above-100"),
    ],
)
def test_a_percentile_that_means_nothing_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        arithmetic.percentile(values, percent)


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(min_value=0, max_value=100))
def test_a_percentile_was_measured_and_enough_values_do_not_exceed_it(
    values: list[float], percent: float
) -> None:
    found = arithmetic.percentile(values, percent)

    assert found in values
    assert sum(v <= found for v in values) >= math.floor(len(values) * percent / 100)


def test_only_the_quantiles_that_the_values_are_enough_for_are_kept() -> None:
    hundred = arithmetic.quantiles(range(1, 101), at=(0.5, 0.99, 0.999))
    thousand = arithmetic.quantiles(range(1, 1001), at=(0.5, 0.99, 0.999))

    assert hundred == ((0.5, 50), (0.99, 99), (1.0, 100))
    assert thousand == ((0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1000))


@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=1))
def test_quantiles_ascend_to_the_maximum(values: list[float]) -> None:
    found = arithmetic.quantiles(values)

    assert list(found) == sorted(found)
    assert found[-1] == (1.0, max(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([100.0, 110.0, 90.0], 0.2, id="a-tenth-either-way"),
        pytest.param([5.0], 0.0, id="one-value"),
        pytest.param([0.0, 0.0], 0.0, id="all-zero"),
        pytest.param([0.0, 0.0, 3.0], math.inf, id="zero-but-once"),
        pytest.param([1.0, 2.0, 3.0, 4.0], 1.2, id="an-even-number-has-its-median-between"),
    ],
)
def test_spread_is_the_width_over_the_median(values: list[float], expected: float) -> None:
    assert arithmetic.spread(values) == pytest.approx(expected)


def test_a_round_that_was_not_measured_counts_nowhere() -> None:
    rounds = (30.0, None, 10.0, 20.0)

    assert arithmetic.summarize(rounds) == arithmetic.Summary(20.0, 10.0, 30.0, 1.0)
    assert arithmetic.summarize((None, None)) is None


def test_ratios_are_taken_within_a_round() -> None:
    ours = (10.0, 30.0, None, 7.0, 50.0, 8.0)
    theirs = (20.0, 10.0, 5.0, 0.0, None)

    assert arithmetic.ratios(ours, theirs) == [0.5, 3.0, None, None, None]


def test_a_total_needs_every_part() -> None:
    assert arithmetic.total([(1.0, 2.0, None), (10.0, 20.0, 30.0)]) == [11.0, 22.0, None]


def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    """One request a second; the server stalls from 1.5 until 5, then answers all at once."""
    finished = (0.1, 1.1, 5.0, 5.0, 5.0, 5.1)

    latencies = arithmetic.latency_from_intended(0.0, 1.0, finished)

    assert latencies == pytest.approx([0.1, 0.1, 3.0, 2.0, 1.0, 0.1])


def test_a_request_without_a_reply_has_no_latency_and_moves_no_other() -> None:
    latencies = arithmetic.latency_from_intended(10.0, 0.5, (10.2, None, 11.3))
    assert latencies == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize(
    ("freedom", "critical", "p_value"),
    [
        # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4
        pytest.param(1, 3.841, 0.05, id="1-at-5%"),
        pytest.param(3, 7.815, 0.05, id="3-at-5%"),
        pytest.param(3, 16.266, 0.001, id="3-at-0.1%"),
        pytest.param(10, 18.307, 0.05, id="10-at-5%"),
        pytest.param(10, 4.865, 0.9, id="10-at-90%"),
        pytest.param(100, 124.342, 0.05, id="100-at-5%"),
        pytest.param(100, 77.929, 0.95, id="100-at-95%"),
    ],
)
def test_the_chi_square_distribution_is_that_of_the_tables(
    freedom: int, critical: float, p_value: float
) -> None:
    assert arithmetic.gamma_q(freedom / 2, critical / 2) == pytest.approx(p_value, rel=2e-3)


@given(st.floats(min_value=1e-6, max_value=600))
def test_two_degrees_of_freedom_are_an_exponential(x: float) -> None:
    assert arithmetic.gamma_q(1.0, x) == pytest.approx(math.exp(-x), rel=1e-9)


@given(st.floats(min_value=1e-6, max_value=25))
def test_one_degree_of_freedom_is_the_complementary_error_function(x: float) -> None:
    assert arithmetic.gamma_q(0.5, x * x) == pytest.approx(math.erfc(x), rel=1e-8)


@pytest.mark.parametrize(
    ("a", "x", "expected"), [(2.0, 0.0, 1.0), (5_000.0, 5_000.0, 0.498), (3.0, 2_000.0, 0.0)]
)
def test_the_gamma_function_holds_at_its_ends(a: float, x: float, expected: float) -> None:
    assert arithmetic.gamma_q(a, x) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("a", "x"), [(0.0, 1.0), (1.0, -1.0)])
def test_the_gamma_function_of_what_it_is_not_defined_for(a: float, x: float) -> None:
    with pytest.raises(ValueError, match="not defined"):
        arithmetic.gamma_q(a, x)


def test_a_die_that_is_thrown_sixty_times() -> None:
    """Expected 10 of each; (25 + 4 + 4 + 1 + 0 + 100) / 10 = 13.4 at 5 degrees of freedom."""
    found = arithmetic.chi_square([5, 8, 9, 8, 10, 20])

    assert found.statistic == pytest.approx(13.4)
    assert found.degrees_of_freedom == 5
    assert found.p_value == pytest.approx(0.0199, abs=1e-4)


def test_expectations_are_scaled_to_the_counts() -> None:
    """Mendel's peas, 9 : 3 : 3 : 1, a classic of 0.470."""
    found = arithmetic.chi_square([315, 101, 108, 32], expected=[9, 3, 3, 1])

    assert found.statistic == pytest.approx(0.470, abs=1e-3)
    assert found.p_value == pytest.approx(0.925, abs=1e-3)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param([5], None, id="one-cell"),
        pytest.param([0, 0], None, id="nothing-counted"),
        pytest.param([1, 2], [1.0, 0.0], id="nothing-expected"),
        pytest.param([1, 2], [1.0], id="an-expectation-is-missing"),
    ],
)
def test_a_chi_square_that_means_nothing_is_refused(
    observed: list[int], expected: list[float] | None
) -> None:
    with pytest.raises(ValueError, match="chi-square"):
        arithmetic.chi_square(observed, expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "p_value"),
    [
        pytest.param([1, 2, 3], [4, 5, 6], 2 / 20, id="3-and-3-apart"),
        pytest.param([1, 2, 3, 4], [5, 6, 7, 8], 2 / 70, id="4-and-4-apart"),
        pytest.param([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 2 / 252, id="5-and-5-apart"),
        pytest.param([1, 2, 3, 5], [4, 6, 7, 8], 4 / 70, id="one-step-less"),
        pytest.param([1, 4], [2, 3], 1.0, id="around"),
        pytest.param([7, 7, 7], [7, 7], 1.0, id="all-equal"),
        pytest.param([], [1.0], 1.0, id="nothing-to-compare"),
    ],
)
def test_mann_whitney_of_small_samples(
    ours: list[float], theirs: list[float], p_value: float
) -> None:
    assert arithmetic.mann_whitney(ours, theirs) == pytest.approx(p_value)


_few = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(_few, _few)
def test_mann_whitney_counts_the_deals_that_are_as_extreme(
    ours: list[int], theirs: list[int]
) -> None:
    """Against U counted pair by pair, over every way to deal the values into two hands."""
    pooled = ours + theirs

    def distance(hand: tuple[int, ...]) -> float:
        rest = [i for i in range(len(pooled)) if i not in hand]
        u = sum(
            (pooled[i] > pooled[j]) + 0.5 * (pooled[i] == pooled[j]) for i in hand for j in rest
        )
        return abs(u - len(hand) * len(rest) / 2)

    deals = list(combinations(range(len(pooled)), len(ours)))
    seen = distance(tuple(range(len(ours))))
    extreme = sum(distance(deal) >= seen for deal in deals)
    assert arithmetic.mann_whitney(ours, theirs) == pytest.approx(extreme / len(deals))


@pytest.mark.parametrize("rounds", [4, 5, 7])
@pytest.mark.parametrize("tail", [0.05, 0.5])
def test_equal_distributions_are_distinguished_no_more_often_than_stated(
    rounds: int, tail: float
) -> None:
    chance = random.Random(4)

    def sample() -> list[float]:
        return [chance.lognormvariate(0, tail) for _ in range(rounds)]

    trials = 2_000
    alarms = sum(arithmetic.mann_whitney(sample(), sample()) <= 0.05 for _ in range(trials))
    assert 0 < alarms <= 0.06 * trials


def test_the_interval_of_a_ratio_is_students_over_the_logarithms() -> None:
    """By hand: logarithms of mean 0.009685 and deviation 0.086005; t is 3.182 for three."""
    found = arithmetic.interval([0.9, 1.0, 1.1, 1.05])
    assert found == pytest.approx((0.8806, 1.1578), abs=1e-4)


def test_equal_ratios_leave_no_doubt_and_one_leaves_every() -> None:
    assert arithmetic.interval([0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.5))
    assert arithmetic.interval([0.5]) is None
    assert arithmetic.interval([]) is None
    assert arithmetic.interval([1.0, 0.0]) is None


def test_an_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    chance = random.Random(7)
    covered = 0
    for _ in range(2000):
        found = arithmetic.interval([chance.lognormvariate(0.1, 0.05) for _ in range(8)])
        assert found is not None
        covered += found[0] <= math.exp(0.1) <= found[1]
    assert 0.935 <= covered / 2000 <= 0.965
