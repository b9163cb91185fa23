"""What is read off a report: sums, ratios, warnings, headline, and numbers as they are shown."""

import math

import msgspec
import pytest

from kproxy.bench.report import readings, results
from tests.bench import reports


def test_a_ratio_is_the_median_of_the_ratios_not_the_ratio_of_the_medians() -> None:
    figure = reports.figure(kproxy=(10.0, 20.0, 90.0), haproxy=(10.0, 40.0, 30.0))

    ours, theirs = readings.read(figure)

    assert (ours.subject, ours.ratio) == ("kproxy", None)
    assert (theirs.subject, theirs.ratio) == ("haproxy", 1.0)  # the medians give 20 / 30


def test_who_was_never_measured_is_left_out() -> None:
    figure = reports.figure(kproxy=(10.0,), haproxy=(None,), nginx=())
    assert [each.subject for each in readings.read(figure)] == ["kproxy"]


def test_who_was_never_measured_beside_kproxy_has_no_ratio() -> None:
    figure = reports.figure(kproxy=(10.0, None), haproxy=(None, 5.0))
    assert readings.read(figure)[1].ratio is None


@pytest.mark.parametrize(("better", "first"), [("higher", "haproxy"), ("lower", "kproxy")])
def test_the_best_comes_first(better: results.Better, first: str) -> None:
    figure = reports.figure(kproxy=(1.0,), haproxy=(2.0,))
    figure = msgspec.structs.replace(figure, better=better)

    assert readings.ranked(figure)[0].subject == first


def test_the_parts_of_a_stack_are_added_up_in_their_place() -> None:
    before = reports.figure(kproxy=(1.0,))
    user = msgspec.structs.replace(
        reports.figure(kproxy=(9.0, 8.0), haproxy=(5.0, None)), name="user", stack="CPU time"
    )
    system = msgspec.structs.replace(
        reports.figure(kproxy=(50.0, 60.0), haproxy=(55.0, 50.0)), name="system", stack="CPU time"
    )
    scenario = results.Scenario("connect", "connections", (user, before, system))

    whole, other = readings.wholes(scenario)

    assert other == before
    assert (whole.title, whole.stack) == ("CPU time", None)
    assert readings.rounds_of(whole, "kproxy") == (59.0, 68.0)
    assert readings.rounds_of(whole, "haproxy") == (60.0, None)
    assert readings.parts(scenario, "CPU time") == [user, system]


def test_a_noisy_machine_is_reported_with_its_worst_figure() -> None:
    figure = reports.figure(kproxy=(100.0, 101.0), haproxy=(100.0, 150.0), nginx=(90.0, 110.0))

    sentence = readings.noise(reports.with_figure(reports.report(), figure))

    assert sentence is not None
    assert "in 2 of 3 main figures" in sentence
    assert "connections per second of haproxy, 40 %" in sentence


def test_a_calm_machine_is_not_mentioned() -> None:
    figure = reports.figure(kproxy=(100.0, 107.0, 114.0))
    assert readings.noise(reports.with_figure(reports.report(), figure)) is None


def test_an_interrupted_run_says_so_first() -> None:
    report = msgspec.structs.replace(
        reports.report(noise=0.0), warnings=("the load generator was busy",), interrupted=True
    )
    assert readings.warnings(report) == [
        "the run was interrupted: what is missing was not measured",
        "the load generator was busy",
    ]


def test_the_headline_compares_with_what_a_reader_knows() -> None:
    connections, requests = readings.headline(reports.report(noise=0.0))

    assert connections == (
        "Short connections: kproxy reaches 13,900 connections/s, 0.97 times haproxy, "
        "2.36 times asyncio and 0.64 times no proxy."
    )
    assert requests == (
        "Requests on kept connections: kproxy reaches 70,900 requests/s, 1.02 times haproxy, "
        "1.25 times asyncio and 0.50 times no proxy."
    )


def test_a_run_of_kproxy_alone_has_no_headline() -> None:
    report = reports.with_figure(reports.report(), reports.figure(kproxy=(1.0,)))
    assert readings.headline(report) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (13_942.4, "13,942"),
        (67.24, "67.2"),
        (-3.14159, "-3.14"),
        (0.9724, "0.972"),
        (0.00051234, "0.000512"),
        (1.234e-9, "1.23e-09"),
        (math.inf, "inf"),
    ],
)
def test_a_number_keeps_three_digits(value: float, shown: str) -> None:
    assert readings.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0, "1"), (0.5, "0.5"), (1_000, "1,000"), (10_000, "10k"), (2e6, "2M")]
)
def test_a_place_on_an_axis_is_short(value: float, shown: str) -> None:
    assert readings.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.974, "0.97"), (12.3, "12.30"), (0.0009, "0.0009"), (0.0, "0.00")]
)
def test_a_ratio_keeps_two_decimals_or_one_digit(value: float, shown: str) -> None:
    assert readings.ratio(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s")]
)
def test_a_duration_is_in_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert readings.duration(seconds) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_a_list_in_words(words: list[str], shown: str) -> None:
    assert readings.listed(words) == shown
