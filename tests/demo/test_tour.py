"""`kproxy demo` ends by itself, shows every lesson, and leaves nothing behind."""

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.demo import stage
from tests.e2e import daemon


class Demo:
    """A running `kproxy demo` with a folder for its temporary files."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def out(self) -> str:
        """What it has written on stdout."""
        return (self._folder / "out").read_text()

    def finish(self) -> tuple[int, str, str]:
        """Its exit code, and what it wrote on stdout and stderr."""
        code = self.process.wait(2 * daemon.DEADLINE)
        return code, self.out(), (self._folder / "err").read_text()

    def wait_for(self, words: str) -> None:
        """Return when it has printed `words`."""
        daemon.wait_until(lambda: words in self.out() or self.process.poll() is not None, words)
        assert self.process.poll() is None, (self._folder / "err").read_text()

    def group(self) -> list[int]:
        """The processes of its group."""
        return [
            int(entry.parent.name)
            for entry in Path("/proc").glob("[0-9]*/stat")
            if _group_of(entry) == self.process.pid
        ]

    def leftovers(self) -> list[str]:
        """Files and processes that it should have taken with it."""
        files = [str(path) for path in (self._folder / "tmp").iterdir()]
        return [*files, *map(str, self.group())]


def _group_of(entry: Path) -> int:
    try:
        fields = entry.read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[2])


@contextlib.contextmanager
def started(folder: Path, stdout: int | None = None) -> Iterator[Demo]:
    """Start it in a process group of its own; end it and all its children at the end."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "kproxy", "demo"],
            stdin=subprocess.DEVNULL,
            stdout=out if stdout is None else stdout,
            stderr=err,
            env={
                **os.environ,
                "TMPDIR": str(folder / "tmp"),
                "PYTHONUNBUFFERED": "1",
                "COLUMNS": "100",
            },
            start_new_session=True,
        )
    try:
        yield Demo(process, folder)
    finally:
        daemon.end(process)


def lessons(out: str) -> dict[str, list[str]]:
    """The lines of each lesson, by its number."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        if line[:1].isdigit():
            found[line[0]] = []
        if found and line.strip():
            found[max(found)].append(line.strip())
    return found


def counts(lines: list[str]) -> list[int]:
    """How many answers each pod gave."""
    return [int(line.rpartition(": ")[2]) for line in lines if re.fullmatch(r"web-\S+: \d+", line)]


def test_it_ends_by_itself_shows_every_lesson_and_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        code, out, err = demo.finish()

        assert (code, err) == (0, "")
        assert demo.leftovers() == []
    shown = lessons(out)
    assert sorted(shown) == ["1", "2", "3", "4", "5", "6"]
    assert counts(shown["2"]) == [3, 3, 3]
    assert counts(shown["3"]) == [3, 3, 3]
    successor = re.search(r"(web-\S+) has joined at (\S+); its forerunner had (\S+)", out)
    assert successor
    assert successor[2] != successor[3]
    assert any(line.startswith(f"{successor[1]}: ") for line in shown["3"])
    assert counts(shown["4"]) == [2, 2, 2, 2, 2]
    assert counts(shown["5"]) == [6]
    assert shown["6"][-1] == "connection refused: 1"
    assert "\x1b" not in out, "escape codes although nobody is looking"


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with started(tmp_path / "a") as one, started(tmp_path / "b") as other:
        for code, out, err in (one.finish(), other.finish()):
            assert (code, err) == (0, "")
            assert counts(lessons(out)["2"]) == [3, 3, 3]


def test_a_taken_port_is_named_in_one_sentence(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("", stage.PORT))), started(tmp_path) as demo:
        code, _, err = demo.finish()

    assert code == 1
    assert len(err.splitlines()) == 1
    assert f"needs port {stage.PORT}" in err
    assert "stop what listens there" in err


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 1, id="SIGTERM"),
    ],
)
@pytest.mark.parametrize(
    "everyone",
    [
        pytest.param(True, id="to the group"),
        pytest.param(False, id="to it alone", marks=pytest.mark.long),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing_and_no_traceback(
    tmp_path: Path, number: signal.Signals, expected: int, everyone: bool
) -> None:
    with started(tmp_path) as demo:
        demo.wait_for("1. Services come up")

        if everyone:
            os.killpg(demo.process.pid, number)
        else:
            demo.process.send_signal(number)

        code, _, err = demo.finish()
        assert demo.leftovers() == []
    assert code == expected
    assert len(err.splitlines()) <= 1
    assert "Traceback" not in err


def test_the_proxy_does_not_outlive_a_demonstration_that_was_killed(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        demo.wait_for("1. Services come up")
        assert len(demo.group()) == 2
        demo.process.kill()
        demo.process.wait(daemon.DEADLINE)
        daemon.wait_until(lambda: not demo.group(), "the proxy to be gone")


def test_on_a_terminal_it_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, started(tmp_path, stdout=theirs) as demo:
        os.close(theirs)
        shown = b""
        while not (url := re.search(rb"curl http://([\d.]+):(\d+)/", shown)):
            shown += screen.read(4096)
        with socket.create_connection((url[1].decode(), int(url[2])), timeout=5):
            pass
        assert b"export KUBECONFIG=" in shown

        demo.process.send_signal(signal.SIGINT)
        code, _, err = demo.finish()
        assert demo.leftovers() == []
    assert (code, err) == (0, "")
