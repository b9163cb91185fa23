"""`kproxy demo` ends by itself, shows every lesson, and leaves nothing behind."""

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich import console

from kproxy import errors
from kproxy.cli import main
from kproxy.demo import screen, stage, tour
from tests.e2e.rig import daemon

COLOURS = {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
"""By these variables rich decides against what it finds; CI sets some of them."""


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
        return daemon.group(self.process.pid)

    def leftovers(self) -> list[str]:
        """Files and processes that it should have taken with it."""
        files = [str(path) for path in (self._folder / "tmp").iterdir()]
        return [*files, *map(str, self.group())]


@contextlib.contextmanager
def started(folder: Path, stdout: int | None = None) -> Iterator[Demo]:
    """Start it in a process group of its own; end it and all its children at the end."""
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "kproxy", "demo", "--pace", "0"],
            stdin=subprocess.DEVNULL,
            stdout=out if stdout is None else stdout,
            stderr=err,
            env={
                **{name: os.environ[name] for name in os.environ.keys() - COLOURS},
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
        if re.match(r"\d/7  ", line):
            found[line[0]] = []
        if found and line.strip():
            found[max(found)].append(line.strip())
    return found


def counts(lines: list[str]) -> list[int]:
    """How many answers each pod gave."""
    found = (re.fullmatch(r"web-\S+ +(\d+) +\d+%  =+", line) for line in lines)
    return [int(each[1]) for each in found if each]


def test_it_ends_by_itself_shows_every_lesson_and_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path) as demo:
        code, out, err = demo.finish()

        assert (code, err) == (0, "")
        assert demo.leftovers() == []
    shown = lessons(out)
    assert sorted(shown) == ["1", "2", "3", "4", "5", "6", "7"]
    assert counts(shown["2"]) == [3, 3, 3]
    assert counts(shown["3"]) == [3, 3, 3]
    successor = re.search(r"(web-\S+) +(\S+) +gone\n +(web-\S+) +(\S+) +has joined", out)
    assert successor
    assert successor[2] != successor[4]
    assert sum(line.startswith(f"{successor[3]} ") for line in shown["3"]) == 2
    assert counts(shown["4"]) == [2, 2, 2, 2, 2]
    assert counts(shown["5"]) == [6]
    assert any(re.match(r"connection refused +1 +100%", line) for line in shown["6"])
    assert re.fullmatch(r"127\.\d+\.\d+\.\d+", shown["7"][2]), "an address for a name"
    assert all(lines[-1].endswith(".") for lines in shown.values()), "a step without its reason"
    assert "\x1b" not in out, "escape codes although the output is no terminal"


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with started(tmp_path / "a") as one, started(tmp_path / "b") as other:
        for code, out, err in (one.finish(), other.finish()):
            assert (code, err) == (0, "")
            assert counts(lessons(out)["2"]) == [3, 3, 3]


def test_a_port_that_is_taken_everywhere_is_passed_over(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # another program's server will do as well
            stack.enter_context(contextlib.closing(socket.create_server(("", stage.PORTS[0]))))
        demo = stack.enter_context(started(tmp_path))
        code, out, err = demo.finish()
    assert (code, err) == (0, "")
    assert f":{stage.PORTS[0]} " not in out


def test_without_any_free_port_it_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.create_server(("", 0))) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(stage, "PORTS", (port,))
        with pytest.raises(errors.KproxyError, match=rf"one of the ports {port}, .* stop one"):
            stage.free_port()


def test_its_control_socket_has_a_short_path_whatever_tmpdir_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with contextlib.ExitStack() as stack:
        folder = stage.folder(stack)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
            listening.bind(str(folder / stage.CONTROL))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 1, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 1, id="SIGHUP"),
    ],
)
@pytest.mark.parametrize(
    "everyone",
    [
        pytest.param(True, id="to the group"),
        pytest.param(False, id="to it alone", marks=pytest.mark.extra),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing_and_no_traceback(
    tmp_path: Path, number: signal.Signals, expected: int, everyone: bool
) -> None:
    with started(tmp_path) as demo:
        demo.wait_for("1/7  Services come up")

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
        demo.wait_for("1/7  Services come up")
        assert len(demo.group()) == 2
        demo.process.kill()
        demo.process.wait(daemon.DEADLINE)
        daemon.wait_until(lambda: not demo.group(), "the proxy to be gone")


def test_on_a_terminal_it_stays_up_until_ctrl_c_and_its_hints_work(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as screen, started(tmp_path, stdout=theirs) as demo:
        os.close(theirs)
        shown = b""
        while b"--control" not in shown or not shown.endswith(b"\n"):
            shown += screen.read(4096)
        plain = re.sub(r"\x1b\[[\d;?]*\w", "", shown.decode())
        _, hints = plain.split("Try this in another terminal:")
        commands = re.findall(r"^ +\$ (.*?) *\r?$", hints, re.MULTILINE)
        assert len(commands) >= 2
        done = subprocess.run(
            ["sh", "-ec", "\n".join(commands)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "pod: web-" in done.stdout
        assert "IN-USE" in done.stdout

        demo.process.send_signal(signal.SIGINT)
        code, _, err = demo.finish()
        assert demo.leftovers() == []
    assert (code, err) == (0, "")


WITHOUT_TOUR = """
import sys
from kproxy.cli import main
sys.modules["kproxy.demo.tour"] = None
sys.exit(main.run(["demo"]))
"""


def test_there_is_something_to_read_before_anything_that_takes_time() -> None:
    """The simulated cluster takes half a second to import: it is not even there here."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TOUR], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("kproxy demo: ")


def test_forced_colours_do_not_keep_it_up_where_no_terminal_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    async def show(_: screen.Screen, *, stays: bool) -> None:
        seen.append(stays)

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(tour, "show", show)

    assert main.run(["demo"]) == 0
    assert seen == [False]


async def drawn(width: int, *, is_terminal: bool) -> str:
    """A step as it looks in a terminal or a file of this width."""
    out = console.Console(
        file=io.StringIO(),
        width=width,
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
        highlight=False,
    )
    shown = screen.Screen(out, pace=0)
    answers = iter(["web-wvvdnrc8jm-grbf7", "web-wvvdnrc8jm-jm9mr"] * 10)

    async def ask() -> str:
        return next(answers)

    shown.title(1, 6, "Rotation")
    shown.pods([("web-wvvdnrc8jm-jm9mr", "127.129.67.2", "has joined")])
    shown.rows(("SERVICE", "CLUSTER-IP"), [("web", "127.129.30.124:8080")])
    await shown.answers(ask, 20)
    await shown.why("A connection is accepted, an endpoint is chosen, and bytes are copied. " * 4)
    written = out.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(written, str)
    return written


@pytest.mark.parametrize("width", [60, 80, 100, 132, 200])
async def test_no_word_is_broken_and_no_line_is_too_long(width: int) -> None:
    plain = await drawn(width, is_terminal=False)
    assert max(map(len, plain.splitlines())) <= min(width, 100)
    words = [word for word in plain.split() if set(word) != {"="}]
    widest = await drawn(200, is_terminal=False)
    assert words == [word for word in widest.split() if set(word) != {"="}]
    assert not any(line.endswith(" ") for line in plain.splitlines())


async def test_a_pod_keeps_its_colour() -> None:
    drawing = await drawn(80, is_terminal=True)
    for pod in ("grbf7", "jm9mr"):
        colours = set(re.findall(rf"\x1b\[([\d;]+)m(?:web-\w+-)?{pod}", drawing))
        assert len(colours) == 1, colours
    assert "█" in drawing


async def test_a_python_that_cannot_be_executed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.touch(mode=0o600)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(errors.KproxyError, match=r"cannot be started with .*ermission denied"):
        async with stage.proxy(tmp_path / "kubeconfig", tmp_path):
            pass
