"""What was measured so far is a result at any moment."""

from kproxy.bench.lab import recording
from kproxy.bench.report import results

RATE = recording.FigureKind("rate", "operations", "1/s", "higher")
SIZE = recording.CurveKind("size", "memory", "Services", "MiB")
TIME = recording.DistributionKind("time", "latency", "µs")


def test_nothing_measured_is_a_scenario_without_figures() -> None:
    assert recording.Recording("x", "t").result([]) == results.Scenario("x", "t")


def test_a_round_that_a_subject_missed_is_none_so_that_rounds_still_match() -> None:
    into = recording.Recording("x", "t")
    for number, value in enumerate((1.0, 2.0, 3.0)):
        into.figure(RATE, "kproxy", number, value)
    into.figure(RATE, "direct", 0, 5.0)
    into.figure(RATE, "direct", 2, 7.0)
    [figure] = into.result(["direct"]).figures
    assert [(each.subject, each.rounds) for each in figure.series] == [
        ("direct", (5.0, None, 7.0)),
        ("kproxy", (1.0, 2.0, 3.0)),
    ]
    assert (figure.name, figure.better, figure.unit) == ("rate", "higher", "1/s")


def test_a_curve_ascends_and_a_distribution_takes_all_rounds_together() -> None:
    into = recording.Recording("x", "t")
    into.point(SIZE, "kproxy", 100, 0, 9.0)
    into.point(SIZE, "kproxy", 1, 0, 3.0)
    into.samples(TIME, "kproxy", [3.0, 1.0])
    into.samples(TIME, "kproxy", [2.0])
    into.note("twice")
    into.note("twice")
    measured = into.result([])
    assert [point.x for point in measured.curves[0].series[0].points] == [1, 100]
    assert measured.distributions[0].series[0].quantiles[-1] == (1.0, 3.0)
    assert measured.notes == ("twice",)
