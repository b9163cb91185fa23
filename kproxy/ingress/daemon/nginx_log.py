"""What nginx writes on standard error, as lines in the log of its proxy."""

import asyncio
import os
import time
from collections.abc import Callable

import structlog

from kproxy.ingress.daemon import program

LINES_A_SECOND = 20
"""A client can provoke lines: more of them are counted, and not written."""

_LONGEST = 1000
_PART = 65536

_log = structlog.get_logger(__name__)

_WRITERS = {
    "emerg": _log.error,
    "alert": _log.error,
    "crit": _log.error,
    "error": _log.warning,
    "warn": _log.warning,
}


class LogPipe:
    """A pipe for every nginx of a proxy: `descriptor` is the end that they write to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._reading, self.descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading, False)
        self._clock = clock
        self._rest = b""
        self._second = float("-inf")
        self._written = 0
        self._hidden = 0

    def follow(self) -> None:
        """Write lines into the log, on the running event loop, until `close`."""
        asyncio.get_running_loop().add_reader(self._reading, self._read)

    def close(self) -> None:
        """Stop following, after what is there already. A second call does nothing."""
        if self._reading < 0:
            return
        asyncio.get_running_loop().remove_reader(self._reading)
        self._read()
        self._take(self._rest)
        os.close(self._reading)
        os.close(self.descriptor)
        self._reading = -1

    def _read(self) -> None:
        try:
            part = os.read(self._reading, _PART)
        except BlockingIOError:
            return
        *lines, rest = (self._rest + part).split(b"\n")
        self._rest = rest[:_LONGEST]
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        text = line[:_LONGEST].decode(errors="replace")
        level, words = program.level_and_words(text)
        write = _WRITERS.get(level, _log.debug)
        now = self._clock()
        if now - self._second >= 1:
            if self._hidden:
                _log.warning("nginx says more than is written here", lines=self._hidden)
            self._second, self._written, self._hidden = now, 0, 0
        if self._written >= LINES_A_SECOND:
            self._hidden += 1
            return
        self._written += 1
        write("nginx says", words="".join(c if c.isprintable() else "?" for c in words))
