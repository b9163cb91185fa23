"""Logging to stderr, as text or JSON lines, without ever blocking the data path.

A log sink can stop reading: a full pipe, a stopped terminal. Lines therefore go through a
bounded queue to a thread; when the queue is full they are dropped and the number is told later
(fault-catalogue X13).
"""

import queue
import sys
import threading
from enum import StrEnum
from typing import IO

import structlog

_QUEUE_LINES = 4096


class LogFormat(StrEnum):
    """How a line looks."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_LEVELS = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARNING: 30, LogLevel.ERROR: 40}


class Writer:
    """A file-like object whose writes never block. Owns its thread; the stream stays open."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue `text`, or drop it when the sink is that far behind."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back here."""

    def close(self, patience: float = 1.0) -> None:
        """Write what is queued, waiting no longer than `patience` seconds for a slow sink."""
        try:
            self._lines.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)

    def _run(self) -> None:
        reported = 0
        while (text := self._lines.get()) is not None:
            if self.dropped != reported:
                text = f"{self.dropped - reported} log lines dropped: the sink was full\n{text}"
                reported = self.dropped
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                # The sink is gone for good; the process has more important things to do.
                self.dropped += 1


def configure(fmt: LogFormat, level: LogLevel, stream: IO[str] | None = None) -> Writer:
    """Send all of kproxy's log events to `stream` (stderr). Close the writer at exit."""
    sink = stream or sys.stderr
    writer = Writer(sink)
    renderer: structlog.typing.Processor
    if fmt is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
        traceback: list[structlog.typing.Processor] = [structlog.processors.dict_tracebacks]
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sink.isatty(), pad_event_to=0)
        traceback = []
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *traceback,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=writer),  # type: ignore[arg-type]  # it only writes and flushes
        cache_logger_on_first_use=False,
    )
    return writer
