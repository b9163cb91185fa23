"""Nginx: an nginx that runs for as long as its proxy, with the last configuration it accepted.

The real program, driven as its administrators drive it: a configuration is tested by `nginx -t`,
comes into force by SIGHUP, and the end is SIGQUIT. The files that a configuration names, such as
certificates, are named by their content: one never changes while nginx may read it, and an nginx
that starts again finds the configuration in force, whole.

An nginx that ends unasked is started again at once. Its sockets are the proxy's (`listening`), so
connections wait meanwhile. Workers that outlive their master serve on, and finish what they have
once the next nginx answers.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from kproxy import errors, metrics
from kproxy.ingress import nginx_config
from kproxy.ingress.daemon import (
    lifeline,
    listening,
    nginx_log,
    private_directory,
    processes,
    program,
)

CONFIGURATION = "nginx.conf"
ENDING = "ending"
"""While this file is there, nginx asks clients to close their connections (`nginx_config`)."""

ENDING_SECONDS = 0.1
"""For so long at least before a reload: connections in use are closed by then, and by the client.
Workers that end close those that are idle, and a request may be on its way on one of them."""

CANDIDATE = "candidate.conf"
"""A configuration before nginx has accepted it."""

ANSWER_SECONDS = 15.0
"""How long nginx may take until it answers with a new configuration."""

STEADY_SECONDS = 5.0
"""An nginx that ends sooner than this is started again after a pause."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

ORPHAN_SECONDS = 30.0
"""How long workers whose master is gone may take to finish."""

_ASK_SECONDS = 2.0
_MOST_ANSWER = 4096
_QUESTION = f"GET {nginx_config.VERSION_PATH} HTTP/1.0\r\n\r\n".encode()
_LEAST_PAUSE, _MOST_PAUSE = 0.005, 0.05
_ORPHAN_PAUSE = 0.1

_log = structlog.get_logger(__name__)


class Nginx:
    """Owns the processes, and the files in `directory`, which stays the caller's.

    `run` keeps it running, `put` changes the configuration; the first `put` starts it. Everything
    is on one event loop.
    """

    def __init__(
        self,
        path: Path,
        directory: private_directory.PrivateDirectory,
        sockets: listening.Listening,
        counters: metrics.IngressCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._directory = directory
        self._sockets = sockets
        self._counters = counters
        self._clock = clock
        self._log_pipe = nginx_log.LogPipe()
        self._written: set[str] = set()
        self._wanted = asyncio.Event()
        self._master: _Master | None = None
        self._is_stopping = False
        self._reasons_to_close = 0

    @property
    def pid(self) -> int | None:
        """The process id of the master, None while there is none."""
        return self._master.pid if self._master else None

    async def refusal(self, configuration: nginx_config.Rendered) -> str:
        """Why nginx refuses a configuration, in its words; "" if it accepts it."""
        try:
            await self._write(configuration)
            prefix = self._directory.path
            return await program.refusal(self._path, prefix, prefix / CANDIDATE)
        except OSError as error:
            return f"it cannot be tried: {errors.reason(error)}"

    async def put(self, configuration: nginx_config.Rendered) -> str:
        """Bring a configuration in force; returns "" once its workers answer.

        Else it returns why not: nginx's own words for what it refuses, and then the configuration
        before stays in force.
        """
        asked_at = self._clock()
        with self._clients_asked_to_close():
            words = await self.refusal(configuration)
            if not words:
                words = await self._replace(configuration, asked_at)
        if words:
            self._counters.refusals += 1
        else:
            self._counters.configurations += 1
        return words

    @contextlib.contextmanager
    def _clients_asked_to_close(self) -> Iterator[None]:
        """Meanwhile nginx asks its clients to close their connections."""
        self._reasons_to_close += 1
        with contextlib.suppress(OSError):  # without it a reload may cost a request
            self._directory.write(ENDING, b"")
        try:
            yield
        finally:
            self._reasons_to_close -= 1
            if not self._reasons_to_close:
                self._directory.remove(ENDING)

    async def _replace(self, configuration: nginx_config.Rendered, asked_at: float) -> str:
        """Take the candidate, which nginx has accepted; returns why it is not in force, or "".

        Clients have been asked since `asked_at` to close their connections.
        """
        try:
            self._directory.rename(CANDIDATE, CONFIGURATION)
        except OSError as error:
            return f"it cannot be written: {errors.reason(error)}"
        self._wanted.set()
        workers: list[int] = []
        if self._master is not None:
            await asyncio.sleep(ENDING_SECONDS - (self._clock() - asked_at))
            self._counters.reloads += 1
            workers = processes.children(self._master.pid)
            self._master.signal(signal.SIGHUP)
        if not await self._answers(configuration.version):
            return f"nginx does not answer with it within {ANSWER_SECONDS:g} s"
        await processes.have_stopped_accepting(workers)
        self._end_oldest()
        for name in self._written - configuration.files.keys():
            self._directory.remove(name)
        self._written &= configuration.files.keys()
        return ""

    def _end_oldest(self) -> None:
        ended = processes.end_oldest(self._master.pid) if self._master is not None else 0
        if ended:
            _log.warning(
                "Ingresses change often while clients keep connections open: the oldest of these "
                "are ended",
                workers=ended,
            )

    async def run(self) -> None:
        """Keep nginx running from the first `put` on, until cancelled. Then no process is left."""
        self._log_pipe.follow()
        await self._wanted.wait()
        pause = 0.0
        async with asyncio.TaskGroup() as group:
            while True:
                started = self._clock()
                why = await self._run_once(group)
                if self._is_stopping:
                    return
                is_steady = self._clock() - started >= STEADY_SECONDS
                pause = 0.0 if is_steady else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
                self._counters.restarts += 1
                _log.error("nginx has ended, and is started again", why=why, pause_seconds=pause)
                await asyncio.sleep(pause)

    async def drain(self, grace: float) -> None:
        """Accept nothing new, and return when all requests are answered or after `grace` seconds.

        Then nginx ends at once.
        """
        self._is_stopping = True
        ends_at = self._clock() + grace
        with self._clients_asked_to_close():
            await asyncio.sleep(min(ENDING_SECONDS, grace))
        self._sockets.close_public()
        master = self._master
        if master is None:
            return
        master.signal(signal.SIGQUIT)
        try:
            async with asyncio.timeout(max(0.0, ends_at - self._clock())):
                await master.wait()
        except TimeoutError:
            _log.warning("nginx is ended with requests unanswered", grace_seconds=grace)
        await master.end()

    def close(self) -> None:
        """Release what `run` has left, which must have ended."""
        self._log_pipe.close()

    async def _write(self, configuration: nginx_config.Rendered) -> None:
        """Write what nginx is to read. Raises OSError."""
        for name, content in configuration.files.items():
            if name not in self._written:
                self._directory.write(name, content)
                self._written.add(name)
                await asyncio.sleep(0)
        self._directory.write(CANDIDATE, configuration.text.encode())

    async def _run_once(self, group: asyncio.TaskGroup) -> str:
        """One life of nginx; returns how it has ended. Its workers get time to finish."""
        try:
            master = await _Master.start(
                self._path, self._directory.path, self._sockets, self._log_pipe.descriptor
            )
        except OSError as error:
            return f"{self._path} cannot be started: {errors.reason(error)}"
        self._master = master
        try:
            code = await master.wait()
        except asyncio.CancelledError:
            await master.end()
            raise
        finally:
            self._master = None
        group.create_task(self._retire(master), name="workers without a master")
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _retire(self, master: "_Master") -> None:
        """Let the workers of a master that is gone finish."""
        try:
            with self._clients_asked_to_close():
                await asyncio.sleep(ENDING_SECONDS)
            await master.retire()
        finally:
            await master.end()

    async def _ask(self) -> str:
        """What nginx answers as the version of its configuration; "" if it does not."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                reader, writer = await asyncio.open_unix_connection(
                    str(self._directory.path / listening.CONTROL)
                )
                try:
                    writer.write(_QUESTION)
                    answer = await reader.read(_MOST_ANSWER)
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""
        return answer.rpartition(b"\r\n\r\n")[2].decode(errors="replace").strip()

    async def _answers(self, version: str) -> bool:
        """Whether nginx answers `version` before it is too late."""
        pause = _LEAST_PAUSE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                while await self._ask() != version:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _MOST_PAUSE)
                return True
        return False


class _Master:
    """One life of nginx: its master process, and the workers, which are in the same group."""

    def __init__(self, process: asyncio.subprocess.Process, line: lifeline.Lifeline) -> None:
        self._process = process
        self._line = line

    @classmethod
    async def start(
        cls, path: Path, prefix: Path, sockets: listening.Listening, log: int
    ) -> "_Master":
        """Start it on its sockets, with the configuration in force. Raises OSError."""
        line = lifeline.Lifeline()
        inherited = sockets.descriptors()
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                *("-e", "stderr", "-p", prefix, "-c", prefix / CONFIGURATION),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                env=program.environment(os.environ, inherited),
                pass_fds=(*inherited, line.descriptor),
                start_new_session=True,
            )
        except BaseException:
            line.cut()
            raise
        # It may have ended already: there is no group to tie then.
        with contextlib.suppress(ProcessLookupError):
            line.tie(process.pid)
        return cls(process, line)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that has ended it."""
        return await self._process.wait()

    async def end(self) -> None:
        """End master and workers at once."""
        self._line.cut()
        await self._process.wait()

    async def retire(self) -> None:
        """Let the workers, whose master is gone, finish for ORPHAN_SECONDS; `end` comes next."""
        try:
            async with asyncio.timeout(ORPHAN_SECONDS):
                self._signal_group(signal.SIGQUIT)
                while self._has_workers():  # noqa: ASYNC110  # they are no children
                    await asyncio.sleep(_ORPHAN_PAUSE)
        except TimeoutError:
            pass

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _has_workers(self) -> bool:
        # They are children of this process where it is the first of its PID namespace.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-self._process.pid, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
