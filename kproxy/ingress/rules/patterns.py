"""Regular expressions of users: a subset that nginx accepts always, and that costs little.

nginx refuses a whole configuration for one bad expression, so what is not understood here is not
passed on. The subset has one meaning in PCRE and in Python's `re`: characters, `.`, classes,
groups, alternatives, `$`, and quantifiers. It has no look-around, no back references, no options
and no names of groups, which in nginx set variables.

A group that repeats must not contain alternatives or quantifiers, so backtracking is polynomial;
`LIMIT` bounds what is left of it.
"""

import re
import string
from dataclasses import dataclass

LONGEST = 512
"""Characters of an expression."""

LIMIT = "(*LIMIT_MATCH=20000)"
"""Put before an expression, makes PCRE give up after so many steps: some 200 us. nginx then
answers 500."""

SPECIAL = frozenset("()[]{}*+?|^$\\")
"""The characters that make an expression of a path, without `.`, which is in many paths."""

_MOST_REPEATS = 100
_MOST_UNBOUNDED = 4
_MOST_GROUPS = 9
"""nginx has the variables $1 to $9."""
_CLASS_ESCAPES = frozenset("dDwWsS")
_PLAIN = frozenset(string.printable) - frozenset(string.whitespace) | {" "}
_NUMBERS = re.compile(r"\{(\d{1,4})(,?)(\d{0,4})\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pattern:
    """An expression of the subset.

    `literal` is the beginning that everything it matches has, if letters are compared with their
    case; `groups` is the number of its groups that capture.
    """

    text: str
    literal: str
    groups: int


def is_special(path: str) -> bool:
    """Whether a path has characters that only a regular expression needs."""
    return not SPECIAL.isdisjoint(path)


def parse(text: str, *, may_be_anchored: bool = False) -> Pattern:
    """`text` as an expression. Raises ValueError with the reason, which follows "it ".

    It begins at the beginning of what it is compared with, unless `may_be_anchored`: then it
    begins anywhere, and `^` may be its first character.
    """
    if len(text) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} characters")
    if odd := sorted(set(text) - _PLAIN):
        raise ValueError(f"contains {odd[0]!a}, which is not printable ASCII")
    reader = _Reader(text)
    if may_be_anchored:
        reader.skip("^")
    reader.alternatives(depth=0)
    if not reader.is_at_end:
        raise ValueError("has a ) without a (")
    return Pattern(text, reader.literal, reader.groups)


@dataclass(slots=True)
class _Seen:
    """What a group contains."""

    has_alternatives: bool = False
    has_quantifiers: bool = False


class _Reader:
    """Reads an expression from left to right, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._is_literal = True
        self._unbounded = 0
        self.literal = ""
        self.groups = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._text)

    def skip(self, token: str) -> bool:
        """Go past `token` if it stands here."""
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def alternatives(self, depth: int) -> _Seen:
        """What stands in a group, or the whole expression."""
        if depth > _MOST_GROUPS:
            raise ValueError("has too many groups in each other")
        seen = _Seen()
        while not self.is_at_end and self._text[self._at] != ")":
            if self.skip("|"):
                seen.has_alternatives = True
                if depth == 0:
                    self.literal, self._is_literal = "", False
                continue
            self._item(depth, seen)
        return seen

    def _item(self, depth: int, seen: _Seen) -> None:
        """One character, class or group, with its quantifier."""
        before = len(self.literal)
        inner = _Seen()
        can_repeat = True
        here = self._text[self._at]
        if here == "(":
            inner = self._group(depth)
        elif here == "[":
            self._class()
        elif here == "$":
            self._at += 1
            can_repeat = False
            self._end_literal(before)
        else:
            self._character(here)
        seen.has_alternatives |= inner.has_alternatives
        seen.has_quantifiers |= inner.has_quantifiers
        most = self._quantifier()
        if most is None:
            return
        if not can_repeat:
            raise ValueError("repeats a $")
        if most != 1 and (inner.has_alternatives or inner.has_quantifiers):
            raise ValueError(
                "repeats a group that contains alternatives or repeats, which can take for ever"
            )
        seen.has_quantifiers = True
        self._end_literal(before)

    def _character(self, here: str) -> None:
        if here in "*+?{":
            raise ValueError(
                f"has a {here} with nothing before it to repeat; escape it as \\{here}"
            )
        if here == "^":
            raise ValueError("has a ^; write it without, for it begins at the beginning anyway")
        if here in "]}":
            raise ValueError(f"has a {here} without its beginning; escape it as \\{here}")
        self._at += 1
        if here == ".":
            self._end_literal(len(self.literal))
        elif here == "\\":
            self._escape()
        elif self._is_literal:
            self.literal += here

    def _escape(self) -> None:
        if self.is_at_end:
            raise ValueError("ends with a \\")
        escaped = self._text[self._at]
        self._at += 1
        if escaped in _CLASS_ESCAPES:
            self._end_literal(len(self.literal))
        elif escaped.isalnum() or escaped == " ":
            raise ValueError(f"has \\{escaped}, which is not supported")
        elif self._is_literal:
            self.literal += escaped

    def _group(self, depth: int) -> _Seen:
        self._at += 1
        self._end_literal(len(self.literal))
        if not self.skip("?:"):
            if self._text.startswith("?", self._at):
                raise ValueError("has a (?, of which only (?: is supported")
            self.groups += 1
            if self.groups > _MOST_GROUPS:
                raise ValueError(f"has more than {_MOST_GROUPS} groups")
        seen = self.alternatives(depth + 1)
        if not self.skip(")"):
            raise ValueError("has a ( without a )")
        return seen

    def _class(self) -> None:
        """A class such as [a-z0-9_]: single characters and ranges of letters or digits."""
        self._at += 1
        self._end_literal(len(self.literal))
        self.skip("^")
        start = self._at
        while True:
            if self.is_at_end:
                raise ValueError("has a [ without a ]")
            here = self._text[self._at]
            if here == "]":
                break
            if here == "[":
                raise ValueError("has a [ inside of [ ]; escape it as \\[")
            if here == "\\":
                self._class_escape()
            elif self._text.startswith("-", self._at + 1) and not self._ends_class(self._at + 2):
                self._range(here)
            else:
                self._at += 1
        inside = self._text[start : self._at]
        if not inside:
            raise ValueError("has an empty [ ]")
        if any(twice in inside for twice in ("--", "&&", "||", "~~")):
            raise ValueError("has one of --, &&, || or ~~ inside of [ ]")
        self._at += 1

    def _ends_class(self, at: int) -> bool:
        return self._text.startswith("]", at)

    def _class_escape(self) -> None:
        escaped = self._text[self._at + 1 : self._at + 2]
        if not escaped or (escaped not in _CLASS_ESCAPES and (escaped.isalnum() or escaped == " ")):
            raise ValueError(f"has \\{escaped}, which is not supported")
        self._at += 2
        if self._text.startswith("-", self._at) and not self._ends_class(self._at + 1):
            raise ValueError("has a range that begins with an escaped character")

    def _range(self, first: str) -> None:
        last = self._text[self._at + 2 : self._at + 3]
        sorts = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
        if not last or not any(first in each and last in each for each in sorts) or first > last:
            raise ValueError(f"has the range {first}-{last}, which is not of letters or digits")
        self._at += 3

    def _quantifier(self) -> int | None:
        """How often what is before it may come at most; 0 for any number, None without one."""
        if self.skip("*") or self.skip("+"):
            most = 0
        elif self.skip("?"):
            most = 1
        elif found := _NUMBERS.match(self._text, self._at):
            self._at = found.end()
            least, comma, given = found.groups()
            most = int(given) if given else (0 if comma else int(least))
            if max(int(least), most) > _MOST_REPEATS or (given and int(given) < int(least)):
                raise ValueError(f"has {found[0]}, which is not from 0 to {_MOST_REPEATS}")
            if most == 0 and not comma:
                raise ValueError(f"has {found[0]}")
        else:
            return None
        if most != 1:
            self._unbounded += 1
            if self._unbounded > _MOST_UNBOUNDED:
                raise ValueError(f"has more than {_MOST_UNBOUNDED} repeats")
        self.skip("?")
        if self._text[self._at : self._at + 1] in {"*", "+", "?"} or _NUMBERS.match(
            self._text, self._at
        ):
            raise ValueError("has two quantifiers in a row")
        return most

    def _end_literal(self, keep: int) -> None:
        """From here on, not everything it matches has the same characters."""
        if self._is_literal:
            self.literal = self.literal[:keep]
            self._is_literal = False
