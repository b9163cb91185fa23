"""How the tour looks: paced and coloured on a terminal, plain text elsewhere.

A pod keeps its colour through all steps, so that a reader recognises it. Lines are wrapped at
words, between 60 and 100 columns; a command is never wrapped, so that it can
be copied.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from rich import table, text
from rich.console import Console

_WIDEST = 100
"""Longer lines are hard to read, even on a wider terminal."""

_COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "bright_magenta", "bright_green")
_REFUSED = "red"
_ANSWER_SECONDS = 0.12
"""Seconds between two answers, at a pace of one second a step."""


class Screen:
    """Prints the steps of the tour. `pace` is the pause after a step, in seconds."""

    def __init__(self, console: Console, pace: float) -> None:
        self._console = console
        self._pace = pace
        self._colours: dict[str, str] = {}
        is_utf8 = console.encoding.lower().startswith("utf")
        self._bar = "█" if console.is_terminal and is_utf8 else "="

    def say(self, words: str) -> None:
        self._print(text.Text(words))

    def title(self, number: int, of: int, title: str) -> None:
        self._console.print()
        self._print(text.Text(f"{number}/{of}  {title}", style="bold"))

    async def why(self, words: str) -> None:
        """Explain what the step has shown; then pause, for reading."""
        self._print(text.Text(words, style="italic"), indent=2)
        await asyncio.sleep(self._pace * 1.5)

    async def pause(self) -> None:
        """Pause, for reading."""
        await asyncio.sleep(self._pace)

    def command(self, command: str) -> None:
        """A command as a user would type it, in one line of any length."""
        self._console.print(text.Text(f"  $ {command}", style="bold green"), soft_wrap=True)

    def rows(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of a few short columns."""
        shown = table.Table(*headings, box=None, pad_edge=False, header_style="dim")
        for row in rows:
            shown.add_row(*(text.Text(cell) for cell in row))
        self._print(shown, indent=2)

    def pods(self, rows: Iterable[tuple[str, ...]]) -> None:
        """Pods, each with its remark."""
        shown = table.Table(box=None, show_header=False, pad_edge=False)
        for name, *rest in rows:
            shown.add_row(text.Text(name, style=self._colour(name)), *map(text.Text, rest))
        self._print(shown, indent=2)

    async def answers(self, ask: Callable[[], Awaitable[str]], count: int) -> None:
        """Ask `count` times: each answer as it comes, then how many came from each pod."""
        found: list[str] = []
        room = 0
        for _ in range(count):
            answer = await ask()
            word = answer.rpartition("-")[2]
            before = " " if room > len(word) else "  " if not found else "\n  "
            room = room - len(word) - 1 if before == " " else self._width - 2 - len(word)
            found.append(answer)
            self._console.print(before, text.Text(word, self._colour(answer)), sep="", end="")
            await asyncio.sleep(self._pace * _ANSWER_SECONDS)
        self._console.print()
        self._shares(Counter(found))
        await self.pause()

    def _shares(self, counts: Counter[str]) -> None:
        """A bar for each pod."""
        total, widest = counts.total(), max(map(len, counts))
        room = min(self._width - widest - 14, 40)
        for name in sorted(counts):
            share = counts[name] / total
            line = text.Text(f"{name:{widest}}  {counts[name]:3}  {share:4.0%}  ")
            line.append(self._bar * max(round(room * share), 1))
            line.stylize(self._colour(name))
            self._console.print("  ", line, sep="", no_wrap=True)

    def _colour(self, name: str) -> str:
        """The colour of a pod, for as long as the tour lasts; failures are red."""
        if " " in name:
            return _REFUSED
        return self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])

    @property
    def _width(self) -> int:
        return min(self._console.width, _WIDEST)

    def _print(self, shown: text.Text | table.Table, indent: int = 0) -> None:
        """Print, wrapped at words."""
        width = self._width - indent
        options = self._console.options.update_width(width)
        for line in self._console.render_lines(shown, options, pad=False):
            self._console.print(" " * indent, *_segments(line), sep="", end="\n", soft_wrap=True)


def _segments(line: Sequence[object]) -> Iterable[text.Text]:
    """A rendered line as text again, without spaces at its end."""
    made = text.Text()
    for segment in line:
        made.append(segment.text, segment.style)  # type: ignore[attr-defined]
    made.rstrip()
    yield made
