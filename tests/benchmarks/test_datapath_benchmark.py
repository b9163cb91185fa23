"""The command line of the benchmark, and its report, without measuring anything."""

import json
from pathlib import Path

import pytest

from benchmarks import datapath, report
from benchmarks.figures import Round


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        pytest.param(["--rounds", "0"], "0 rounds measure nothing", id="no-rounds"),
        pytest.param(["--only", "everything"], "invalid choice", id="unknown-scenario"),
        pytest.param(["--peers", "squid"], "unknown peer", id="unknown-peer"),
        pytest.param(["--subject", "nobody"], "add it to --peers", id="unknown-subject"),
        pytest.param(["--json", "no/such/folder/x.json"], "must exist", id="unwritable"),
    ],
)
def test_wrong_usage_is_a_sentence_and_exit_code_2(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        datapath.main(argv)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_json_keeps_every_round_and_judges_the_targets(tmp_path: Path) -> None:
    rounds = [Round(number, ["kproxy", "haproxy"]) for number in (1, 2, 3)]
    for current, rate in zip(rounds, (90.0, 101.0, 120.0), strict=True):
        current.add("kproxy", {"connect.connections_per_s": rate})
        current.add("haproxy", {"connect.connections_per_s": 100.0})
    content = report.document(rounds, "kproxy", ["kproxy", "haproxy"], {"date": "2026-01-01"})
    path = tmp_path / "result.json"
    report.write(path, content)
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    read = json.loads(path.read_text())
    assert read["rounds"][0]["figures"]["kproxy"] == {"connect.connections_per_s": 90.0}
    assert read["summary"]["connect.connections_per_s"]["haproxy"]["ratio"] == 1.01
    verdicts = {target["figure"]: target["verdict"] for target in read["targets"]}
    assert verdicts["connect.connections_per_s"] == "reached"
    assert verdicts["idle.rss_bytes_per_connection"] == "not measured"


def test_every_target_is_a_figure_of_the_table() -> None:
    shown = {row.figure for row in report.ROWS}
    assert {target.figure for target in report.TARGETS} <= shown
    assert {target.over for target in report.TARGETS if target.over} <= shown
