"""A document of a manifest, as the readers of YAML and of JSON give it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kproxy.model import objects

Pause = Callable[[], None]
"""Called again and again by a reader that computes, so that others can run."""

LARGEST_PIECE = 4 * 1024 * 1024
"""Bytes of one JSON object, or of one YAML scalar, comment or gap, that are read. They hold the
interpreter in one piece. No API server stores an object of more than 1.5 MiB."""

TOO_LARGE = f"larger than {LARGEST_PIECE // 2**20} MiB, which no API server stores"


def no_pause() -> None:
    """A `Pause` that does nothing, for a reader that is alone on its thread."""


class MalformedError(ValueError):
    """The text as a whole cannot be read; the message is a clause without a full stop."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document, counted from 1; `value` is for `admission.admit`.

    `flaw` says why it must not be used; "" if nothing is wrong. `is_malformed` says that the flaw
    is one of syntax, so that there is no value. `remark` is a note about a
    document that can be used. `line` is where it begins, counted from 1, and `item_lines` where
    the items of a list begin, by their index.
    """

    number: int
    value: objects.RawObject
    flaw: str = ""
    is_malformed: bool = False
    remark: str = ""
    line: int = 1
    item_lines: Mapping[int, int] = field(default_factory=dict)
