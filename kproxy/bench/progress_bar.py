"""What a run prints while it lasts: a live display on a terminal, plain lines everywhere else.

    with progress.show(console, seconds_planned) as shown:
        with shown.stage("connect: kproxy, round 2 of 5", 2.0):
            ...
            shown.figure(13_900, "connections/s")
        shown.note("haproxy is not installed: left out")

The display is drawn by a thread of rich's, so it goes on while the measuring process waits, and
it is removed, and the cursor restored, however the `with` block is left: Ctrl-C included.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

from rich import live
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kproxy.bench.report import readings

_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 24
_PACE_COUNTS = 0.05


class Progress(Protocol):
    """Where a run shows what it does. Methods are called from one thread, and return at once."""

    def stage(self, name: str, total_seconds: float) -> AbstractContextManager[None]:
        """While the block lasts, the run is at `name`, planned to take `total_seconds`.

        Stages do not nest. One that is left by an exception is not reported as finished.
        """
        ...

    def figure(self, value: float, unit: str) -> None:
        """The current stage's figure so far; the last one is its result."""
        ...

    def note(self, text: str) -> None:
        """A sentence that stays on the screen."""
        ...


Clock: TypeAlias = Callable[[], float]


@contextmanager
def show(
    console: Console, planned_seconds: float, clock: Clock = time.monotonic
) -> Iterator[Progress]:
    """A live display if `console` is a terminal that can move its cursor, lines otherwise.

    `planned_seconds` is the sum of what the stages are planned to take; `clock` counts seconds.
    """
    tracker = Tracker(planned_seconds, clock)
    # FORCE_COLOR makes rich assume a terminal: colours may go into a pipe, cursor moves may not.
    if console.is_interactive and console.file.isatty():
        view = _Display(tracker)
        with live.Live(view, console=console, refresh_per_second=8, transient=True):
            yield _Live(tracker, console)
    else:
        yield _Lines(tracker, console)


class Tracker:
    """Where a run stands: the stage, its figure so far, and the time that is left."""

    def __init__(self, planned_seconds: float, clock: Clock) -> None:
        self._clock = clock
        self._planned = planned_seconds
        self._finished = 0.0  # planned seconds of the stages that are over
        self._started_at = self._stage_at = clock()
        self._stage_seconds = 0.0
        self.name = ""
        self.unit = ""
        self.values: tuple[float, ...] = ()
        """The current stage's figures; replaced, never changed, since another thread reads it."""

    def begin(self, name: str, seconds: float) -> None:
        """Go to stage `name`, which is planned to take `seconds`."""
        self.name, self.unit, self.values = name, "", ()
        self._stage_seconds = seconds
        self._stage_at = self._clock()

    def end(self) -> float:
        """End the stage; returns how many seconds it took."""
        self._finished += self._stage_seconds
        self._stage_seconds = 0.0
        return self._clock() - self._stage_at

    def figure(self, value: float, unit: str) -> None:
        """The current stage's figure so far."""
        self.unit = unit
        self.values = (*self.values, value)[-_SPARKS:]

    @property
    def done(self) -> float:
        """How much of the plan is done, from 0 to 1. Time alone moves it no further than the
        stage's end: a stage that takes longer than planned does not seem finished.
        """
        if self._planned <= 0:
            return 0.0
        within = min(self._clock() - self._stage_at, self._stage_seconds)
        return min((self._finished + within) / self._planned, 1.0)

    @property
    def seconds_left(self) -> float:
        """Seconds until the plan is done, at the pace of the run so far.

        The pace counts once a twentieth is done; before that the plan is the better guess.
        """
        done = self.done
        left = self._planned * (1 - done)
        if done < _PACE_COUNTS:
            return left
        return left * (self._clock() - self._started_at) / (self._planned * done)


def sparkline(values: Sequence[float]) -> str:
    """Bars from 0 to the greatest value: a steady figure is a flat line, a dip is seen."""
    top = max(values, default=0.0)
    if top <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[round(max(v, 0.0) / top * (len(_BARS) - 1))] for v in values)


class _Stages:
    """The common part of both displays."""

    def __init__(self, tracker: Tracker, console: Console) -> None:
        self._tracker = tracker
        self._console = console

    @contextmanager
    def stage(self, name: str, total_seconds: float) -> Iterator[None]:
        self._tracker.begin(name, total_seconds)
        yield
        self._finished(self._tracker.end())

    def figure(self, value: float, unit: str) -> None:
        self._tracker.figure(value, unit)

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _finished(self, seconds: float) -> None:
        """A stage was left in good order after `seconds`."""


class _Live(_Stages):
    """The display draws itself; only notes are printed, above it."""


class _Lines(_Stages):
    """One line for each stage that is over, with its result."""

    def _finished(self, seconds: float) -> None:
        tracker = self._tracker
        result = readings.amount(tracker.values[-1], tracker.unit) if tracker.values else "done"
        self.note(f"{tracker.name}: {result} ({seconds:.1f} s)")


class _Display:
    """Two lines at the foot of the terminal; drawn by rich's thread, eight times a second."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tracker = self._tracker
        values = tracker.values
        now = Text(tracker.name, style="bold", no_wrap=True, overflow="ellipsis")
        result = Text(readings.amount(values[-1], tracker.unit) if values else "", no_wrap=True)
        if values and not options.ascii_only:
            result = Text.assemble((sparkline(values), "cyan"), "  ", result)
        row = Table.grid(expand=True, padding=(0, 2))
        row.add_column(ratio=1)
        row.add_column(justify="right")
        row.add_row(now, result)
        row.add_row(
            ProgressBar(total=1.0, completed=tracker.done),
            Text(f"{readings.duration(tracker.seconds_left)} left", style="dim"),
        )
        yield row
