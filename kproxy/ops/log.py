"""Logging to stderr, as text or JSON lines, without ever blocking the data path.

A log sink can stop reading: a full pipe, a stopped terminal. Lines therefore go through a
bounded queue to a thread; when the queue is full they are dropped and the number is told later
(fault-catalogue X13).
"""

import io
import json
import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import IO

if "structlog" not in sys.modules:
    # structlog loads rich, where it is installed, for tracebacks that are not wanted here: a
    # tenth of all the time that it takes to start. It does without if this import fails.
    _rich = sys.modules.get("rich")
    sys.modules["rich"] = None  # type: ignore[assignment]  # which makes an import fail
    try:
        import structlog
    finally:
        if _rich is None:
            del sys.modules["rich"]
        else:
            sys.modules["rich"] = _rich
else:
    import structlog

get_logger = structlog.get_logger

_QUEUE_LINES = 4096
_LONGEST_VALUE = 4096
"""Characters of one value that are written; names and messages come from outside."""


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
    """A file-like object whose writes never block. Owns its thread; the stream stays open.

    `tell_drops` renders the line that says how many lines were lost.
    """

    def __init__(self, stream: IO[str], tell_drops: Callable[[int], str] | None = None) -> None:
        self._put = _sink(stream)
        self._tell_drops = tell_drops or _drops_as_text
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES)
        self.dropped = 0
        """Lines that were not written, since the start."""
        self._told = 0
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
        while (text := self._lines.get()) is not None:
            self._write(self._drops() + text)
        self._write(self._drops())

    def _drops(self) -> str:
        """The line about what was dropped since the last one, if anything was."""
        lost, self._told = self.dropped - self._told, self.dropped
        return self._tell_drops(lost) if lost else ""

    def _write(self, text: str) -> None:
        try:
            self._put(text)
        except (OSError, ValueError):
            # The sink is gone for good; the process has more important things to do.
            self.dropped += 1


def _sink(stream: IO[str]) -> Callable[[str], object]:
    """How to write to `stream`: past its buffer where it has a descriptor.

    A thread that is stuck in a buffered write holds the buffer's lock, and the interpreter waits
    for that at exit, for ever.
    """
    try:
        fd = stream.fileno()
    except (OSError, io.UnsupportedOperation):
        return lambda text: (stream.write(text), stream.flush())

    def put(text: str) -> None:
        left = memoryview(text.encode(errors="backslashreplace"))
        while left:
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:  # whoever shares the sink has made it non-blocking
                select.select((), (fd,), ())

    return put


def _drops_as_text(count: int) -> str:
    return f"{count} log lines dropped: the sink was full\n"


def _drops_as_json(count: int) -> str:
    event = "log lines dropped: the sink was full"
    return json.dumps({"event": event, "dropped": count, "level": "warning"}) + "\n"


def configure(fmt: LogFormat, level: LogLevel, stream: IO[str] | None = None) -> Writer:
    """Send all of kproxy's log events to `stream` (stderr). Close the writer at exit."""
    sink = stream or sys.stderr
    rendering: list[structlog.typing.Processor]
    if fmt is LogFormat.JSON:
        writer = Writer(sink, _drops_as_json)
        rendering = [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ]
    else:
        writer = Writer(sink)
        rendering = [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=sink.isatty(),
                pad_event_to=0,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _shorten,
            _arrange,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=writer),  # type: ignore[arg-type]  # it only writes and flushes
        cache_logger_on_first_use=False,
    )
    return writer


_FIRST_KEYS = ("timestamp", "level", "event", "service")


def _arrange(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """When, how bad, what, and of which Service; the rest in the order in which it was given."""
    arranged = {key: event[key] for key in _FIRST_KEYS if key in event}
    return {**arranged, **event}


def _shorten(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Nobody's name fills a disk (fault-catalogue S17)."""
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST_VALUE:
            more = len(value) - _LONGEST_VALUE
            event[key] = f"{value[:_LONGEST_VALUE]}... ({more} more characters)"
    return event


def _escape(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A value cannot end its line or drive the terminal; JSON escapes by itself (S17)."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(
                each if each.isprintable() else each.encode("unicode_escape").decode()
                for each in value
            )
    return event
