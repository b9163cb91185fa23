"""`kproxy demo shop`: no request fails, and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.cli import main
from tests.e2e.rig import daemon, programs

SECONDS = 240.0
"""For the whole run; a bound, not an expectation."""


def demo(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`kproxy demo WORDS`, with its temporary files in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "kproxy", "demo", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**daemon.ENVIRONMENT, "TMPDIR": str(folder), **environment},
    )


@pytest.mark.extra
def test_no_request_fails_while_pods_and_a_proxy_die(tmp_path: Path) -> None:
    programs.need("nginx")
    folder = tmp_path / "tmp"
    folder.mkdir()

    done = demo("shop", "--seconds", "6", folder=folder)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for words in (
        "is deleted: it finishes its requests",
        "is killed, with its connections",
        "is lost without a word",
        "deployment ordermgr is rolled",
        "the proxy of node-1 is killed",
        "the proxy of node-1 is back",
        "requests failed; the slowest took",
    ):
        assert words in done.stdout
    assert "\n0 of " in done.stdout
    compared = [line.split() for line in done.stdout.splitlines() if "registry" in line]
    failed = {words[0]: int(words[4]) for words in compared if words[1] == "gateway,"}
    assert failed["deleted"] < min(failed["killed"], failed["lost"])
    assert list(folder.iterdir()) == []


def test_without_nginx_it_says_what_to_install(tmp_path: Path) -> None:
    """The places where nginx may be are searched beside PATH: here they are empty."""
    hidden = (
        "import runpy, shutil, sys\n"
        "shutil.which = lambda *_, **__: None\n"
        "sys.argv = ['kproxy', 'demo', 'shop']\n"
        "runpy.run_module('kproxy', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**daemon.ENVIRONMENT, "TMPDIR": str(tmp_path)},
    )

    assert done.returncode == 2
    assert "install the package nginx" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cinema"], "cinema is no demonstration: there are tour, shop"),
        (["shop", "--pace", "1s"], "--pace is for the tour: the shop has --seconds"),
        (["--seconds", "9"], "--seconds is for the shop: the tour has --pace"),
        (["shop", "--seconds", "1"], "--seconds 1: must be between 3s and 1h"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["demo", *words])

    assert (code, capsys.readouterr().err) == (2, f"kproxy: {sentence}\n")
