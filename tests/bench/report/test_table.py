"""The report as text: 80 columns on a terminal, whole lines in a pipe."""

import io

import msgspec
import pytest
from rich.console import Console

from kproxy.bench.report import results, table
from tests.bench import reports


def on_terminal(report: results.Report, width: int = 80) -> str:
    written = io.StringIO()
    table.show(report, Console(file=written, width=width, force_terminal=True, color_system=None))
    return written.getvalue()


def in_pipe(report: results.Report) -> list[list[str]]:
    written = io.StringIO()
    table.show(report, Console(file=written, width=40, force_terminal=False))
    return [line.split("\t") for line in written.getvalue().splitlines()]


def test_eighty_columns_are_enough_for_seven_subjects() -> None:
    shown = on_terminal(reports.report())

    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for words in (
        "more is better",
        "less is better",
        "connections per second",
        "no proxy",
        "asyncio",
        "user + kernel",
        "p99.9",
    ):
        assert words in shown


def test_a_row_has_median_spread_and_ratio() -> None:
    figure = reports.figure(kproxy=(95.0, 100.0, 105.0), haproxy=(190.0, 200.0, 210.0))

    rows = on_terminal(reports.with_figure(reports.report(), figure)).splitlines()

    haproxy = next(row.split() for row in rows if row.strip().startswith("haproxy"))
    kproxy = next(row.split() for row in rows if row.startswith("  kproxy"))
    assert haproxy[-5:] == ["200", "10", "%", "0.50", "±0.00"]
    assert kproxy[-4:] == ["100", "10", "%", "-"]


def test_warnings_stand_at_the_end() -> None:
    report = msgspec.structs.replace(reports.report(), interrupted=True)

    shown = on_terminal(report)

    assert "warning: the run was interrupted" in shown
    assert shown.index("warning:") > shown.index("start-up time")
    assert in_pipe(report)[-1][0].startswith("warning: ")


def test_in_a_pipe_every_line_is_whole() -> None:
    lines = in_pipe(reports.report(noise=0.0))

    assert {len(fields) for fields in lines} == {9}
    rate = ["connections per second", "haproxy", "14300", "connections/s", "0.000", "0.972"]
    assert ["connect", *rate, "0.972", "0.972"] in lines
    user = ["CPU time per connection, user", "kproxy", "9.2", "µs", "0.000", "-", "-", "-"]
    assert ["connect", *user] in lines
    start_up = ["start-up time, at 1000 Services", "kproxy", "0.5", "s", "0.000", "-", "-", "-"]
    assert ["services", *start_up] in lines
    tail = ["latency", "reply time at 5,000 requests/s, p99", "nginx"]
    assert any(fields[:3] == tail for fields in lines)


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", ":smile:"])
def test_names_are_shown_as_they_are(name: str) -> None:
    figure = msgspec.structs.replace(reports.figure(kproxy=(1.0,)), title=name)
    report = msgspec.structs.replace(
        reports.with_figure(reports.report(), figure), warnings=(name,)
    )

    assert on_terminal(report).count(name) == 2
    assert in_pipe(report)[-1] == [f"warning: {name}"]


def test_an_empty_report_says_that_it_was_interrupted_and_no_more() -> None:
    report = msgspec.structs.replace(reports.report(), scenarios=(), interrupted=True)
    assert on_terminal(report).strip() == (
        "warning: the run was interrupted: what is missing was not measured"
    )
