"""The regression check: what is worse twice fails it, what is worse once does not."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import check
from kproxy.bench.report import results
from tests.bench import reports

CALM = (98.0, 99.0, 100.0, 101.0)
SLOW = tuple(0.7 * value for value in CALM)


def of(kproxy: tuple[float, ...], *, interrupted: bool = False) -> results.Report:
    """A run of one scenario in which haproxy is as it always was."""
    scenario = results.Scenario(
        "connect", "short connections", (reports.figure(kproxy=kproxy, haproxy=CALM),)
    )
    return msgspec.structs.replace(reports.report(), scenarios=(scenario,), interrupted=interrupted)


class Measuring:
    """Hands out runs in their order, and keeps which scenarios were asked for."""

    def __init__(self, *runs: results.Report) -> None:
        self._runs = list(runs)
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, scenarios: tuple[str, ...]) -> results.Report:
        self.asked.append(scenarios)
        return self._runs.pop(0)


def judged(measuring: Measuring) -> tuple[int, str]:
    written = io.StringIO()
    code = check.judge(of(CALM), measuring, Console(file=written, width=200))
    return code, written.getvalue()


def test_a_run_like_the_recorded_one_is_enough() -> None:
    measuring = Measuring(of(CALM))

    code, told = judged(measuring)

    assert code == 0
    assert "no worse than recorded" in told
    assert measuring.asked == [("connect",)]


def test_what_is_worse_twice_fails_and_is_named() -> None:
    code, told = judged(Measuring(of(SLOW), of(SLOW)))

    assert code == 1
    named = "worse, twice: connect: connections per second, kproxy ÷ haproxy: 0.70 instead of 1.00"
    assert named in told


def test_what_is_worse_once_was_chance() -> None:
    measuring = Measuring(of(SLOW), of(CALM))

    code, told = judged(measuring)

    assert code == 0
    assert "Measuring again" in told
    assert measuring.asked == [("connect",), ("connect",)]


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param((of(CALM, interrupted=True),), id="at-first"),
        pytest.param((of(SLOW), of(SLOW, interrupted=True)), id="while-measuring-again"),
    ],
)
def test_an_interrupted_check_says_nothing_about_kproxy(runs: tuple[results.Report, ...]) -> None:
    code, told = judged(Measuring(*runs))

    assert code == 130
    assert "than recorded" not in told
    assert "worse, twice" not in told


def test_without_a_recorded_run_there_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.startswith("bench-check: cannot read ")
