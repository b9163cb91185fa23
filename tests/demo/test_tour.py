"""`kproxy demo` ends by itself, shows every lesson, and leaves nothing behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import daemon, sockets

FRONTENDS = [(f"127.96.0.{number}", 8080) for number in (10, 11, 12)]
PODS = [(f"127.244.0.{number}", 8080) for number in (11, 12, 13)]


class Demo:
    """A running `kproxy demo` with a folder for its temporary files."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    def finish(self) -> tuple[int, str, str]:
        """Its exit code, and what it wrote on stdout and stderr."""
        code = self.process.wait(daemon.DEADLINE)
        return code, (self._folder / "out").read_text(), (self._folder / "err").read_text()

    def wait_for(self, words: str) -> None:
        """Return when it has printed `words`."""
        daemon.wait_until(
            lambda: words in (self._folder / "out").read_text() or self.process.poll() is not None,
            words,
        )
        assert self.process.poll() is None, (self._folder / "err").read_text()

    def leftovers(self) -> list[str]:
        """Files, processes and listeners that it should have taken with it."""
        files = [str(path) for path in (self._folder / "tmp").iterdir()]
        groups = [
            stat.parent.name
            for stat in Path("/proc").glob("[0-9]*/stat")
            if stat.exists()
            and stat.read_text().rsplit(")", 1)[1].split()[2] == str(self.process.pid)
        ]
        listeners = [str(each) for each in (*FRONTENDS, *PODS) if not sockets.is_refused(each)]
        return [*files, *groups, *listeners]


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Demo]:
    """Start it in a process group of its own; end it and all its children at the end."""
    (folder / "tmp").mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "kproxy", "demo"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        yield Demo(process, folder)
    finally:
        daemon.end(process)


def test_it_ends_by_itself_shows_every_lesson_and_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        code, out, err = demo.finish()

        assert (code, err) == (0, "")
        assert demo.leftovers() == []
    lessons = {line[0]: line for line in out.splitlines() if line[:1].isdigit()}
    assert sorted(lessons) == ["1", "2", "3", "4", "5"]
    assert "pod-1: 3, pod-2: 3, pod-3: 3" in out
    assert "connection refused" in out
    assert "no answer" not in out
    assert out.rstrip().endswith("pod-1: 6")
    assert "\x1b" not in out, "escape codes although nobody is looking"


def test_it_shows_where_each_service_is_bound(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        _, out, _ = demo.finish()

    rows = [line.split() for line in out.splitlines()]
    for name, (address, port) in zip(("web", "sticky", "empty"), FRONTENDS, strict=True):
        assert [name, f"10.{address[4:]}:{port}", f"{address}:{port}"] in rows


@pytest.mark.parametrize(
    "taken", [pytest.param(PODS[1], id="a pod's"), pytest.param(FRONTENDS[0], id="a Service's")]
)
def test_a_taken_port_is_named_in_one_sentence(tmp_path: Path, taken: daemon.Address) -> None:
    with contextlib.closing(socket.create_server(taken)), started(tmp_path) as demo:
        code, _, err = demo.finish()

    assert code == 1
    assert len(err.splitlines()) == 1
    assert f"needs {taken[0]}:{taken[1]}" in err
    assert "stop what is listening there" in err


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 1, id="SIGTERM"),
    ],
)
@pytest.mark.parametrize("everyone", [True, False], ids=["to the group", "to it alone"])
def test_a_signal_in_the_middle_leaves_nothing_and_no_traceback(
    tmp_path: Path, number: signal.Signals, expected: int, everyone: bool
) -> None:
    with started(tmp_path) as demo:
        demo.wait_for("1. A Service rotates")

        if everyone:
            os.killpg(demo.process.pid, number)
        else:
            demo.process.send_signal(number)

        code, _, err = demo.finish()
        assert demo.leftovers() == []
    assert code == expected
    assert len(err.splitlines()) <= 1
    assert "Traceback" not in err
