"""How the shop looks: a table that changes on a terminal, plain lines elsewhere."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rich import live, table, text
from rich.console import Console, Group

from kproxy.demo.shop import tally

_EVENTS_SHOWN = 8
_REFRESHES = 4
"""In a second, on a terminal."""
_PLAIN_SECONDS = 5.0
"""Between two lines with the counters, elsewhere."""


_NUMBER = re.compile(r"[\d.]+( s)?")


class PodRow(NamedTuple):
    """A pod as the table shows it."""

    name: str
    node: str
    state: str


class NodeRow(NamedTuple):
    """A node as the table shows it: whether its proxy runs, whether it gets requests."""

    name: str
    place: str
    runs: bool
    is_healthy: bool


class View(NamedTuple):
    """What there is at a moment."""

    pods: Sequence[PodRow]
    nodes: Sequence[NodeRow]


class Board:
    """Shows the run. `seconds` is how long the load lasts."""

    def __init__(self, console: Console, counted: tally.Tally, seconds: float) -> None:
        self._console = console
        self._tally = counted
        self._seconds = seconds
        self._events: deque[str] = deque(maxlen=_EVENTS_SHOWN)
        self._view: Callable[[], View] = lambda: View((), ())
        self._began: float | None = None
        self._live: live.Live | None = None

    def say(self, words: str = "") -> None:
        """A line, before or after the run."""
        self._print(words)

    def event(self, sentence: str) -> None:
        """Something happened."""
        line = f"{self._elapsed():6.1f} s  {sentence}"
        self._events.append(line)
        if self._live is None:
            self._print(line)

    @contextlib.contextmanager
    def running(self, view: Callable[[], View]) -> Iterator[None]:
        """The load runs while the block does; `view` says what there is at a moment."""
        self._began = asyncio.get_running_loop().time()
        self._view = view
        # FORCE_COLOR makes rich assume a terminal; cursor moves must not go into a pipe.
        if not (self._console.is_interactive and self._console.file.isatty()):
            yield
            return
        with live.Live(
            get_renderable=self._picture, console=self._console, auto_refresh=False, transient=True
        ) as shown:
            self._live = shown
            try:
                yield
            finally:
                self._live = None

    async def follow(self) -> None:
        """Show the counters, until cancelled."""
        while True:
            await asyncio.sleep(1 / _REFRESHES if self._live else _PLAIN_SECONDS)
            if self._live:
                self._live.refresh()
            else:
                self._print(f"{self._elapsed():6.1f} s  {self.counters()}")

    def counters(self) -> str:
        """The counters, in a line."""
        counted = self._tally
        return (
            f"{counted.requests} requests, {counted.failed} failed, "
            f"{counted.retried_in_all} attempts repeated"
        )

    def rows(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of a few columns; numbers are right-justified."""
        self._console.print(_table(headings, rows))

    def _print(self, line: str) -> None:
        """A line of any length."""
        self._console.print(text.Text(line), soft_wrap=True)

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else asyncio.get_running_loop().time() - self._began

    def _picture(self) -> Group:
        found, counted = self._view(), self._tally
        nodes = _table(
            ("NODE", "INGRESS", "PROXY", "REQUESTS", ""),
            [
                (
                    each.name,
                    each.place,
                    "runs" if each.runs else "killed",
                    str(counted.by_node[each.name]),
                    "" if each.is_healthy else "gets no requests",
                )
                for each in found.nodes
            ],
        )
        pods = _table(
            ("POD", "NODE", "STATE", "ANSWERS"),
            [
                (each.name, each.node, each.state, str(counted.by_pod[each.name]))
                for each in found.pods
            ],
        )
        style = "bold red" if counted.failed else "bold green"
        head = text.Text(
            f"{self._elapsed():5.1f} of {self._seconds:g} s   {self.counters()}", style
        )
        events = text.Text("\n".join(self._events), "dim")
        blank = text.Text("")
        return Group(head, blank, nodes, blank, pods, blank, events)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> table.Table:
    made = table.Table(box=None, pad_edge=False, header_style="dim")
    for number, heading in enumerate(headings):
        cells = [row[number] for row in rows]
        are_numbers = bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)
        made.add_column(heading, justify="right" if are_numbers else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(text.Text(cell, _style(cell)) for cell in row))
    return made


_STYLES = {
    "ready": "green",
    "runs": "green",
    "killed": "red",
    "lost": "red",
    "ends": "yellow",
    "starts": "yellow",
}


def _style(cell: str) -> str:
    return _STYLES.get(cell, "")
