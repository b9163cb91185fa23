"""Two states of kproxy in turns: the arithmetic, and a comparison that takes seconds."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import change
from kproxy import errors
from kproxy.bench.report import results
from tests.bench import reports


def test_a_tree_is_run_from_within_another_one(tmp_path: Path) -> None:
    for name in ("here", "there"):
        package = tmp_path / name / "kproxy"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(f"print({name!r})\n")
    command = change.of_tree("before", tmp_path / "there").command
    assert subprocess.check_output(command, cwd=tmp_path / "here", text=True) == "there\n"


def test_a_ratio_is_the_geometric_mean_of_the_rounds_that_both_have() -> None:
    value, error = change.ratio([2.0, None, 8.0, 4.0], [1.0, 1.0, 2.0, None])
    assert value == pytest.approx(8**0.5)
    assert error == pytest.approx(0.3466, abs=1e-4)  # half the distance of ln 2 and ln 4


def test_one_round_has_no_error() -> None:
    with pytest.raises(ValueError, match="fewer than two rounds"):
        change.ratio([1.0, None], [1.0, 1.0])


def test_every_figure_that_both_have_is_a_line() -> None:
    figure = reports.figure(kproxy=(100.0, 100.0), before=(50.0, 50.0), haproxy=(100.0,))
    scenario = results.Scenario("connect", "short connections", (figure,))
    assert change.lines(scenario, "before") == [f"{figure.title} ÷ before: 2.000 ± 0.000"]
    assert change.lines(scenario, "haproxy") == []


@pytest.mark.long
def test_the_tree_and_its_last_commit_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert change.main(["HEAD", "--rounds", "2", "--scenario", "connect"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        re.fullmatch(r"connect: connections per second ÷ before: \d+\.\d{3} ± \d+\.\d{3}", line)
        for line in lines
    )


def test_a_commit_that_does_not_exist_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert change.main(["no-such-commit", "--rounds", "2"]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("git has no such commit to compare with: ")


def test_a_single_round_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        change.main(["--rounds", "1"])
    assert exited.value.code == 2
    assert "at least 2" in capsys.readouterr().err


def test_an_option_in_the_place_of_a_commit_is_no_commit(tmp_path: Path) -> None:
    with pytest.raises(errors.KproxyError, match="no such commit"):
        change.checked_out("--output=elsewhere", tmp_path)
    assert list(tmp_path.iterdir()) == []
