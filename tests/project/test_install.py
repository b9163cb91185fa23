"""`.ci/install`: an environment that is not sound is made anew, and a sound one is left alone.

A script stands in for Python: it makes an environment that has nothing but a copy of itself, and
writes down what pip is asked to do.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

INSTALL = Path(__file__).parents[2] / ".ci" / "install"

PYTHON = r"""#!/bin/sh
[ -e "$STAND_IN/broken" ] && exit 1
case "$1 $2" in
"-c import pip"*) [ -e "$STAND_IN/no-pip" ] && exit 1; echo "$STAND_IN/python 3 12" ;;
"-c import os, sys; print(os.path.realpath(getattr"*) echo "$STAND_IN/python" ;;
"-c import sys; sys.exit"*) [ ! -e "$STAND_IN/old" ] ;;
"-c "*) echo "$STAND_IN/python 3 12" ;;
"-m venv")
    [ ! -e "$STAND_IN/no-venv" ] || exit 1
    echo venv >>"$STAND_IN/log"
    mkdir -p "$3/bin" && cp "$STAND_IN/python" "$3/bin/python" && touch "$3/pyvenv.cfg" ;;
"-m pip")
    [ ! -e "$STAND_IN/no-network" ] || exit 1
    for last; do :; done
    echo "pip $last" >>"$STAND_IN/log" ;;
esac
"""


class Folder:
    """A checkout with the installer in it, and the script that stands in for Python."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "checkout"
        self.stand_in = scratch / "stand-in"
        self.stand_in.mkdir()
        self.path.mkdir()
        shutil.copy(INSTALL, self.path / "install")
        for name in ("pyproject.toml", "constraints.txt"):
            (self.path / name).touch()
            os.utime(self.path / name, (0, 0))
        python = self.stand_in / "python"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def install(self, wanted: str = "package") -> tuple[int, str]:
        """Run the installer; its exit code, and what it wrote."""
        done = subprocess.run(
            ["sh", "install", ".venv", str(self.stand_in / "python"), wanted],
            cwd=self.path,
            env={**os.environ, "STAND_IN": str(self.stand_in)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def steps(self) -> list[str]:
        """What was made and installed since the last call."""
        log = self.stand_in / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def switch(self, name: str, *, on: bool = True) -> None:
        """Let the script behave badly, or well again."""
        if on:
            (self.stand_in / name).touch()
        else:
            (self.stand_in / name).unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_an_environment_is_made_once_and_has_what_was_wanted(folder: Folder) -> None:
    assert folder.install()[0] == 0
    assert folder.steps() == ["venv", "pip ."]
    assert folder.install()[0] == 0
    assert folder.steps() == []
    assert folder.install("tools")[0] == 0
    assert folder.steps() == ["pip .[dev]"]
    assert folder.install("package")[0] == 0  # the tools are more than that
    assert folder.steps() == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_what_the_project_needs_anew_is_installed(folder: Folder, changed: str) -> None:
    folder.install()
    folder.steps()
    stamp = folder.path / ".venv" / ".package"
    os.utime(folder.path / changed, (stamp.stat().st_mtime + 5,) * 2)
    assert folder.install()[0] == 0
    assert folder.steps() == ["pip ."]


def test_an_installation_that_was_interrupted_is_begun_anew(folder: Folder) -> None:
    folder.switch("no-network")
    assert folder.install()[0] != 0
    assert folder.steps() == ["venv"]
    folder.switch("no-network", on=False)
    code, said = folder.install()
    assert (code, folder.steps()) == (0, ["venv", "pip ."])
    assert ".venv is not sound: making it anew" in said


def test_a_folder_that_was_moved_has_its_environment_made_anew(folder: Folder) -> None:
    folder.install()
    folder.steps()
    folder.path = folder.path.rename(folder.path.with_name("elsewhere"))
    assert folder.install()[0] == 0
    assert folder.steps() == ["venv", "pip ."]


@pytest.mark.parametrize("flaw", ["no Python", "not executable", "dangling", "no pip"])
def test_an_environment_that_does_not_work_is_made_anew(folder: Folder, flaw: str) -> None:
    folder.install()
    folder.steps()
    python = folder.path / ".venv" / "bin" / "python"
    match flaw:
        case "no Python":
            python.unlink()
        case "not executable":
            python.write_text("not a program")
        case "dangling":
            python.unlink()
            python.symlink_to("/gone/python3.12")
        case _:
            folder.switch("no-pip")
    assert folder.install()[0] == 0
    assert folder.steps() == ["venv", "pip ."]


def test_a_folder_with_files_of_the_user_is_never_removed(folder: Folder) -> None:
    precious = folder.path / ".venv" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("precious")
    code, said = folder.install()
    assert code == 1
    assert ".venv is no sound virtual environment, and holds thesis.tex" in said
    assert precious.read_text() == "precious"
    assert folder.steps() == []


@pytest.mark.parametrize(
    ("switch", "sentence"),
    [
        ("broken", "does not start; name a Python that does with: make PYTHON="),
        ("old", "kproxy needs Python 3.11 or newer"),
        ("no-venv", "apt install python3-venv"),
    ],
)
def test_a_python_that_does_not_do_is_named(folder: Folder, switch: str, sentence: str) -> None:
    folder.switch(switch)
    code, said = folder.install()
    assert code == 1
    assert sentence in said
    assert not (folder.path / ".venv").exists()
