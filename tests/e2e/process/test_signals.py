"""Signals other than the polite end: an early end, a lost terminal, and those without meaning.

Cases: P03 of docs/faults.md.
"""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

HARMLESS = [
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF),
    *(signal.SIGIO, signal.SIGPWR, signal.SIGPIPE, signal.SIGWINCH, signal.SIGURG),
    signal.SIGRTMIN,
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return manifests.write(
        tmp_path / "web.yaml", manifests.service("web", manifests.fresh_ip(), 8080)
    )


def left(folder: Path) -> list[str]:
    """What lies in a folder, but for the log."""
    return sorted(each.name for each in folder.iterdir() if each.name != "stderr.log")


def test_signals_without_meaning_are_passed_over(manifest: Path, run: conftest.Run) -> None:
    proxy = run(manifest)

    for number in HARMLESS:
        proxy.signal(number)
        proxy.signal(number)
    proxy.signal(signal.SIGHUP)  # answered in the log: by then the others have been handled
    daemon.wait_until(lambda: proxy.log_lines("reloading"), "a line in the log")

    assert proxy.process.poll() is None
    assert proxy.stop() == 0


def test_quit_ends_it_at_once_and_leaves_nothing(manifest: Path, run: conftest.Run) -> None:
    proxy = run(manifest, "--grace-period", "1h")

    proxy.signal(signal.SIGQUIT)

    assert proxy.wait() == 0
    assert left(proxy.ready_file.parent) == []


def test_hup_without_a_terminal_reads_everything_again(tmp_path: Path, run: conftest.Run) -> None:
    address = manifests.fresh_ip()
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        manifest = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", address, 8080),
            manifests.endpoints("web", [pod.getsockname()]),
        )
        proxy = run(manifest, "--grace-period", "0")

        proxy.signal(signal.SIGHUP)
        daemon.wait_until(lambda: proxy.log_lines("reloading", str(manifest)), "a line in the log")

        with sockets.connect(proxy.address("web")):
            assert proxy.ready_file.exists()
        assert proxy.stop() == 0


@contextlib.contextmanager
def started(
    folder: Path, arguments: Sequence[str], stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """`kproxy ARGUMENTS`, which leaves its temporary files in `folder`."""
    environment = {**daemon.ENVIRONMENT, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kproxy", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        daemon.end(process)
        assert process.stderr is not None
        process.stderr.close()


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (number - 1))
    return False


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("run", signal.SIGTERM),
        ("run", signal.SIGQUIT),
        ("simulate", signal.SIGTERM),
        ("simulate", signal.SIGHUP),
    ],
)
def test_an_end_in_the_first_second_leaves_nothing(
    manifest: Path, tmp_path: Path, command: str, number: signal.Signals, delay: float
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    flags = {
        "run": [
            *("-f", str(manifest), "--ready-file", str(folder / "ready.json")),
            *("--healthz-bind-address", "", "--metrics-bind-address", ""),
        ],
        "simulate": [],
    }
    with started(folder, [command, *flags[command]]) as process:
        daemon.wait_until(lambda: heeds(process.pid, number), "a handler")
        time.sleep(delay)  # the moment is what is tried, not waited for
        process.send_signal(number)

        _, said = process.communicate(timeout=daemon.DEADLINE)

    assert process.returncode == 0, said
    assert b"Traceback" not in said
    assert b"Exception ignored" not in said
    assert left(folder) == []


@pytest.mark.parametrize("redirects", [False, True], ids=["streams on it", "only controlling"])
@pytest.mark.parametrize("command", ["run", "simulate"])
def test_a_closed_terminal_ends_it_in_good_order(
    manifest: Path, tmp_path: Path, command: str, redirects: bool
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    ready = folder / "ready.json"
    flags = {
        "run": [
            *("-f", str(manifest), "--ready-file", str(ready)),
            *("--healthz-bind-address", "", "--metrics-bind-address", ""),
        ],
        "simulate": ["--kubeconfig-out", str(ready)],
    }
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover  # the child
        environment = {**daemon.ENVIRONMENT, "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        if redirects:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
        arguments = [sys.executable, "-m", "kproxy", command, *flags[command]]
        os.execve(sys.executable, arguments, environment)
    try:
        daemon.wait_until(ready.exists, "ready")
    finally:
        os.close(terminal)  # the kernel hangs the terminal up, and sends SIGHUP

    assert daemon.exit_code_of_child(pid) == 0
    assert left(folder) == []


def test_a_terminal_that_is_closed_before_anything_is_printed_ends_nothing(tmp_path: Path) -> None:
    """It is not the controlling one: there is no SIGHUP."""
    folder = tmp_path / "files"
    folder.mkdir()
    kubeconfig = folder / "kubeconfig"
    terminal, stdout = pty.openpty()
    os.close(terminal)
    with started(folder, ["simulate", "--kubeconfig-out", str(kubeconfig)], stdout) as process:
        os.close(stdout)
        daemon.wait_until(lambda: kubeconfig.exists() or process.poll() is not None, "it is up")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=daemon.DEADLINE)

    assert (process.returncode, said) == (0, b"")
    assert left(folder) == []


def test_nohup_is_respected(manifest: Path, run: conftest.Run) -> None:
    ignoring = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    proxy = run(
        manifest, wrapper=[sys.executable, "-c", f"{ignoring}os.execv(sys.argv[1], sys.argv[1:])"]
    )

    proxy.signal(signal.SIGHUP)
    proxy.signal(signal.SIGUSR1)

    assert proxy.stop() == 0
    assert proxy.log_lines("reloading") == []
