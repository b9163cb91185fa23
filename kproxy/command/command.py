"""The command of `kproxy run … -- COMMAND`, as a process that lives as long as the proxy.

It shares the proxy's terminal, standard streams and process group, as with env(1) or time(1): it
reads the keyboard, Ctrl-C reaches both, and Ctrl-Z stops both for the shell. Signals that are sent
to the proxy alone are passed on.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from kproxy import errors
from kproxy.command import starter
from kproxy.system import process

RELAYED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that are the command's, while it runs."""

_FROM_KEYBOARD = frozenset({signal.SIGINT, signal.SIGQUIT})
_SIGNALLED = 128
"""Added to the number of the signal that ended a process, as shells do."""

_log = structlog.get_logger(__name__)


class Command:
    """A command that waits for its environment, runs, and ends with an exit code.

    It is prepared as a process of its own at once, which inherits rights, limits and signals of
    this one as they are now. `close` ends it, whatever was called before.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """`words` are the command and its arguments, `environment` what it gets in any case.

        Raises CommandNotFoundError or CommandNotExecutableError.
        """
        check(words[0])
        self.name = words[0]
        self._environment = dict(environment)
        self._is_started = self._is_over = False
        reading, writing = os.pipe()
        self._writing: int | None = writing
        started_by = [sys.executable, "-I", "-S", str(Path(starter.__file__))]
        held = signal.pthread_sigmask(signal.SIG_BLOCK, starter.HELD)
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the user's own command
                [*started_by, str(os.getpid()), str(reading), *words], pass_fds=[reading]
            )
        except OSError as error:
            os.close(writing)
            raise errors.KproxyError(
                f"{self.name} cannot be started with {sys.executable}: {errors.reason(error)}"
            ) from error
        finally:
            os.close(reading)
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    async def run(self, variables: Mapping[str, str]) -> int:
        """Start it with these variables too; its exit code when it has ended.

        The code is 128 and the signal's number if a signal ended it. Cancelling this does not end
        the command: see `end`.
        """
        self._is_started = True
        _log.info("command", command=self.name, pid=self._process.pid, variables=len(variables))
        await asyncio.to_thread(self._give, {**self._environment, **variables})
        code = await self._ended()
        self._is_over = True
        return code

    async def end(self, grace: float) -> None:
        """Ask it to end; kill it if it has not after `grace` seconds."""
        self._process.terminate()
        ended = asyncio.ensure_future(self._ended())
        done, _ = await asyncio.wait({ended}, timeout=grace)
        if not done:
            _log.warning("the command goes on after SIGTERM: it is killed", command=self.name)
            self._process.kill()
        await ended

    def relay(self, number: int) -> bool:
        """Pass a signal on, if the command runs; whether it is the command's.

        What the terminal sends, the command has received as well.
        """
        if not self._is_started or self._is_over:
            return False
        if not _came_from_terminal(number):
            self._process.send_signal(number)
        return True

    def close(self) -> None:
        """Make sure that it has ended: at once if it has not begun, else by a kill."""
        self._hang_up()
        if self._is_started:
            self._process.kill()
        self._process.wait()

    def _give(self, environment: Mapping[str, str]) -> None:
        """Send the environment. A process that was killed meanwhile reads no more."""
        items = (f"{name}={value}" for name, value in environment.items())
        left = memoryview(b"".join(os.fsencode(item) + b"\0" for item in items))
        assert self._writing is not None
        with contextlib.suppress(BrokenPipeError):
            while left:
                left = left[os.write(self._writing, left) :]
        self._hang_up()

    def _hang_up(self) -> None:
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    async def _ended(self) -> int:
        """The exit code, as a shell has it."""
        if self._process.poll() is None:
            descriptor = os.pidfd_open(self._process.pid)
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        code = self._process.wait()
        return code if code >= 0 else _SIGNALLED - code


def check(name: str) -> None:
    """Raise CommandNotFoundError or CommandNotExecutableError if `name` cannot be started."""
    if shutil.which(name) is not None:
        return
    is_path = "/" in name
    is_directory = is_path and Path(name).is_dir()
    if shutil.which(name, os.F_OK) is None and not is_directory:
        raise errors.CommandNotFoundError(
            f"{name}: {'no such file' if is_path else 'command not found'}"
        )
    what = "is a directory" if is_directory else "permission denied"
    raise errors.CommandNotExecutableError(f"{name}: {what}")


def own_environment(ours: Iterable[str]) -> dict[str, str]:
    """This process's environment without `ours`, the variables that are meant for kproxy.

    A second kproxy below the command would take them for its own: two proxies with one ready file.
    """
    left = dict(os.environ)
    for name in ours:
        left.pop(name, None)
    return left


def _came_from_terminal(number: int) -> bool:
    """Whether the terminal sent this signal: then it went to the whole process group.

    The sender cannot be seen here. SIGINT and SIGQUIT to a process in the foreground are taken for
    Ctrl-C and Ctrl-\\, SIGHUP after the terminal has gone for its end. The kernel sends that one to
    the leader of the session alone. A shell as the leader passes it on to the group; but under
    `ssh -t HOST kproxy run … -- COMMAND` and `xterm -e` the leader is this process.
    """
    if number in _FROM_KEYBOARD:
        return process.Terminal.is_in_foreground()
    is_leader = os.getsid(0) == os.getpid()
    return number == signal.SIGHUP and process.signals.has_lost_terminal() and not is_leader
