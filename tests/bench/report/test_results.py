"""The report's JSON: pinned, and refused in one sentence when it is something else."""

import json
from pathlib import Path

import msgspec
import pytest

from kproxy import errors
from kproxy.bench.report import results
from tests.bench import reports

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


def test_the_schema_is_the_pinned_one() -> None:
    """What others read. A change needs a new name in `results.SCHEMA`, and a new file."""
    pinned = json.loads((FIXTURES / "bench-v1.schema.json").read_text())
    schema = msgspec.json.encode(msgspec.json.schema(results.Report))
    assert json.loads(schema) == pinned


def test_a_report_written_by_an_earlier_build_is_read_and_written_the_same() -> None:
    golden = (FIXTURES / "bench-v1.json").read_bytes()

    report = results.decode(golden, "golden")

    assert results.encode(report) == golden
    assert report.scenarios[0].figures[0].series[1].rounds == (13_900.0, None, 14_020.5)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    report = reports.report()
    path = tmp_path / "report.json"

    results.write(report, path)

    assert results.read(path) == report
    assert [each.name for each in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"", "is not a report of kproxy bench", id="empty"),
        pytest.param(b"\xff\xfe{", "is not a report of kproxy bench", id="binary"),
        pytest.param(b"[1]", "Expected `object`, got `array`", id="another-shape"),
        pytest.param(b'{"schema": 1}', "is not a report of kproxy bench", id="an-old-report"),
        pytest.param(b'{"kind": "Service"}', "it names no schema", id="another-object"),
        pytest.param(
            b'{"schema": "kproxy.io/bench/v2"}',
            "its schema is 'kproxy.io/bench/v2', and 'kproxy.io/bench/v1' was expected",
            id="another-version",
        ),
        pytest.param(
            b'{"schema": "kproxy.io/bench/v1"}', "missing required field", id="a-part-of-one"
        ),
    ],
)
def test_another_file_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)

    with pytest.raises(errors.ConfigError) as raised:
        results.read(path)
    assert str(raised.value).startswith(f"{path} is not a report")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"cannot read .*none.json: No such file"):
        results.read(tmp_path / "none.json")


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    missing = tmp_path / "no" / "report.json"

    for path in (missing, tmp_path / "here"):
        with pytest.raises(errors.KproxyError, match=f"cannot write {path}: "):
            results.write(reports.report(), path)
    assert [each.name for each in tmp_path.iterdir()] == ["here"]


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    results.write(reports.report(seed=1), path)
    results.write(reports.report(seed=2), path)

    assert results.read(path) == reports.report(seed=2)
