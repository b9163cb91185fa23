"""What a run tells while it lasts."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from kproxy.bench import progress_bar

SHOW_CURSOR = "\x1b[?25h"
HIDE_CURSOR = "\x1b[?25l"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_finished_stage_is_one_line() -> None:
    written, clock = io.StringIO(), Clock()

    with progress_bar.show(Console(file=written, width=30), 4.0, clock) as shown:
        with shown.stage("connect: kproxy, round 1 of 2", 2.0):
            shown.figure(12_000.0, "connections/s")
            shown.figure(13_942.4, "connections/s")
            clock.now += 2.1
        with shown.stage("start-up: kproxy", 2.0):
            clock.now += 1.0
        shown.note("haproxy is not installed: [left out]")

    assert written.getvalue().splitlines() == [
        "connect: kproxy, round 1 of 2: 13,942 connections/s (2.1 s)",
        "start-up: kproxy: done (1.0 s)",
        "haproxy is not installed: [left out]",
    ]


def test_a_stage_that_fails_is_not_shown_as_finished() -> None:
    written = io.StringIO()

    with (
        pytest.raises(KeyboardInterrupt),
        progress_bar.show(Console(file=written), 4.0) as shown,
        shown.stage("connect", 2.0),
    ):
        raise KeyboardInterrupt

    assert written.getvalue() == ""


def test_a_pipe_with_forced_colours_gets_no_cursor_moves() -> None:
    written = io.StringIO()

    console = Console(file=written, force_terminal=True)
    with progress_bar.show(console, 1.0) as shown, shown.stage("connect", 1.0):
        pass

    assert "\x1b[?" not in written.getvalue()
    assert "connect: done" in written.getvalue()


def test_a_stage_that_takes_longer_than_planned_does_not_seem_finished() -> None:
    clock = Clock()
    tracker = progress_bar.Tracker(10.0, clock)

    tracker.begin("connect", 4.0)
    clock.now += 2.0
    assert tracker.done == pytest.approx(0.2)
    clock.now += 60.0
    assert tracker.done == pytest.approx(0.4)
    tracker.end()
    assert tracker.done == pytest.approx(0.4)


def test_what_is_left_goes_by_the_pace_so_far() -> None:
    clock = Clock()
    tracker = progress_bar.Tracker(100.0, clock)
    assert tracker.seconds_left == 100.0

    tracker.begin("connect", 50.0)
    clock.now += 75.0
    tracker.end()

    assert tracker.seconds_left == pytest.approx(75.0)


def test_a_run_without_a_plan_has_nothing_left() -> None:
    tracker = progress_bar.Tracker(0.0, Clock())
    assert (tracker.done, tracker.seconds_left) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((), ""),
        ((5.0, 5.0, 5.0), "███"),
        ((0.0, 50.0, 100.0), "▁▅█"),
        ((0.0, 0.0), "▁▁"),
        ((-1.0, 7.0), "▁█"),
    ],
)
def test_a_sparkline_begins_at_zero(values: tuple[float, ...], shown: str) -> None:
    assert progress_bar.sparkline(values) == shown


PROGRAM = """
import sys, time
from rich.console import Console
from kproxy.bench import progress_bar as progress
with progress.show(Console(stderr=True), 100.0) as shown:
    with shown.stage("connect: kproxy, round 1 of 5", 50.0):
        for value in range(1, 30):
            shown.figure(1000.0 * value, "connections/s")
        shown.note("a note that stays")
        while True:
            time.sleep(0.05)
"""


def on_terminal(environment: dict[str, str]) -> tuple[str, int]:
    """What PROGRAM writes to a terminal until its display stands and Ctrl-C ends it."""
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stderr=theirs,
        env={**clean, "TERM": "xterm", "COLUMNS": "80", **environment},
    )
    os.close(theirs)
    written, sent = b"", False
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.5)[0]:
                try:
                    written += os.read(ours, 65536)
                except OSError:  # EIO: the program has closed the terminal
                    break
            if not sent and b" left" in written and b"stays" in written:
                process.send_signal(signal.SIGINT)
                sent = True
        return written.decode(), process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_the_display_shows_where_the_run_stands_and_ctrl_c_gives_the_cursor_back() -> None:
    written, _ = on_terminal({})

    for words in ("connect: kproxy, round 1 of 5", "29,000 connections/s", "▇█", "1 min 40 s left"):
        assert words in written
    assert "a note that stays" in written
    assert written.rindex(SHOW_CURSOR) > written.rindex(HIDE_CURSOR)


def test_no_color_is_respected() -> None:
    written, _ = on_terminal({"NO_COLOR": "1"})

    assert "29,000 connections/s" in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)


def test_a_dumb_terminal_gets_lines() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, _environ={"TERM": "dumb"})

    with progress_bar.show(console, 1.0, Clock()) as shown, shown.stage("connect", 1.0):
        pass

    assert written.getvalue() == "connect: done (0.0 s)\n"
