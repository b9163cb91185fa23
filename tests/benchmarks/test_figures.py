"""Percentiles, spread, ratios and verdicts against answers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import figures
from benchmarks.figures import Round, Target, Verdict

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
    ],
)
def test_a_percentile_is_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert figures.percentile(values, percent) == expected


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
        figures.percentile(values, percent)


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(min_value=0, max_value=100))
def test_a_percentile_was_measured_and_enough_values_do_not_exceed_it(
    values: list[float], percent: float
) -> None:
    found = figures.percentile(values, percent)
    assert found in values
    # `//` on integers of hundredths would hide what rounding does; compare with one rank of slack.
    assert sum(v <= found for v in values) >= math.floor(len(values) * percent / 100)


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
    assert figures.spread(values) == pytest.approx(expected)


def test_ratios_are_taken_within_a_round_and_only_where_both_were_measured() -> None:
    ours = {1: 10.0, 2: 30.0, 3: 50.0, 4: 7.0}
    theirs = {1: 20.0, 3: 25.0, 4: 0.0, 5: 9.0}
    assert figures.ratios(ours, theirs) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        pytest.param(0, ["a", "b", "c"], id="first-round"),
        pytest.param(1, ["b", "c", "a"], id="second-round"),
        pytest.param(5, ["c", "a", "b"], id="wraps"),
    ],
)
def test_the_order_rotates_from_round_to_round(by: int, expected: list[str]) -> None:
    assert figures.rotated(["a", "b", "c"], by) == expected


def _rounds(**series: list[float]) -> list[Round]:
    """Rounds in which each `peer__figure` had these values, one per round."""
    count = max(map(len, series.values()))
    rounds = [Round(number, []) for number in range(1, count + 1)]
    for key, values in series.items():
        peer, _, figure = key.partition("__")
        for current, value in zip(rounds, values, strict=False):
            current.add(peer, {figure: value})
    return rounds


def test_a_summary_gives_the_median_of_the_ratios_not_the_ratio_of_the_medians() -> None:
    rounds = _rounds(kproxy__rate=[10.0, 20.0, 90.0], haproxy__rate=[10.0, 40.0, 30.0])
    summary = figures.summarize(rounds, "kproxy", "haproxy", "rate")
    assert summary == figures.Summary(median=30.0, spread=1.0, ratio=1.0)  # medians: 20 / 30


def test_the_subject_is_not_compared_with_itself_and_the_unmeasured_has_no_summary() -> None:
    rounds = _rounds(kproxy__rate=[10.0])
    own = figures.summarize(rounds, "kproxy", "kproxy", "rate")
    assert own == figures.Summary(median=10.0, spread=0.0, ratio=None)
    assert figures.summarize(rounds, "kproxy", "nginx", "rate") is None


@pytest.mark.parametrize(
    ("target", "rounds", "value", "verdict"),
    [
        pytest.param(
            Target("", "rate", 1.0, at_least=True, floor=0.95, against="haproxy"),
            _rounds(kproxy__rate=[9.0, 10.0, 30.0], haproxy__rate=[10.0, 10.0, 10.0]),
            1.0,
            Verdict.REACHED,
            id="met-exactly",
        ),
        pytest.param(
            Target("", "rate", 1.0, at_least=True, floor=0.95, against="haproxy"),
            _rounds(kproxy__rate=[96.0], haproxy__rate=[100.0]),
            0.96,
            Verdict.ABOVE_FLOOR,
            id="between-floor-and-limit",
        ),
        pytest.param(
            Target("", "rate", 1.0, at_least=True, floor=0.95, against="haproxy"),
            _rounds(kproxy__rate=[94.0], haproxy__rate=[100.0]),
            0.94,
            Verdict.MISSED,
            id="below-the-floor",
        ),
        pytest.param(
            Target("", "cpu", 1.05, against="haproxy"),
            _rounds(kproxy__cpu=[106.0], haproxy__cpu=[100.0]),
            1.06,
            Verdict.MISSED,
            id="more-than-allowed",
        ),
        pytest.param(
            Target("", "p90", 2.0, over="healthy_p90"),
            _rounds(kproxy__p90=[3.0, 8.0, 3.0], kproxy__healthy_p90=[2.0, 2.0, 2.0]),
            1.5,
            Verdict.REACHED,
            id="against-another-figure-of-its-own",
        ),
        pytest.param(
            Target("", "failed", 0, worst=True),
            _rounds(kproxy__failed=[0.0, 0.0, 1.0]),
            1.0,
            Verdict.MISSED,
            id="one-bad-round-of-three-is-one-too-many",
        ),
        pytest.param(
            Target("", "rate", 1.0, at_least=True, against="haproxy"),
            _rounds(kproxy__rate=[10.0]),
            None,
            Verdict.NOT_MEASURED,
            id="no-peer-no-verdict",
        ),
    ],
)
def test_a_target_is_judged(
    target: Target, rounds: list[Round], value: float | None, verdict: Verdict
) -> None:
    reached = target.reached(rounds, "kproxy")
    assert reached == (None if value is None else pytest.approx(value))
    assert target.verdict(reached) == verdict
