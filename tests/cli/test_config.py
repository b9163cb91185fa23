"""`kproxy config`, and the page that is made by it."""

import json
from pathlib import Path

import pytest

from kproxy import config, settings
from kproxy.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
ROWS = settings.table(config.Config)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `kproxy ARGUMENTS` prints; it must succeed."""
    assert main.run(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_reference_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    table = shown(capsys, "config", "reference", "-o", "markdown")

    assert table in PAGE.read_text(), "kproxy config reference -o markdown prints the new table"


def test_the_reference_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "config", "reference")
    facts = json.loads(shown(capsys, "config", "reference", "-o", "json"))

    for row in ROWS:
        assert row.flag in text
        assert row.variable in text
        assert row.help in text
    assert [each["flag"] for each in facts] == [row.flag for row in ROWS]
    assert facts[0].keys() == {
        *("flag", "short", "environment", "fileKey", "type", "bounds", "default", "reloadable"),
        "help",
    }


def test_show_says_what_is_in_force_and_where_it_is_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KPROXY_IDLE_TIMEOUT", "90")

    lines = shown(
        capsys, "config", "show", "-f", "nowhere", "--keepalive-idle", "2m", "--v=4"
    ).splitlines()

    assert len(lines) == len(ROWS)
    assert "manifests = nowhere  (--manifests)" in lines
    assert "idle-timeout = 1m30s  (KPROXY_IDLE_TIMEOUT)" in lines
    assert "keepalive-idle = 2m  (--keepalive-idle)" in lines
    assert "grace-period = 30s  (default)" in lines
    assert "verbose = true  (--verbose)" in lines
    assert "healthz-bind-address = 0.0.0.0:10256  (default)" in lines
