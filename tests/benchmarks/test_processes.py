"""Children are weighed with all they forked, and nothing of them is left."""

import contextlib
import socket
import sys
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.processes import Address, BenchmarkError

FORKING = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    sum(range(3_000_000))
    signal.pause()
print(child, flush=True)
signal.pause()
"""


def test_a_child_that_ignores_its_end_is_gone_with_what_it_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STOP_TIMEOUT", 0.5)
    argv = [sys.executable, "-c", FORKING]
    with processes.start("stubborn", argv, tmp_path, interactive=True) as child:
        assert child.popen.stdout is not None
        forked = int(child.popen.stdout.readline())
        assert child.rss_bytes() > 0
        assert child.usage().cpu_ns > 0
    assert child.popen.returncode is not None
    assert not _alive(forked)


def _alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_child_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; sys.exit('the port is taken')"]
    address = processes.free_address()
    with (
        processes.start("brief", argv, tmp_path) as child,
        pytest.raises(BenchmarkError, match="brief ended with exit code 1: the port is taken"),
    ):
        processes.wait_listening(child, address)


def test_a_program_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkError, match="cannot start ghost"),
        processes.start("ghost", ["./no-such-program"], tmp_path),
    ):
        pytest.fail("a program that does not exist ran")


def test_listening_is_seen_without_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = Address(*listener.getsockname())
        assert processes.is_listening(address)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not processes.is_listening(address)
