"""The protocol of modes: a mode turns a world into texts, each for the tool that loads it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from kproxy.modes.world import World


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line for the tool that loads it, and a sentence on its effect, "" for none."""

    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """The lines for one tool; `loader` is the command that reads them."""

    loader: str
    lines: tuple[Line, ...]

    def text(self, *, comments: bool) -> Iterator[str]:
        """The lines; with comments, each sentence precedes the lines that it belongs to."""
        last = ""
        for line in self.lines:
            if comments and line.why and line.why != last:
                yield f"# {line.why}"
            last = line.why
            yield line.text


class Mode(Protocol):
    """One of kube-proxy's modes."""

    @property
    def name(self) -> str:
        """As `--proxy-mode` spells it."""

    def render(self, seen: World, /) -> tuple[Part, ...]:
        """What kube-proxy would program; the first part is the main one."""
