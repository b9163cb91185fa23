"""A reader of nginx's configuration, after nginx's own (`ngx_conf_read_token`).

It reads what nginx reads, so that a test can say which directives a text is made of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """A directive, with its words as nginx gets them, and what its block contains."""

    words: list[str]
    body: list["Node"] = field(default_factory=list)
    has_block: bool = False

    @property
    def name(self) -> str:
        return self.words[0]

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Node"]]:
        """Itself and all inside of it, each with the names of the blocks around it."""
        yield path, self
        for each in self.body:
            yield from each.walk((*path, self.name))

    def find(self, *names: str) -> list["Node"]:
        """The directives at the end of this path of names."""
        if not names:
            return [self]
        return [
            found for each in self.body if each.name == names[0] for found in each.find(*names[1:])
        ]


class UnreadableError(ValueError):
    """nginx would not read this."""


_END = {"t": "\t", "r": "\r", "n": "\n"}


def read(text: str) -> Node:
    """The configuration as a tree, whose root has no name."""
    try:
        return _read(f"{text}\n")
    except IndexError:
        raise UnreadableError("unexpected end") from None


def _read(text: str) -> Node:
    root = Node([""], has_block=True)
    stack = [root]
    words: list[str] = []
    at = 0
    while at < len(text):
        here = text[at]
        if here in " \t\r\n":
            at += 1
        elif here == "#":
            at = text.find("\n", at) % (len(text) + 1)
        elif here == ";":
            if not words:
                raise UnreadableError(f'unexpected ";" at {at}')
            stack[-1].body.append(Node(words))
            words, at = [], at + 1
        elif here == "{":
            if not words:
                raise UnreadableError(f'unexpected "{{" at {at}')
            made = Node(words, has_block=True)
            stack[-1].body.append(made)
            stack.append(made)
            words, at = [], at + 1
        elif here == "}":
            if words or len(stack) == 1:
                raise UnreadableError(f'unexpected "}}" at {at}')
            stack.pop()
            at += 1
        else:
            word, at = _quoted(text, at) if here in "\"'" else _bare(text, at)
            words.append(word)
    if words or len(stack) != 1:
        raise UnreadableError("unexpected end")
    return root


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote = text[at]
    at += 1
    made: list[str] = []
    while text[at] != quote:
        at = _character(text, at, made)
    if text[at + 1] not in " \t\r\n;{)":
        raise UnreadableError(f"unexpected {text[at + 1]!r} after a quote at {at}")
    return "".join(made), at + 1


def _bare(text: str, at: int) -> tuple[str, int]:
    made: list[str] = []
    is_variable = False
    while text[at] not in " \t\r\n;" and not (text[at] == "{" and not is_variable):
        is_variable = text[at] == "$"
        at = _character(text, at, made)
    return "".join(made), at


def _character(text: str, at: int, made: list[str]) -> int:
    """Read one character, which a backslash may escape."""
    following = text[at + 1 : at + 2]
    if text[at] == "\\" and following in {'"', "'", "\\"}:
        made.append(following)
        return at + 2
    if text[at] == "\\" and following in _END:
        made.append(_END[following])
        return at + 2
    made.append(text[at])
    return at + 1
