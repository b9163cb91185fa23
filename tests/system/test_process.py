"""A process whose standard streams are closed, or that is short of something."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.system import process

MANIFEST = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.232.0.1, ports: [{port: 8080}]}
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
@pytest.mark.parametrize("arguments", ["version", "run -f missing.yaml", "get services"])
def test_a_closed_standard_stream_changes_nothing_else(
    tmp_path: Path, closed: str, arguments: str
) -> None:
    closing = " ".join(f"{fd}<&-" for fd in closed)
    command = f"exec {sys.executable} -m kproxy {arguments} {closing}"
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}

    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == {"version": 0, "get services": 1}.get(arguments, 2)
    has_failed = done.returncode != 0
    assert bool(done.stderr) == (has_failed and "2" not in closed)
    assert bool(done.stdout) == (not has_failed and "1" not in closed)
    assert list(tmp_path.iterdir()) == []


STREAMS = """
import os, sys
for fd in (0, 1, 2):
    os.close(fd)
from kproxy.system import process
process.open_standard_streams()
process.open_standard_streams()
opened = os.open(sys.argv[1], os.O_WRONLY)
names = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
os.write(opened, f"{opened} {names}".encode())
"""


def test_closed_streams_become_dev_null_and_files_get_other_numbers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()

    subprocess.run([sys.executable, "-c", STREAMS, str(out)], timeout=120, check=True)

    assert out.read_text() == "3 ['/dev/null', '/dev/null', '/dev/null']"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENFILE, "x"), "fs.file-max"),
        (OSError(errno.ENOSPC, "x", "/var/run/x"), "/var/run/x"),
        (OSError(errno.EROFS, "x", "/var/run/x"), "read-only"),
        (RuntimeError("can't start new thread"), "thread"),
        (ImportError("x.so: failed to map segment from shared object"), "memory"),
        (OSError(errno.EBADF, "x"), ""),
        (RuntimeError("x"), ""),
        (ImportError("No module named x"), ""),
    ],
)
def test_a_shortage_of_the_system_is_a_sentence(error: Exception, said: str) -> None:
    sentence = errors.shortage(error)

    assert bool(sentence) == bool(said)
    assert said in sentence


@pytest.mark.parametrize("files", [12, 20, 31, 40])
def test_few_open_files_are_met_with_a_sentence_or_served_under(tmp_path: Path, files: int) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    flags = "--healthz-bind-address '' --metrics-bind-address '' --control '' --ready-file ready"
    patience = 25 if files < 32 else 3  # with enough of them it serves until it is told to end
    command = f"timeout -s TERM {patience} {sys.executable} -m kproxy run -f web.yaml {flags}"

    done = subprocess.run(
        ["sh", "-c", f"ulimit -n {files}; exec {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    if files < 32:
        assert done.returncode == 2
        assert done.stderr == (
            f"kproxy: only {files} open files are allowed: raise the limit (ulimit -n) to 32 at "
            "least, and to two for each connection and one for each port served\n"
        )
    assert "a bug" not in done.stderr
    assert "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["web.yaml"]


@pytest.mark.parametrize("megabytes", [60, 130, 200])
def test_a_memory_limit_is_met_with_a_sentence_or_served_under(
    tmp_path: Path, megabytes: int
) -> None:
    (tmp_path / "web.yaml").write_text(MANIFEST)
    limit = f"ulimit -v {megabytes * 1024}; exec timeout -s TERM 2"
    flags = "--healthz-bind-address '' --metrics-bind-address '' --control '' --ready-file ready"

    done = subprocess.run(
        ["sh", "-c", f"{limit} {sys.executable} -m kproxy run -f web.yaml {flags}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    if done.returncode != 124:  # it did not last until it was stopped
        assert done.returncode == 1, done.stderr
        assert "memory" in done.stderr.splitlines()[-1] or "thread" in done.stderr
    assert "a bug" not in done.stderr
    assert "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["web.yaml"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
async def test_a_signal_that_is_relayed_does_nothing_else(number: signal.Signals) -> None:
    done: list[object] = []
    relayed = asyncio.Event()

    def relay(given: int) -> bool:
        done.append(given)
        relayed.set()
        return True

    signals = process.Signals()
    with signals.handling(
        stop=lambda: done.append("stop"), kill=lambda: done.append("kill"), relay=relay
    ):
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            await relayed.wait()

    assert done == [number]
    assert (signals.ended_by, signals.exit_code) == (None, 0)


@pytest.mark.parametrize(
    ("number", "action"),
    [(signal.SIGTERM, "stop"), (signal.SIGINT, "stop"), (signal.SIGQUIT, "kill")],
)
async def test_a_signal_that_is_not_relayed_ends_with_the_code_of_a_shell(
    number: signal.Signals, action: str
) -> None:
    done: list[str] = []
    ended = asyncio.Event()

    def end(what: str) -> None:
        done.append(what)
        ended.set()

    signals = process.Signals()
    with signals.handling(
        stop=lambda: end("stop"), kill=lambda: end("kill"), relay=lambda _: False
    ):
        os.kill(os.getpid(), signal.SIGUSR1)  # means nothing, and ends nothing
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            await ended.wait()

    assert done == [action]
    assert signals.exit_code == 128 + number


IN_A_CALLBACK = """
import signal
from kproxy.system import process

class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

process.signals.take()
Dropped()
print(process.signals.ended_by)
"""


def test_as_much_memory_as_possible_may_be_locked() -> None:
    """In a process of its own: where the hard limit is lower, it cannot be raised again."""
    script = """
import resource
from kproxy.system import process
_, before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
lowest = 65536 if before == resource.RLIM_INFINITY else min(65536, before)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (lowest, before))
process.lift_locked_memory_limit()
soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
assert soft == hard and hard in (before, resource.RLIM_INFINITY), (soft, hard, before)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_signal_where_nothing_can_be_raised_is_kept_and_nothing_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")
