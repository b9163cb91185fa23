"""`kproxy run … -- COMMAND`: the proxy and a command, from outside."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import daemon, manifests, sockets

QUIET = ("--healthz-bind-address", "", "--metrics-bind-address", "", "--log-level", "warning")


@pytest.fixture
def pod() -> Iterator[sockets.Namer]:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (made,):
        yield made


@pytest.fixture
def web(tmp_path: Path, pod: sockets.Namer) -> Path:
    """A Service `my-web` with one endpoint."""
    return manifests.write(
        tmp_path / "web.yaml",
        manifests.service("my-web", manifests.fresh_ip(), 8080),
        manifests.endpoints("my-web", [pod.address]),
    )


@contextlib.contextmanager
def started(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`kproxy run WORDS` with endpoints on loopback allowed, in a session of its own."""
    process = subprocess.Popen(
        [*daemon.PROGRAM, "run", "--allow-loopback-endpoints", *QUIET, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**daemon.ENVIRONMENT, "XDG_RUNTIME_DIR": str(folder), **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        daemon.end(process)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_a_command_finds_the_service_and_its_exit_code_is_the_proxy_s(
    tmp_path: Path, web: Path
) -> None:
    """It reads the standard input, and reaches the pod through the variables."""
    script = (
        "import os, socket, sys\n"
        "address = os.environ['MY_WEB_SERVICE_HOST'], int(os.environ['MY_WEB_SERVICE_PORT'])\n"
        "print(socket.create_connection(address, 10).recv(9).decode(), sys.stdin.read())\n"
        "print('KPROXY_GRACE_PERIOD' in os.environ)\n"
        "sys.exit(7)"
    )
    words = ("-f", str(web), "--", sys.executable, "-c", script)
    with started(tmp_path, *words, KPROXY_GRACE_PERIOD="1") as kproxy:
        out, err = kproxy.communicate("typed", timeout=daemon.DEADLINE)

    assert (kproxy.returncode, out.splitlines(), err) == (7, ["pod typed", "False"], "")


@pytest.mark.extra
def test_a_command_that_cannot_start_is_refused_before_anything_is_served(
    tmp_path: Path, web: Path
) -> None:
    with started(tmp_path, "-f", str(web), "--", "no-such-command", "x") as kproxy:
        out, err = kproxy.communicate(timeout=daemon.DEADLINE)

    assert (kproxy.returncode, out) == (127, "")
    assert err == "kproxy: no-such-command: command not found\n"


@pytest.mark.extra
def test_it_starts_when_the_service_waited_for_has_an_endpoint(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    service = manifests.service("web", manifests.fresh_ip(), 8080)
    manifest = manifests.write(tmp_path / "web.yaml", service)
    words = ("-f", str(manifest), "--wait", "web", "--log-level", "info")
    with started(tmp_path, *words, "--", "echo", "it ran") as kproxy:
        assert kproxy.stderr is not None
        said = ""
        while "default/web has no ready endpoint" not in said:
            said = kproxy.stderr.readline()
            assert said, "it ended"
        manifests.write(manifest, service, manifests.endpoints("web", [pod.address]))

        out, _ = kproxy.communicate(timeout=daemon.DEADLINE)

    assert (kproxy.returncode, out) == (0, "it ran\n")


@pytest.mark.extra
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_before_the_start_ends_the_proxy_with_the_code_of_a_shell(
    tmp_path: Path, web: Path, number: signal.Signals
) -> None:
    words = ("-f", str(web), "--wait", "other", "--log-level", "info")
    with started(tmp_path, *words, "--", "echo", "it ran") as kproxy:
        assert kproxy.stderr is not None
        while "default/other does not exist" not in kproxy.stderr.readline():
            assert kproxy.poll() is None
        kproxy.send_signal(number)

        out, _ = kproxy.communicate(timeout=daemon.DEADLINE)

    assert (kproxy.returncode, out) == (128 + number, "")


@pytest.mark.extra
def test_the_command_gets_the_proxy_s_signals_and_is_served_meanwhile(
    tmp_path: Path, web: Path
) -> None:
    script = (
        "import os, signal, socket, sys\n"
        "address = os.environ['MY_WEB_SERVICE_HOST'], int(os.environ['MY_WEB_SERVICE_PORT'])\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print('up', flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "print(socket.create_connection(address, 10).recv(9).decode(), flush=True)\n"
        "sys.exit(3)"
    )
    with started(tmp_path, "-f", str(web), "--", sys.executable, "-c", script) as kproxy:
        assert kproxy.stdout is not None
        assert kproxy.stdout.readline() == "up\n"
        kproxy.send_signal(signal.SIGTERM)

        out, log = kproxy.communicate(timeout=daemon.DEADLINE)

    assert (kproxy.returncode, out) == (3, "pod\n"), log


@pytest.mark.extra
def test_the_command_dies_with_a_proxy_that_is_killed(tmp_path: Path, web: Path) -> None:
    script = "trap : TERM; echo $$; while :; do sleep 0.05; done"
    with started(tmp_path, "-f", str(web), "--", "sh", "-c", script) as kproxy:
        assert kproxy.stdout is not None
        pid = int(kproxy.stdout.readline())

        kproxy.kill()

        daemon.wait_until(lambda: daemon.has_ended(pid), "the command is gone")


@pytest.mark.extra
@pytest.mark.parametrize(("key", "name"), [("\x03", "INT"), ("\x1c", "QUIT")])
def test_a_key_that_interrupts_reaches_the_command_once(
    tmp_path: Path, web: Path, key: str, name: str
) -> None:
    script = (
        "import signal\n"
        "count = 0\n"
        "def note(*_):\n"
        "    global count\n"
        "    count += 1\n"
        f"signal.signal(signal.SIG{name}, note)\n"
        "print('up', flush=True)\n"
        "line = input()\n"
        "print(f'{line}: {count}', flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover  # the child
        environment = {**daemon.ENVIRONMENT, "XDG_RUNTIME_DIR": str(tmp_path)}
        words = ["-f", str(web), *QUIET, "--", sys.executable, "-c", script]
        arguments = [*daemon.PROGRAM, "run", "--allow-loopback-endpoints", *words]
        os.execve(sys.executable, arguments, environment)
    shown = b""
    try:
        while b"up" not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, key.encode())
        os.write(terminal, b"typed\n")
        with contextlib.suppress(OSError):  # EIO: the terminal is closed at the other end
            while piece := os.read(terminal, 1000):
                shown += piece
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert b"typed: 1" in shown


@pytest.mark.extra
def test_a_command_ends_with_the_terminal_that_is_kproxy_s_own(tmp_path: Path, web: Path) -> None:
    """The kernel tells the leader of the session alone, as under `ssh -t` or `xterm -e`."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover  # the child
        environment = {**daemon.ENVIRONMENT, "XDG_RUNTIME_DIR": str(tmp_path)}
        words = ["-f", str(web), *QUIET, "--", "sh", "-c", "echo up; exec sleep 600"]
        arguments = [*daemon.PROGRAM, "run", "--allow-loopback-endpoints", *words]
        os.execve(sys.executable, arguments, environment)
    shown = b""
    try:
        while b"up" not in shown:
            shown += os.read(terminal, 1000)
    finally:
        os.close(terminal)
    assert daemon.exit_code_of_child(pid) == 128 + signal.SIGHUP
