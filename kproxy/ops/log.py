"""Logging to stderr, as text or JSON lines, without ever blocking the data path.

A log sink can stop reading: a full pipe, a stopped terminal. Lines therefore go through a
bounded queue to a thread; when the queue is full they are dropped, and a line says how many. The
queue for a plain file is so long that nothing is lost in practice (docs/faults.md X13). A line
that repeats is written ten times a minute at most, and a warning that is about many Services a
hundred times.
"""

import io
import json
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from kproxy import errors

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
"""Most lines that wait for a pipe or terminal; more are dropped."""
_QUEUE_CHARACTERS = 64 * 1024 * 1024
"""Most characters that wait for a plain file. Only a disk that has stopped lets so many gather."""
_LINES_AT_ONCE = 128
"""Lines of one write(2). Each call gives the interpreter's lock away, for which relays wait."""
_REPEAT_LINES = 10
_REPEAT_SECONDS = 60.0
"""The same line is written at most this often in `_REPEAT_SECONDS`."""
_REPEATS_KNOWN = 1024
"""How many different lines are remembered for the bound on repetition."""
_ALIKE_LINES = 100
"""Warnings of one message about different Services are written at most this often in
`_REPEAT_SECONDS`."""
_ALIKE_LEVELS = frozenset({"warning", "error"})
_LONGEST_VALUE = 4096
"""Most characters of one value that are written; names and messages come from outside."""


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

    `drops_line` renders the line that says how many lines were lost.
    """

    def __init__(self, stream: IO[str], drops_line: Callable[[int], str] | None = None) -> None:
        self._put = _sink(stream)
        self._drops_line = drops_line or _drops_as_text
        self._is_file = _is_file(stream)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # How much was queued and taken: each is written by one side only.
        self._queued = 0
        self._taken = 0
        self.dropped = 0
        """Lines that were not written, since the start."""
        self._reported = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue `text`, or drop it when the queue is full."""
        size, most = (len(text), _QUEUE_CHARACTERS) if self._is_file else (1, _QUEUE_LINES)
        if self._queued - self._taken >= most:
            self.dropped += 1
        else:
            self._queued += size
            self._lines.put(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes each line as soon as it can."""

    def close(self, patience: float = 1.0) -> None:
        """Write what is queued, as long as the sink takes something every `patience` seconds.

        Waits ten times `patience` at most.
        """
        self._lines.put(None)
        for _ in range(10):
            before = self._taken
            self._thread.join(patience)
            if not self._thread.is_alive() or self._taken == before:
                return

    def _run(self) -> None:
        is_open = True
        while is_open:
            first = self._lines.get()
            lines = [] if first is None else [first]
            is_open = first is not None
            while is_open and len(lines) < _LINES_AT_ONCE and not self._lines.empty():
                more = self._lines.get()
                is_open = more is not None
                if more is not None:
                    lines.append(more)
            self._write(lines)
        self._write([])

    def _drops(self) -> str:
        """The line that reports what was dropped since the last such line; "" if nothing was."""
        lost, self._reported = self.dropped - self._reported, self.dropped
        return self._drops_line(lost) if lost else ""

    def _write(self, lines: list[str]) -> None:
        try:
            self._put(self._drops() + "".join(lines))
        except (OSError, ValueError):
            # The sink is gone for good. Serving goes on without a log.
            self.dropped += max(len(lines), 1)
        self._taken += sum(map(len, lines)) if self._is_file else len(lines)


def _is_file(stream: IO[str]) -> bool:
    """Whether `stream` is a plain file, which takes every write at once."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):
        return False


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
            except BlockingIOError:  # a process that shares the sink made it non-blocking
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
                colors=_has_colours(sink, os.environ),
                pad_event_to=0,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            Repeats(),
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


def _has_colours(sink: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether `sink` is a terminal that wants colours (no-color.org, terminfo's `dumb`)."""
    is_plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
    return sink.isatty() and not is_plain


class Repeats:
    """A processor that bounds how often one and the same line is written.

    What is left out is counted, and the next such line that is written says how many: `repeated`.
    Lines are the same if all of their values are. Warnings are alike if they have the same message:
    a user who may create Services can cause one for each Service. The last one that is written has
    a note that more are left out, and the next one has their number: `left_out`.

    Debug lines are not bounded: each connection has some, which differ, and would push every other
    line out of memory here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._same = _Bounded(_REPEAT_LINES)
        self._alike = _Bounded(_ALIKE_LINES)

    def __call__(
        self, _logger: object, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        """`event`, unless it has been written often enough. Raises DropEvent then."""
        if event.get("level") == LogLevel.DEBUG:
            return event
        now = self._clock()
        key = tuple((name, str(event[name])) for name in event if name != "exc_info")
        same = self._same.count(key, now)
        added: dict[str, object] = {}
        if same.left_out_before:
            added["repeated"] = same.left_out_before
        if event.get("level") in _ALIKE_LEVELS:
            alike = self._alike.count(event.get("event"), now)
            if alike.left_out_before:
                added["left_out"] = alike.left_out_before
            if alike.written == _ALIKE_LINES:
                added["note"] = f"more of these are left out for {alike.until - now:.0f} s"
        return {**event, **added} if added else event


class _Bounded:
    """How often each key came lately, of as many keys as are remembered."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[object, _Repeated] = {}

    def count(self, key: object, now: float) -> "_Repeated":
        """What is known of `key`, with this time. Raises DropEvent if it came too often."""
        found = self._seen.pop(key, None)
        if found is None or now >= found.until:
            left_out = 0 if found is None else found.left_out
            found = _Repeated(now + _REPEAT_SECONDS, left_out_before=left_out)
            if len(self._seen) >= _REPEATS_KNOWN:
                del self._seen[next(iter(self._seen))]
        else:
            found.left_out_before = 0
            found.written += 1
        self._seen[key] = found
        if found.written > self._most:
            found.left_out += 1
            raise structlog.DropEvent
        return found


@dataclass(slots=True)
class _Repeated:
    """How often a line came in the time until `until`.

    `left_out_before` lines were left out before it; the first line of this time reports them.
    """

    until: float
    written: int = 1
    left_out: int = 0
    left_out_before: int = 0


_FIRST_KEYS = ("timestamp", "level", "event", "service")


def _arrange(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Timestamp, level, message and Service first; the rest in the order in which it was given."""
    arranged = {key: event[key] for key in _FIRST_KEYS if key in event}
    return {**arranged, **event}


def _shorten(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut long values, so that an object's name cannot fill the disk (docs/faults.md S17)."""
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
        if isinstance(value, str):
            event[key] = errors.printable(value)
    return event
