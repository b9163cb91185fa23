"""Children of the benchmark: started in a session of their own, weighed, and always ended.

Every start is a context manager, so that whatever happens (an error, Ctrl-C) the child and what
it forked are gone afterwards. Processes are found by the session they were started in and ended
by process id.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
"""Where children run, so that `python -m benchmarks...` finds this package."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LISTEN = "0A"  # TCP_LISTEN in the `st` column of /proc/net/tcp
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 3.0


class BenchmarkError(Exception):
    """A measurement could not be made; the message is a sentence for the user."""


class Address(NamedTuple):
    """An IPv4 address and a TCP port. A socket address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU a process and its children have used: total in ns, user and system in seconds.

    The total comes from the scheduler's own clock; the split has the kernel's tick as resolution.
    """

    cpu_ns: int
    user_s: float
    system_s: float

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.cpu_ns - earlier.cpu_ns,
            self.user_s - earlier.user_s,
            self.system_s - earlier.system_s,
        )


class Process:
    """A running child with everything it forked. Made by `start`, which also ends it."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.popen = popen
        self._log = log

    def usage(self) -> Usage:
        """CPU used so far by every thread of every process of the child's session."""
        used = [_usage(pid) for pid in self._members()]
        return Usage(
            sum(u.cpu_ns for u in used),
            sum(u.user_s for u in used),
            sum(u.system_s for u in used),
        )

    def rss_bytes(self) -> int:
        """Resident memory, exact (smaps_rollup), summed over the child's session."""
        total = 0
        for pid in self._members():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += 1024 * sum(
                int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:")
            )
        return total

    def check(self) -> None:
        """Raise BenchmarkError, with the last thing it wrote, when the child has ended."""
        code = self.popen.poll()
        if code is not None:
            raise BenchmarkError(f"{self.name} ended with exit code {code}: {self._last_words()}")

    def stop(self) -> None:
        """Ask the child to end, then insist. Bounded; never raises for a child already gone."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(_STOP_TIMEOUT)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while (members := self._members()) and time.monotonic() < deadline:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)  # a kill is carried out later than it returns
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                stream.close()

    def _members(self) -> list[int]:
        return [pid for pid in _pids() if _session(pid) == self.popen.pid]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        words = [line.strip(" │") for line in lines if any(map(str.isalnum, line))]
        return words[-1] if words else "it wrote nothing."


def end_leftovers() -> None:
    """End every child this process still has, with its session.

    For an interrupt that came inside a start, after the fork and before anybody knew of it.
    """
    mine = {pid for pid in _pids() if _parent(pid) == os.getpid()}
    for pid in _pids():
        if pid in mine or _session(pid) in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields and fields[0] != "Z" else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields and fields[0] != "Z" else None


def _usage(pid: int) -> Usage:
    fields = _stat(pid)
    if not fields:
        return Usage(0, 0.0, 0.0)
    user, system = (int(ticks) / _TICKS_PER_SECOND for ticks in fields[11:13])
    try:
        cpu_ns = sum(
            int(path.read_text().split()[0])
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
        )
    except (FileNotFoundError, ProcessLookupError):
        cpu_ns = 0
    return Usage(cpu_ns or round((user + system) * 1e9), user, system)


@contextlib.contextmanager
def start(
    name: str,
    argv: Sequence[str],
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    interactive: bool = False,
) -> Iterator[Process]:
    """Run `argv` in its own session until the context ends.

    What it writes goes to a log in `folder`, from which an error is quoted. With `interactive`
    its stdin and stdout are pipes, owned and closed here. Raises BenchmarkError when the program
    cannot be started.
    """
    log = folder / f"{name}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        try:
            popen = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE if interactive else output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchmarkError(f"cannot start {name} ({argv[0]}): {error.strerror}.") from error
    process = Process(name, popen, log)
    try:
        yield process
    finally:
        process.stop()


def run_json(name: str, argv: Sequence[str], folder: Path, timeout: float) -> dict[str, Any]:
    """Run a generator to its end and decode the JSON object it prints last.

    Raises BenchmarkError when it fails, prints something else, or takes more than `timeout` s.
    """
    with start(name, argv, folder, interactive=True) as child:
        return read_json(child, timeout)


def read_json(child: Process, timeout: float) -> dict[str, Any]:
    """What an interactive child printed, once it has ended; errors as for `run_json`."""
    try:
        output, _ = child.popen.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{child.name} did not finish within {timeout:.0f} s.") from None
    if child.popen.returncode != 0:
        child.check()
    lines = output.decode(errors="replace").strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        raise BenchmarkError(f"{child.name} printed no result.") from None


def wait_listening(process: Process, address: Address) -> None:
    """Return once `address` listens; asked of the kernel, so that no connection is made.

    A test connection would reach a backend: it would let a proxy learn of a dead one early.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while not is_listening(address):
        process.check()
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{process.name} does not listen on {address} after {_START_TIMEOUT:.0f} s."
            )
        time.sleep(0.01)


def wait_for_file(process: Process, path: Path) -> bytes:
    """The content of `path` once it exists; BenchmarkError when the child ends or dawdles."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not path.exists():
        process.check()
        if time.monotonic() > deadline:
            raise BenchmarkError(
                f"{process.name} did not say it is ready within {_START_TIMEOUT:.0f} s."
            )
        time.sleep(0.01)
    return path.read_bytes()


def is_listening(address: Address) -> bool:
    """Whether any process listens on exactly this address (not on a wildcard)."""
    packed = int.from_bytes(socket.inet_aton(address.host), "little")
    wanted = f"{packed:08X}:{address.port:04X}"
    with Path("/proc/net/tcp").open() as table:
        next(table)
        return _has_listener(table, wanted)


def _has_listener(table: IO[str], wanted: str) -> bool:
    for line in table:
        _, local, _, state, *_ = line.split()
        if state != _LISTEN:
            return False  # listeners come first; tens of thousands of TIME_WAITs may follow
        if local == wanted:
            return True
    return False


def free_address(host: str = "127.0.0.1") -> Address:
    """An address nobody uses now, with a port outside the range of outgoing connections.

    A port inside that range could be taken by a client between the choice and the bind.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    for _ in range(1000):
        address = Address(host, random.randrange(10000, max(int(ephemeral), 10001)))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(address)
            return address
    raise BenchmarkError(f"no free port found on {host}; end what occupies them and try again.")
