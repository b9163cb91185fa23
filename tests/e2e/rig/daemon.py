"""`kproxy run` in a process of its own, as seen from outside."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import parser

DEADLINE = 60.0
"""Seconds in which anything that is waited for must happen; a bound, not an expectation: on a busy
machine a process takes ten to start."""

ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
"""What users have: with unbuffered standard streams, some hangs at exit do not show."""

PROGRAM = (sys.executable, "-m", os.environ.get("KPROXY_TESTS_PROGRAM", "kproxy"))
"""The proxy under test; `pytest --plane` may ask for another one."""

Address = tuple[str, int]


class NotInTimeError(AssertionError):
    """What was waited for did not happen."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Return as soon as `condition` holds. Raises NotInTimeError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotInTimeError(f"after {seconds:g} s still not so: {what}")
        time.sleep(0.01)


class Daemon:
    """A running `kproxy run`. The process belongs to `running`, which ends it."""

    def __init__(self, process: subprocess.Popen[bytes], ready_file: Path, log_file: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        self._log_file = log_file
        self.ready: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """Everything it has said on stderr so far."""
        return self._log_file.read_text()

    def log_lines(self, *parts: str) -> list[str]:
        """The lines of the log that contain all `parts`."""
        return [line for line in self.log().splitlines() if all(part in line for part in parts)]

    def wait_logged(self, *parts: str) -> list[str]:
        """The lines of the log that contain all `parts`, once there is one.

        The log is written beside everything else: a line may come later than what it is about.
        """
        wait_until(lambda: self.log_lines(*parts), f"a line of the log has {parts}")
        return self.log_lines(*parts)

    def wait_ready(self) -> None:
        """Return when the ready file is there. NotInTimeError carries the log."""
        wait_until(
            lambda: self.ready_file.exists() or self.process.poll() is not None, "a ready file"
        )
        if not self.ready_file.exists():
            raise NotInTimeError(f"exit code {self.process.returncode} before ready:\n{self.log()}")
        self.ready = json.loads(self.ready_file.read_text())

    def service(self, name: str, port_name: str = "") -> dict[str, Any]:
        """What the ready file says about a service port. Raises KeyError when it is not listed."""
        for view in self.ready["services"]:
            if (view["name"], view["port_name"]) == (name, port_name):
                found: dict[str, Any] = view
                return found
        raise KeyError(name)

    def address(self, name: str, kind: str = "cluster-ip") -> Address:
        """Where the frontend of `kind` of a Service's only port is bound, or would be."""
        frontends = self.service(name)["frontends"]
        return next(
            (each["bound_address"], each["bound_port"])
            for each in frontends
            if each["kind"] == kind
        )

    def place(self, name: str) -> Address:
        """Where it serves `name`, as the ready file says: "dns", "ingress_http"."""
        host, _, port = self.ready[name].rpartition(":")
        return host, int(port)

    def samples(self, name: str, **labels: str) -> list[float]:
        """The samples of a metric that have these labels, among others. Needs the ready file."""
        with urllib.request.urlopen(f"http://{self.ready['metrics']}/metrics", timeout=60) as page:
            families = list(parser.text_string_to_metric_families(page.read().decode()))
        return [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still, with its data plane if that is a process of its own."""
        pids = (self.pid, *children(self.pid))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: all(map(_is_stopped, pids)), "it is stopped")
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def listening(self) -> set[Address]:
        """Where its sockets listen, as the kernel says."""
        return listening(self.pid)


def listening(pid: int) -> set[Address]:
    """Where the sockets of a process and its children listen, as the kernel says."""
    own = {inode for each in (pid, *children(pid)) for inode in _socket_inodes(each)}
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return {_parse(row[1]) for row in rows if row[3] == "0A" and row[9] in own}


def _is_stopped(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state == "T"


def children(pid: int) -> list[int]:
    """The child processes: a data plane may be one, see `PROGRAM`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def group(leader: int) -> list[int]:
    """The processes of a process group that have not ended. Zombies have."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        state, number = _state(each)
        if number == leader and state not in "ZX":
            found.append(int(each.parent.name))
    return found


def has_ended(pid: int) -> bool:
    """Whether a process has ended. Where nothing reaps orphans, it stays a zombie for ever."""
    state, _ = _state(Path(f"/proc/{pid}/stat"))
    return state in "ZX"


def _state(stat: Path) -> tuple[str, int]:
    """The state of a process and its group; "X", and 0, when there is none any more."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        return state, int(number)
    return "X", 0


def _socket_inodes(pid: int) -> Iterator[str]:
    """Nothing of a process that ends meanwhile."""
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return
    for entry in entries:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            target = str(entry.readlink())
            if target.startswith("socket:["):
                yield target[len("socket:[") : -1]


def _parse(text: str) -> Address:
    """An address as /proc/net/tcp writes it, on this machine's byte order."""
    address, port = text.split(":")
    packed = int(address, 16).to_bytes(4, sys.byteorder)
    return socket.inet_ntoa(packed), int(port, 16)


@contextlib.contextmanager
def running(
    folder: Path,
    objects: Path,
    *flags: str,
    source: str = "--manifests",
    wrapper: Sequence[str] = (),
    stderr: int | None = None,
    await_ready: bool = True,
    allow_loopback: bool = True,
) -> Iterator[Daemon]:
    """Start `kproxy run` in a process group of its own, and end it at the end.

    `source` is the flag that names `objects`: manifests, or a kubeconfig. Endpoints on loopback
    are allowed unless told otherwise. `wrapper` is a command to start it through; `stderr` a
    descriptor to log to in place of a file in `folder`. The default control socket is in `folder`,
    since two proxies cannot have the same one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ready_file, log_file = folder / "ready.json", folder / "stderr.log"
    command = [
        *(*wrapper, *PROGRAM, "run", source, str(objects)),
        *("--ready-file", str(ready_file)),
        *("--healthz-bind-address", "", "--metrics-bind-address", "", *flags),
        *(["--allow-loopback-endpoints"] if allow_loopback else []),
    ]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log if stderr is None else stderr,
            env={**ENVIRONMENT, "XDG_RUNTIME_DIR": str(folder)},
            start_new_session=True,
        )
    daemon = Daemon(process, ready_file, log_file)
    try:
        if await_ready:
            daemon.wait_ready()
        yield daemon
    finally:
        end(process)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a process that leads its own group: politely, then with all it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DEADLINE)
    kill_group(process)
    process.wait(DEADLINE)


def kill_group(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Kill a process that leads its own group, and all that it left in the group.

    Where its end was seen earlier, the kernel may have given its id to another process meanwhile:
    it has as few as 32,768 of them. It gives away none that a group still has.
    """
    if process.poll() is not None and Path(f"/proc/{process.pid}").exists():
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def exit_code_of_child(pid: int) -> int:
    """Wait for the end of a process that was forked; killed if that does not come in time."""
    codes: list[int] = []

    def has_ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            codes.append(os.waitstatus_to_exitcode(status))
        return bool(found)

    try:
        wait_until(has_ended, "the end")
    except NotInTimeError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return codes[0]
