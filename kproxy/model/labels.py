"""Label selectors: which objects are meant, by their labels.

`a=b`, `a!=b`, `a in (b, c)`, `a notin (b)`, `a`, `!a`, `a>1`, `a<1`, joined by commas. This is the
grammar of apimachinery (`pkg/labels/selector.go`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(?:([A-Za-z0-9_./-]+)|(==|!=|[=!<>(),]))")
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_LABEL}(?:\.{_LABEL})*/)?{_NAME}")
_INTEGER = re.compile(r"-?[0-9]+")
_VALUE = re.compile(rf"(?:{_NAME})?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on the labels. Of a label that is not there, only `!a`, `a!=b` and
    `a notin (…)` hold."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == "exists":
            return value is not None
        if self.operator == "!":
            return value is None
        if self.operator == "in":
            return value in self.values
        if self.operator == "notin":
            return value not in self.values
        return value is not None and self._compares(value)

    def _compares(self, value: str) -> bool:
        number, bound = _integer(value), _integer(next(iter(self.values)))
        if number is None or bound is None:
            return False
        return number > bound if self.operator == ">" else number < bound


def _integer(text: str) -> int | None:
    """The number that Go's `strconv.ParseInt` reads in 64 bits; None if there is none."""
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)  # a label has 63 characters at most
    return number if -(2**63) <= number < 2**63 else None


class SelectorError(ValueError):
    """A selector that cannot be read. The text says why, as kube-apiserver puts it."""


def parse(text: str) -> tuple[Requirement, ...]:
    """The requirements of a selector; none for an empty one. Raises SelectorError."""
    return tuple(_Parser(text).requirements()) if text.strip() else ()


def match(requirements: Sequence[Requirement], labels: Mapping[str, str]) -> bool:
    """Whether `labels` meet every requirement."""
    return all(requirement.matches(labels) for requirement in requirements)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize(text)
        self._next = 0

    def requirements(self) -> Sequence[Requirement]:
        found = [self._requirement()]
        while self._peek():
            self._expect(",")
            found.append(self._requirement())
        return found

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._take()
            return Requirement(self._key(), "!")
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return Requirement(key, "exists")
        self._take()
        if operator in ("in", "notin"):
            return Requirement(key, operator, self._set())
        if operator in ("=", "==", "!="):
            means = "notin" if operator == "!=" else "in"
            return Requirement(key, means, frozenset({self._value()}))
        if operator in (">", "<"):
            bound = self._value()
            if _integer(bound) is None:
                raise self._unparsable(f"for '{operator}' operators, the value must be an integer")
            return Requirement(key, operator, frozenset({bound}))
        raise self._unparsable(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _key(self) -> str:
        key = self._take()
        if not _KEY.fullmatch(key):
            raise self._unparsable(f"found '{key}', expected: !, identifier, or ','")
        return key

    def _value(self) -> str:
        if self._peek() in ("", ",", ")"):
            return ""  # `a=` asks for the empty value
        value = self._take()
        if not _VALUE.fullmatch(value):
            raise self._unparsable(f"found '{value}', expected: identifier")
        return value

    def _set(self) -> frozenset[str]:
        self._expect("(")
        values = {self._value()}
        while self._peek() == ",":
            self._take()
            values.add(self._value())
        self._expect(")")
        return frozenset(values)

    def _expect(self, token: str) -> None:
        found = self._take()
        if found != token:
            raise self._unparsable(f"found '{found}', expected: '{token}'")

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _tokenize(self, text: str) -> list[str]:
        tokens, position = [], 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._unparsable(f"found '{text[position]}'")
            tokens.append(match.group(1) or match.group(2))
            position = match.end()
        return tokens

    def _unparsable(self, detail: str) -> SelectorError:
        return SelectorError(f'unable to parse requirement: {detail} in "{self._text}"')
