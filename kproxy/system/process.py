"""This process and the system: standard streams, signals, limits.

Streams and signals are set up before everything else, so that a signal in the first second, or a
closed standard stream, is handled. So this module imports little.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from kproxy import errors

_IGNORED = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""By default they would end the process, which has no use for them."""

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_FEWEST_FILES = 32
"""The fewest open files with which an event loop, the log and the ready file work."""

_ROOM_FOR_FILES = 65536
"""Descriptors for which the kernel's table has room from the start: half a megabyte of memory."""


_TERMINAL = "/dev/tty"
_LOOK = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK


class EndedError(BaseException):
    """SIGTERM, or the loss of the terminal, before anything serves that could be stopped."""


def discard_output() -> None:
    """Let what is in the buffer of stdout, and all that follows, go nowhere: its reader is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def open_standard_streams() -> None:
    """Put /dev/null in the place of each standard stream that is closed.

    Without this, the next file or socket that is opened becomes standard error, and everything
    that is printed goes into it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                continue
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)  # noqa: FBT003  # children have standard streams too
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


class Terminal:
    """The terminal that this process was started on, if there was one."""

    def __init__(self) -> None:
        self._was_there = self.is_there()

    def is_lost(self) -> bool:
        """Whether there was one, and it has gone away: its window was closed."""
        return self._was_there and not self.is_there()

    @staticmethod
    def is_there() -> bool:
        """Whether there is a controlling terminal that has not been hung up."""
        try:
            os.close(os.open(_TERMINAL, _LOOK))
        except OSError:
            return False
        return True

    @staticmethod
    def is_in_foreground() -> bool:
        """Whether this process belongs to the group to which the terminal sends its signals."""
        try:
            descriptor = os.open(_TERMINAL, _LOOK)
        except OSError:
            return False
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:
            return False
        finally:
            os.close(descriptor)


def _quiet_about_the_end(
    say: "Callable[[sys.UnraisableHookArgs], object]",
) -> "Callable[[sys.UnraisableHookArgs], object]":
    """`say`, but for an EndedError, which `Signals.ended_by` keeps for later.

    The interpreter drops what is raised in a destructor or a callback of a weak reference, and says
    so. A signal may come there: each import ends with such a callback.
    """

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, EndedError):
            say(unraisable)

    return hook


class Signals:
    """What signals do to a command that serves.

    | signal | |
    |---|---|
    | TERM, INT | end in good order; a second one ends at once |
    | QUIT | end at once |
    | HUP, after the terminal has gone | as TERM |
    | HUP otherwise | reload; a command that cannot ends as on TERM |
    | USR1, USR2, ALRM and their like | nothing |

    HUP stays ignored if it was at the start: nohup asks for that. `take` is called first of all;
    until `handling` takes over, the signals that end raise EndedError. With a command, signals are
    offered to it first.
    """

    def __init__(self) -> None:
        self._terminal = Terminal()
        self._heeds_hup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._is_taken = False
        self._reloads = False
        self.ended_by: int | None = None
        """The signal that asked for the end, even if code on the way swallowed the EndedError."""

    def take(self, *, reloads: bool = False) -> None:
        """Handle the signals from now on. Call it in the main thread.

        `reloads` says whether the command can reload on HUP; one that cannot ends.
        """
        self._is_taken = True
        self._reloads = reloads
        for number in _IGNORED:
            # Not SIG_IGN, which programs that this one starts would inherit.
            signal.signal(number, _nothing)
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, self._end)
        if self._heeds_hup:
            signal.signal(signal.SIGHUP, self._end_if_lost if reloads else self._end)
        sys.unraisablehook = _quiet_about_the_end(sys.unraisablehook)

    @property
    def exit_code(self) -> int:
        """As a shell has it, of a command that the signal ended: 128 and the signal's number."""
        return 0 if self.ended_by is None else 128 + self.ended_by

    def has_lost_terminal(self) -> bool:
        """Whether there was a terminal at the start, and its window has been closed."""
        return self._terminal.is_lost()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self.ended_by = number
        raise EndedError

    def _end_if_lost(self, number: int, frame: FrameType | None) -> None:
        if self._terminal.is_lost():
            self._end(number, frame)

    @contextlib.contextmanager
    def handling(
        self,
        *,
        stop: Callable[[], object],
        kill: Callable[[], object],
        reload: Callable[[], object] | None = None,
        relay: Callable[[int], bool] | None = None,
    ) -> Iterator[None]:
        """Call these on the running event loop. A signal that came before counts.

        `relay` gets the number of each signal first, and USR1 and USR2 too; True means that it has
        been dealt with.
        """
        import asyncio  # noqa: PLC0415  # the command line does not need it

        loop = asyncio.get_running_loop()

        def on_hup() -> None:
            if reload is None or self._terminal.is_lost():
                self.ended_by = signal.SIGHUP
                stop()
            else:
                reload()

        handlers: dict[int, Callable[[], object]] = {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGQUIT: kill,
        }
        if self._heeds_hup:
            handlers[signal.SIGHUP] = on_hup

        if relay is not None:
            handlers.update(dict.fromkeys((signal.SIGUSR1, signal.SIGUSR2), lambda: None))

        def handle(number: int) -> None:
            if relay is not None and relay(number):
                return
            if number in _ENDING:
                self.ended_by = number
            handlers[number]()

        for number in handlers:
            loop.add_signal_handler(number, handle, number)
        if self.ended_by is not None:
            stop()
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
            if self._is_taken:
                self.take(reloads=self._reloads)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


signals = Signals()
"""The handlers of this process."""


def check_open_files() -> None:
    """Raise ConfigError if so few open files are allowed that the start would fail."""
    import resource  # noqa: PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _FEWEST_FILES:
        raise errors.ConfigError(
            f"only {hard} open files are allowed: raise the limit (ulimit -n) to {_FEWEST_FILES} "
            "at least, and to two for each connection and one for each port served"
        )


def prepare() -> None:
    """Set limits and the garbage collector as a proxy of many Services needs them."""
    import gc  # noqa: PLC0415

    _raise_open_files_limit()
    _dump_no_core()
    # Until the first sync is done, everything that is made lasts: there is nothing to collect.
    gc.disable()
    gc.set_threshold(50_000, 20, 50)


def _raise_open_files_limit() -> None:
    """Use all the descriptors this process is allowed to have."""
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _make_room_for_files(hard)


def _make_room_for_files(count: int) -> None:
    """Let the kernel enlarge its table of descriptors now.

    It doubles whenever it is full, and with a second thread in the process that waits for a
    grace period of RCU (fs/file.c, expand_fdtable): 5 to 15 ms in which no byte moves.
    """
    import fcntl  # noqa: PLC0415

    with contextlib.suppress(OSError):
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, min(count, _ROOM_FOR_FILES) - 1))
        finally:
            os.close(fd)


def _dump_no_core() -> None:
    """Write no core file, which would contain credentials."""
    import resource  # noqa: PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def lift_locked_memory_limit() -> None:
    """Allow as much locked memory as this process may have, without bound with CAP_SYS_RESOURCE.

    Linux before 5.11 counts BPF maps as such. The usual limit of 64 KiB has room for none.
    """
    import resource  # noqa: PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return


def adjust_oom_score(adjustment: int) -> str:
    """Set how readily the kernel ends this process. A sentence if it refuses, else ""."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write(str(adjustment))
    except OSError as error:
        return (
            f"--oom-score-adj {adjustment} has no effect: {errors.reason(error)}"
            "; a lower value than now needs CAP_SYS_RESOURCE"
        )
    return ""
