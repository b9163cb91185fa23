"""The log never blocks, never loses count, and never lets a name break out of its line.

Cases: S17 of docs/faults.md.
"""

import contextlib
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from kproxy.ops import log


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    """What a test configures ends with it."""
    yield
    structlog.reset_defaults()


class StuckSink(io.StringIO):
    """A sink that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.released.wait(60)
        return super().write(text)


class GoneSink(io.StringIO):
    """A sink whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def written(fmt: log.LogFormat, event: str, **values: object) -> str:
    """What one warning looks like in the sink."""
    sink = io.StringIO()
    writer = log.configure(fmt, log.LogLevel.INFO, sink)
    structlog.get_logger().warning(event, **values)
    writer.close()
    return sink.getvalue()


def test_a_stuck_sink_blocks_no_caller_and_dropped_lines_are_counted_and_reported() -> None:
    sink = StuckSink()
    writer = log.Writer(sink)
    writer.write("first\n")
    assert sink.entered.wait(60)

    for number in range(10_000):
        writer.write(f"{number}\n")

    assert writer.dropped > 0
    sink.released.set()
    writer.close(60)
    lines = sink.getvalue().splitlines()
    told = [line for line in lines if "dropped" in line]
    assert told == [f"{writer.dropped} log lines dropped: the sink was full"]
    assert len(lines) - len(told) + writer.dropped == 10_001


def test_dropped_lines_are_reported_as_json_among_json() -> None:
    sink = StuckSink()
    writer = log.configure(log.LogFormat.JSON, log.LogLevel.INFO, sink)
    logger = structlog.get_logger()
    logger.info("first")
    assert sink.entered.wait(60)
    for number in range(10_000):
        logger.info("flood", number=number)
    sink.released.set()
    writer.close(60)

    events = [json.loads(line) for line in sink.getvalue().splitlines()]

    assert [event["dropped"] for event in events if "dropped" in event] == [writer.dropped]


def test_closing_waits_for_a_stuck_sink_only_for_its_patience() -> None:
    sink = StuckSink()
    writer = log.Writer(sink)
    writer.write("first\n")
    assert sink.entered.wait(60)
    closing = threading.Thread(target=writer.close, args=(0.01,))
    closing.start()

    closing.join(60)

    assert not closing.is_alive()
    assert not sink.released.is_set()
    sink.released.set()


def test_a_sink_that_is_gone_is_survived_and_counted() -> None:
    writer = log.Writer(GoneSink())

    writer.write("one\n")
    writer.write("two\n")
    writer.close(60)

    assert writer.dropped >= 2


def test_a_sink_that_someone_made_non_blocking_gets_every_line() -> None:
    reader, sink = os.pipe()
    os.set_blocking(sink, False)
    lines = [f"{number:0100}\n" for number in range(2000)]
    with os.fdopen(sink, "w") as stream:
        writer = log.Writer(stream)
        for line in lines:
            writer.write(line)
        size = sum(map(len, lines))
        received = b""
        while len(received) < size:
            received += os.read(reader, 65536)
        writer.close(60)
    os.close(reader)

    assert received.decode() == "".join(lines)
    assert writer.dropped == 0


@pytest.mark.parametrize("fmt", log.LogFormat)
@pytest.mark.parametrize(
    "evil",
    [
        pytest.param("web\n2026-01-01T00:00:00Z [info] forged", id="a new line"),
        pytest.param("web\r\x1b[2K\x1b[31mred", id="escape codes"),
        pytest.param("\x9b31m\u202egnp.exe\u2028next", id="C1 codes and direction changes"),
        pytest.param('web" level="error', id="quotes"),
        pytest.param("\ud800", id="a lone surrogate"),
    ],
)
def test_a_name_cannot_break_out_of_its_line(fmt: log.LogFormat, evil: str) -> None:
    line = written(fmt, f"Service {evil} is odd", service=evil, several=[evil])

    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    assert "Service " in line


@pytest.mark.parametrize("fmt", log.LogFormat)
def test_a_name_of_a_megabyte_is_cut(fmt: log.LogFormat) -> None:
    line = written(fmt, "odd", service="x" * 1_000_000)

    assert len(line) < 10_000
    assert "more characters" in line


def test_json_lines_carry_event_level_time_and_values() -> None:
    event = json.loads(written(log.LogFormat.JSON, 'a "b"\n', service="default/web", count=2))

    assert event.keys() == {"event", "level", "timestamp", "service", "count"}
    assert event["event"] == 'a "b"\n'
    assert (event["level"], event["service"], event["count"]) == ("warning", "default/web", 2)


@pytest.mark.parametrize("fmt", log.LogFormat)
def test_keys_come_in_a_reader_s_order(fmt: log.LogFormat) -> None:
    line = written(fmt, "it happened", zone=1, service="a/web", bytes=2, about="x")
    words = ["it happened", "service", "zone", "bytes", "about"]
    positions = [line.index(word) for word in words]
    assert positions == sorted(positions)


def test_text_has_no_colours_without_a_terminal() -> None:
    line = written(log.LogFormat.TEXT, "frontend", service="default/web")

    assert "\x1b" not in line
    assert "[warning" in line
    assert "service=default/web" in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param(log.LogLevel.DEBUG, ["debug", "info", "warning", "error"], id="debug"),
        pytest.param(log.LogLevel.INFO, ["info", "warning", "error"], id="info"),
        pytest.param(log.LogLevel.WARNING, ["warning", "error"], id="warning"),
        pytest.param(log.LogLevel.ERROR, ["error"], id="error"),
    ],
)
def test_only_what_is_important_enough_is_written(level: log.LogLevel, expected: list[str]) -> None:
    sink = io.StringIO()
    writer = log.configure(log.LogFormat.JSON, level, sink)
    for name in log.LogLevel:
        getattr(structlog.get_logger(), name)("event")
    writer.close()

    assert [json.loads(line)["level"] for line in sink.getvalue().splitlines()] == expected


@pytest.mark.parametrize("fmt", log.LogFormat)
def test_an_exception_in_the_log_does_not_show_the_values_of_variables(fmt: log.LogFormat) -> None:
    sink = io.StringIO()
    writer = log.configure(fmt, log.LogLevel.INFO, sink)
    secret = "".join(["hun", "ter2"])
    try:
        int(f"{len(secret)}?")
    except ValueError:
        structlog.get_logger().exception("a bug")
    writer.close()

    assert "ValueError" in sink.getvalue()
    assert "hunter2" not in sink.getvalue()


def test_a_plain_file_gets_every_line_of_a_flood(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"{number:0200}\n" for number in range(50_000)]
    with path.open("w") as stream:
        writer = log.Writer(stream)
        for line in lines:
            writer.write(line)
        writer.close(60)

    assert writer.dropped == 0
    assert path.read_text() == "".join(lines)


def test_a_slow_sink_is_waited_for_at_the_end_while_it_takes_something() -> None:
    reader, sink = os.pipe()
    lines = [f"{number:0100}\n" for number in range(4000)]
    received: list[bytes] = []

    def read() -> None:
        while chunk := os.read(reader, 4096):
            received.append(chunk)

    with os.fdopen(sink, "w") as stream:
        writer = log.Writer(stream)
        for line in lines:
            writer.write(line)
        reading = threading.Thread(target=read)
        reading.start()
        writer.close(60)
    reading.join(60)
    os.close(reader)

    assert b"".join(received).decode() == "".join(lines)


class Terminal(io.StringIO):
    """A sink that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "is_coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_a_terminal_has_colours_unless_its_user_wants_none(
    environment: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sink = Terminal()
    writer = log.configure(log.LogFormat.TEXT, log.LogLevel.INFO, sink)
    structlog.get_logger().info("frontend", service="default/web")
    writer.close()

    assert ("\x1b[" in sink.getvalue()) == is_coloured


def test_debug_lines_do_not_make_the_log_forget_what_repeats() -> None:
    repeats = log.Repeats(lambda: 0.0)
    written = 0
    for connection in range(30_000):
        line = {"level": "debug", "event": "connection accepted", "client": connection}
        assert repeats(None, "debug", line) == line
        if connection % 2000 == 0:
            with contextlib.suppress(structlog.DropEvent):
                repeats(None, "info", {"level": "info", "event": "full"})
                written += 1
    assert written == 10


def test_a_line_that_repeats_is_bounded_and_counted() -> None:
    now = [0.0]
    repeats = log.Repeats(lambda: now[0])

    def come(times: int, **values: object) -> list[dict[str, object]]:
        written = []
        for _ in range(times):
            with contextlib.suppress(structlog.DropEvent):
                written.append(dict(repeats(None, "info", {"event": "full", **values})))
        return written

    assert come(5000, limit=3) == 10 * [{"event": "full", "limit": 3}]
    assert len(come(1, limit=4)) == 1
    now[0] = 59.0
    assert come(1, limit=3) == []
    now[0] = 61.0
    assert come(2, limit=3) == [
        {"event": "full", "limit": 3, "repeated": 4991},
        {"event": "full", "limit": 3},
    ]


def test_lines_that_differ_are_all_written_and_not_all_remembered() -> None:
    repeats = log.Repeats()
    for number in range(20_000):
        assert repeats(None, "info", {"event": "frontend", "service": number})["service"] == number

    assert len(repeats._same._seen) <= 1024


def test_warnings_that_are_alike_are_bounded_and_counted() -> None:
    """An address that 10,000 Services name as an endpoint must not write 10,000 lines."""
    now = [0.0]
    repeats = log.Repeats(lambda: now[0])

    def written(level: str, event: str, count: int) -> list[dict[str, object]]:
        lines = []
        for number in range(count):
            with contextlib.suppress(structlog.DropEvent):
                line = {"event": event, "level": level, "service": f"default/web-{number}"}
                lines.append(dict(repeats(None, level, line)))
        return lines

    lines = written("warning", "own address", 10_000)
    assert len(lines) == 100
    assert not any("note" in each for each in lines[:-1])
    assert lines[-1]["note"] == "more of these are left out for 60 s"
    assert len(written("warning", "another trouble", 10)) == 10
    assert len(written("info", "frontend", 10_000)) == 10_000  # what a start has to say
    now[0] = 60.0
    first, second = written("warning", "own address", 2)
    assert first["left_out"] == 9_900
    assert "left_out" not in second
