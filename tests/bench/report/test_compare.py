"""What two reports say of each other."""

import io
import random

import msgspec
import pytest
from rich.console import Console

from kproxy.bench.report import compare, results
from kproxy.bench.report.compare import Verdict
from tests.bench import reports

CALM = (98.0, 99.0, 100.0, 101.0, 102.0)


def run(**rounds: tuple[float | None, ...]) -> results.Report:
    return reports.with_figure(reports.report(), reports.figure(**rounds))


def scaled(factor: float, rounds: tuple[float, ...] = CALM) -> tuple[float, ...]:
    return tuple(value * factor for value in rounds)


def shown(before: results.Report, after: results.Report) -> str:
    written = io.StringIO()
    compare.show(before, after, Console(file=written, width=120))
    return " ".join(written.getvalue().split())


@pytest.mark.parametrize(
    ("after", "better", "verdict"),
    [
        pytest.param(scaled(1.3), "higher", Verdict.BETTER, id="more-of-what-is-wanted"),
        pytest.param(scaled(0.7), "higher", Verdict.WORSE, id="less-of-it"),
        pytest.param(scaled(0.7), "lower", Verdict.BETTER, id="less-of-a-cost"),
        pytest.param(scaled(1.3), "lower", Verdict.WORSE, id="more-of-a-cost"),
        pytest.param(scaled(1.08), "higher", Verdict.SAME, id="apart-but-by-less-than-a-tenth"),
        pytest.param((60.0, 99.0, 125.0, 130.0, 131.0), "higher", Verdict.SAME, id="in-the-noise"),
        pytest.param(scaled(2.0)[:3], "higher", Verdict.TOO_FEW, id="three-rounds"),
        pytest.param((*scaled(2.0)[:3], None, None), "higher", Verdict.TOO_FEW, id="two-failed"),
    ],
)
def test_a_change_is_judged(
    after: tuple[float | None, ...], better: results.Better, verdict: Verdict
) -> None:
    first, second = (
        msgspec.structs.replace(reports.figure(kproxy=rounds), better=better)
        for rounds in (CALM, after)
    )
    report = reports.report()

    [change] = compare.compare(
        reports.with_figure(report, first), reports.with_figure(report, second)
    )
    assert change.verdict is verdict
    assert change.before == 100.0


def test_a_mood_that_all_share_does_not_touch_the_ratio() -> None:
    changes = compare.compare(
        run(kproxy=CALM, haproxy=scaled(2.0)), run(kproxy=scaled(0.5), haproxy=CALM)
    )

    verdicts = {(each.subject, each.peer): each.verdict for each in changes}
    assert verdicts == {
        ("kproxy", None): Verdict.WORSE,
        ("haproxy", None): Verdict.WORSE,
        ("kproxy", "haproxy"): Verdict.SAME,
    }


def test_between_different_machines_only_ratios_are_compared() -> None:
    here = run(kproxy=CALM, haproxy=CALM)
    there = run(kproxy=scaled(9.0), haproxy=scaled(6.0))
    there = msgspec.structs.replace(
        there, machine=msgspec.structs.replace(reports.MACHINE, cores=64)
    )

    [change] = compare.compare(here, there)

    assert change.peer == "haproxy"
    assert change.factor == pytest.approx(1.5)
    assert "Different machines" in shown(here, there)
    assert "cores: 64 instead of 2" in shown(here, there)


def test_what_is_only_in_one_is_named() -> None:
    before, after = run(kproxy=CALM, haproxy=CALM), run(kproxy=CALM, nginx=CALM)

    text = shown(before, after)

    assert "Nothing changed beyond noise." in text
    assert "1 figure did not change beyond noise." in text
    assert "Only in the first: all of haproxy." in text
    assert "Only in the second: all of nginx." in text


def test_a_scenario_that_is_only_in_one_is_named_as_a_whole() -> None:
    full = reports.report()
    short = msgspec.structs.replace(full, scenarios=full.scenarios[:1])

    text = shown(full, short)

    assert "Only in the first: all of request; all of services." in text
    assert "Only in the second" not in text


def test_a_figure_or_a_subjects_part_in_it_that_is_only_in_one_is_named_exactly() -> None:
    both = reports.figure(kproxy=CALM, haproxy=CALM)
    other = msgspec.structs.replace(both, name="p50", title="median latency")
    ours = msgspec.structs.replace(other, series=other.series[:1])
    report = reports.report()

    def having(*figures: results.Figure) -> results.Report:
        scenario = results.Scenario("one", "one scenario", figures)
        return msgspec.structs.replace(report, scenarios=(scenario,))

    assert "Only in the first: one: median latency." in shown(having(both, other), having(both))
    assert (
        "Only in the first: one: median latency, haproxy; "
        "one: median latency, kproxy ÷ haproxy." in shown(having(both, other), having(both, ours))
    )


def test_a_regression_is_what_every_peer_shows() -> None:
    before = run(kproxy=CALM, haproxy=CALM, nginx=CALM)

    [[first, second]] = compare.regressions(
        before, run(kproxy=scaled(0.7), haproxy=CALM, nginx=CALM)
    )
    assert {first.peer, second.peer} == {"haproxy", "nginx"}
    assert compare.name(first) == "one: connections per second, kproxy ÷ haproxy"


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(run(kproxy=CALM, haproxy=scaled(1.5), nginx=CALM), id="one-peer-is-faster"),
        pytest.param(
            run(kproxy=scaled(0.5), haproxy=scaled(0.5), nginx=scaled(0.5)), id="all-are-slower"
        ),
        pytest.param(run(kproxy=scaled(2.0), haproxy=CALM, nginx=CALM), id="kproxy-is-faster"),
        pytest.param(run(kproxy=scaled(0.5)[:3], haproxy=CALM, nginx=CALM), id="too-few-rounds"),
        pytest.param(run(kproxy=scaled(0.5)), id="no-peer-to-compare-with"),
    ],
)
def test_what_is_no_regression(after: results.Report) -> None:
    before = run(kproxy=CALM, haproxy=CALM, nginx=CALM)
    assert compare.regressions(before, after) == []


def test_a_change_is_shown_with_its_size() -> None:
    text = shown(run(kproxy=CALM), run(kproxy=scaled(1.5)))
    assert "one: connections per second, kproxy 100 150 +50 % 0.008 better" in text


def test_too_few_rounds_say_how_many_are_needed() -> None:
    few = run(kproxy=CALM[:3])

    text = shown(few, few)

    assert "cannot be judged: 4 rounds or more are needed in each run (--rounds)." in text
    assert "Nothing changed" not in text


def test_curves_are_compared_place_by_place_and_stacks_as_wholes() -> None:
    changes = compare.compare(reports.report(1), reports.report(2))

    figures = {each.figure for each in changes if each.subject == "kproxy"}
    assert {"start-up time at 1 Services", "start-up time at 10k Services"} <= figures
    assert "CPU time per connection" in figures
    assert "user" not in figures


def test_figures_of_equal_title_are_not_mixed_up() -> None:
    one = reports.figure(kproxy=CALM)
    other = msgspec.structs.replace(reports.figure(kproxy=scaled(3.0)), name="other")
    scenario = results.Scenario("one", "one", (one, other))
    report = msgspec.structs.replace(reports.report(), scenarios=(scenario,))

    changes = compare.compare(report, report)
    assert [each.before for each in changes] == [100.0, 300.0]


def test_a_count_that_was_zero_is_compared_too() -> None:
    none, some = (0.0,) * 5, (5.0, 6.0, 7.0, 8.0, 9.0)

    [same] = compare.compare(run(kproxy=none), run(kproxy=none))
    [change] = compare.compare(run(kproxy=none), run(kproxy=some))

    assert same.verdict is Verdict.SAME
    assert (change.verdict, change.factor) == (Verdict.BETTER, None)


@pytest.mark.parametrize("rounds", [4, 5, 7])
def test_two_runs_of_the_same_thing_seldom_differ(rounds: int) -> None:
    """Noise of 20 %, more than the limit that is warned about: at most the stated one in twenty."""
    chance = random.Random(11)

    def figure() -> results.Figure:
        return reports.figure(kproxy=tuple(chance.lognormvariate(0, 0.2) for _ in range(rounds)))

    report = reports.report()
    alarms = 0
    for _ in range(1_000):
        first, second = (reports.with_figure(report, figure()) for _ in range(2))
        [change] = compare.compare(first, second)
        alarms += change.verdict in {Verdict.BETTER, Verdict.WORSE}
    assert alarms <= 60
