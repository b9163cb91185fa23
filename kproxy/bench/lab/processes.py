"""Child processes of a benchmark: started in a session of their own, measured, and always ended.

Every start is a context manager, so that whatever happens (an error, Ctrl-C) the child and what
it forked are gone afterwards. Processes are found by the session they were started in and ended
by process id.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from kproxy import errors
from kproxy.bench.lab import network

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU that a process and its children have used.

    `total` is seconds of the scheduler's own clock, exact. The kernel's part of it is
    sampled by its tick, 100 to 1,000 times a second, and reported in ticks of 10 ms: the division
    is exact to a tenth or so for a second of CPU time or more.
    """

    total: float = 0.0
    user_ticks: int = 0
    system_ticks: int = 0

    @property
    def user_share(self) -> float:
        """The part spent in the programs' own code, from 0 to 1; the rest is the kernel's."""
        return self.user_ticks / max(self.user_ticks + self.system_ticks, 1)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.total + other.total,
            self.user_ticks + other.user_ticks,
            self.system_ticks + other.system_ticks,
        )

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.total - earlier.total,
            self.user_ticks - earlier.user_ticks,
            self.system_ticks - earlier.system_ticks,
        )


class Process:
    """A running child with everything it forked. Made by `start`, which also ends it."""

    def __init__(self, name: str, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self.popen = popen
        self._log = log

    def usage(self) -> Usage:
        """CPU used so far by every thread of every process of the child's session."""
        return sum(map(_usage, self._members()), Usage())

    def rss_bytes(self) -> int:
        """Resident memory, exact (smaps_rollup), summed over the child's session."""
        total = 0
        for pid in self._members():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                lines = (line.split() for line in text.splitlines() if line.startswith("Rss:"))
                total += 1024 * sum(int(kib) for _, kib, *_ in lines)
        return total

    def check(self) -> None:
        """Raise KproxyError, with the last line that it printed, when the child has ended."""
        code = self.popen.poll()
        if code is not None:
            raise errors.KproxyError(
                f"{self.name} ended with exit code {code}: {self._last_words()}"
            )

    def ask(self, line: bytes, timeout: float) -> bytes:
        """Send one line to an interactive child, and return the line that it answers.

        Raises KproxyError when it ends instead, or takes more than `timeout` seconds.
        """
        self.send(line)
        return self.answer(timeout)

    def send(self, line: bytes) -> None:
        """Send one line to an interactive child. Raises KproxyError when it is gone."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(line + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            self._raise_ended()

    def answer(self, timeout: float) -> bytes:
        """The next line that an interactive child prints; errors as for `ask`."""
        assert self.popen.stdout is not None
        ready, _, _ = select.select([self.popen.stdout], [], [], timeout)
        if not ready:
            raise errors.KproxyError(f"{self.name} did not answer within {timeout:.0f} s")
        line = self.popen.stdout.readline()  # a child that begins a line ends it, or exits
        if not line.endswith(b"\n"):
            self._raise_ended()
        return line

    def output(self, timeout: float) -> bytes:
        """Everything that an interactive child prints until it ends by itself.

        Raises KproxyError when it fails, or takes more than `timeout` seconds.
        """
        try:
            output, _ = self.popen.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise errors.KproxyError(f"{self.name} did not finish within {timeout:.0f} s") from None
        if self.popen.returncode != 0 and not output:
            self.check()
        return output

    def stop(self) -> None:
        """Ask the child to end, then kill it. Bounded; a child that has ended is no error."""
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(_STOP_TIMEOUT)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while (members := self._members()) and time.monotonic() < deadline:
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)  # kill(2) returns before the process has ended
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):  # drop what was not sent
                    stream.close()

    def _raise_ended(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(_STOP_TIMEOUT)
        self.check()
        raise errors.KproxyError(f"{self.name} closed its output")

    def _members(self) -> list[int]:
        return [pid for pid in _pids() if _session(pid) == self.popen.pid and _is_alive(pid)]

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        words = [line.strip(" │") for line in lines if any(map(str.isalnum, line))]
        return words[-1] if words else "it wrote nothing"


def end_leftovers() -> None:
    """End every child that this process still has, with its session.

    For an interrupt during a start, after the fork and before the child was recorded.
    """
    mine = {pid for pid in _pids() if _parent(pid) == os.getpid()}
    for pid in _pids():
        if pid in mine or _session(pid) in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 (hot)


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
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie has ended."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _usage(pid: int) -> Usage:
    fields = _stat(pid)
    if not fields:
        return Usage()
    user, system, ended_user, ended_system = map(int, fields[11:15])
    exact = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            exact += int(path.read_text().split()[0])
    alive = exact / 1e9 or (user + system) / _TICKS_PER_SECOND
    ended = (ended_user + ended_system) / _TICKS_PER_SECOND  # of children it has waited for
    return Usage(alive + ended, user + ended_user, system + ended_system)


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
    its stdin and stdout are pipes, owned and closed here. Raises KproxyError when the program
    cannot be started.
    """
    log = folder / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        try:
            popen = subprocess.Popen(  # noqa: S603 (programs found or made here, or asked for)
                argv,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE if interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE if interactive else output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise errors.KproxyError(
                f"cannot start {name} ({argv[0]}): {error.strerror}; check that it is installed"
            ) from error
    process = Process(name, popen, log)
    try:
        yield process
    finally:
        process.stop()


def wait_listening(process: Process, address: network.Address) -> None:
    """Return once `address` listens in the child's network namespace.

    No test connection is made: it would reach a backend, and show a proxy a dead one early.
    Raises KproxyError when the child ends, or does not listen in time.
    """

    def is_up() -> bool:
        return network.is_listening(address, process.popen.pid)

    wait_until(process, is_up, f"does not listen on {address}")


def wait_until(process: Process, condition: Callable[[], bool], complaint: str) -> None:
    """Return once `condition` holds; KproxyError when the child ends, or with `complaint`."""
    deadline = time.monotonic() + _START_TIMEOUT
    while not condition():
        process.check()
        if time.monotonic() > deadline:
            raise errors.KproxyError(f"{process.name} {complaint} after {_START_TIMEOUT:.0f} s")
        time.sleep(0.005)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, once: no second one interrupts cleaning up."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's protocol)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def find_program(name: str, package: str) -> str:
    """The full path of a program; KproxyError names the Debian package that has it."""
    for path in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
        if found := shutil.which(name, path=path):
            return found
    raise errors.KproxyError(f"{name} is not installed; install the Debian package {package}")


def first_line(*argv: str) -> str:
    """The first line that a command prints, on stdout or stderr; "" if it cannot be run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except OSError:
        return ""
    return (done.stdout + done.stderr).strip().partition("\n")[0].strip()
