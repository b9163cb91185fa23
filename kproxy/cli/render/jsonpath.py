"""kubectl's JSONPath templates: `{.items[*].metadata.name}`, as `-o jsonpath=` takes them.

The language and its quirks are client-go's (`util/jsonpath`): text outside braces is copied; what
stands in one pair of braces is a chain of steps from the current object to a list of results, which
are printed with a space between them; `{range …}…{end}` repeats what it encloses for each result.
A key that is missing gives no result, as with `kubectl get`.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Step: TypeAlias = Callable[[list[Any]], list[Any]]
"""From the values that were found so far to those that the next step finds in them."""


class TemplateError(ValueError):
    """A template that cannot be read, or that does not fit the data. The text says why."""


@dataclass(slots=True)
class _Action:
    """One pair of braces, or a piece of text. A range has a `body`."""

    steps: list[Step] = field(default_factory=list)
    body: "list[_Action] | None" = None
    is_end: bool = False

    def find(self, current: Any) -> list[Any]:
        """The results of all steps, starting from the `current` object."""
        values = [current]
        for step in self.steps:
            values = step(values)
        return values


class Template:
    """A template that has been read. Raises TemplateError."""

    def __init__(self, text: str) -> None:
        flat = _Parser(text).actions()
        self._actions = _nested(flat)

    def render(self, data: Any) -> str:
        """The text that the template makes of `data`. Raises TemplateError."""
        return "".join(_rendered(self._actions, data))

    def results(self, data: Any) -> list[Any]:
        """What the first pair of braces finds in `data`. Raises TemplateError."""
        return self._actions[0].find(data) if self._actions else []


def _rendered(actions: Sequence[_Action], current: Any) -> list[str]:
    made = []
    for action in actions:
        found = action.find(current)
        if action.body is None:
            made.append(" ".join(map(shown, found)))
            continue
        for value in found:
            made += _rendered(action.body, value)
    return made


def _nested(flat: Sequence[_Action]) -> list[_Action]:
    """The actions with those between `range` and `end` in the body of their range."""
    blocks: list[list[_Action]] = [[]]
    for action in flat:
        if action.is_end:
            if len(blocks) == 1:
                raise TemplateError("not in range, nothing to end")
            blocks.pop()
            continue
        blocks[-1].append(action)
        if action.body is not None:
            blocks.append(action.body)
    while len(blocks) > 1:  # client-go goes on behind a range that has no end
        body = blocks.pop()
        blocks[-1] += body
    return blocks[0]


def shown(value: Any) -> str:
    """A result as text: strings bare, everything else as compact JSON, as Go writes it."""
    if isinstance(value, str):
        return value
    text = json.dumps(
        plain_numbers(value), separators=(",", ":"), sort_keys=True, ensure_ascii=False
    )
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plain_numbers(value: Any) -> Any:
    """`value` with 3.0 as 3, as Go writes it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: plain_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain_numbers(each) for each in value]
    return value


_TERMINATORS = frozenset(" \t\r\n.,[]$@{}")
_DICT_KEY = re.compile(r"'([^']*)'")
_SLICE = re.compile(r"(-?[0-9]*)(:-?[0-9]*)?(:-?[0-9]*)?")
_COMPARISON = re.compile(r"([^!<>=]+)([!<>=~]+)(.+)", re.DOTALL)
_NUMBER = re.compile(r"[+-]?[0-9.]*")


class _Parser:
    """Reads a template from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def actions(self) -> list[_Action]:
        """The actions of the whole template, ranges not yet nested."""
        found = []
        while self._at < len(self._text):
            opening = self._text.find("{", self._at)
            literal = self._text[self._at : opening if opening >= 0 else None]
            if literal:
                found.append(_Action([_constant(literal, once=True)]))
            if opening < 0:
                break
            self._at = opening + 1
            found.append(self._action())
        return found

    def _action(self) -> _Action:
        """What stands in a pair of braces; the opening one has been read."""
        action = _Action()
        was_recursive = False
        while not self._take("}"):
            is_recursive = False
            if self._take("[?("):
                action.steps.append(self._filter())
            elif self._take(".."):
                if was_recursive:
                    raise TemplateError("invalid multiple recursive descent")
                is_recursive = True
                action.steps.append(_recursive)
                if self._peek().isalnum() or self._peek() == "_":
                    action.steps.append(self._field())
                    is_recursive = False
            else:
                self._step(action)
            was_recursive = is_recursive
        return action

    def _step(self, action: _Action) -> None:
        character = self._peek()
        if not character or character in "\r\n":
            raise TemplateError("unclosed action")
        if character in " @$":
            self._at += 1
        elif character == "[":
            self._at += 1
            action.steps += self._brackets()
        elif character in "\"'":
            action.steps.append(_constant(self._quoted(character), once=True))
        elif character == ".":
            self._at += 1
            action.steps.append(self._field())
        elif character in "+-" or character.isdigit():
            action.steps.append(_constant(self._number()))
        elif character.isalpha() or character == "_":
            self._identifier(action)
        else:
            raise TemplateError(f"unrecognized character {character} in an action")

    def _identifier(self, action: _Action) -> None:
        start = self._at
        while self._peek() and self._peek() not in _TERMINATORS:
            self._at += 1
        word = self._text[start : self._at]
        if word in ("true", "false"):
            action.steps.append(_constant(word == "true"))
        elif word == "range":
            action.body = []
        elif word == "end":
            action.is_end = True
        else:
            raise TemplateError(f"unrecognized identifier {word}")

    def _field(self) -> Step:
        start = self._at
        while self._peek() and self._peek() not in _TERMINATORS:
            self._at += 2 if self._peek() == "\\" else 1
        name = self._text[start : self._at]
        return _wildcard if name == "*" else _member(name.replace("\\", ""))

    def _number(self) -> int | float:
        match = _NUMBER.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        try:
            return int(match[0])
        except ValueError:
            pass
        try:
            return float(match[0])
        except ValueError:
            raise TemplateError(f"cannot parse number {match[0]}") from None

    def _quoted(self, quote: str) -> str:
        start = self._at
        self._at += 1
        while True:
            character = self._peek()
            if not character or character == "\n":
                raise TemplateError("unterminated quoted string")
            self._at += 1
            if character == quote and self._text[self._at - 2] != "\\":
                return _unquoted(self._text[start + 1 : self._at - 1], quote)

    def _brackets(self) -> list[Step]:
        """An index, a slice, a quoted key, or several of them; "[" has been read."""
        closing = self._text.find("]", self._at)
        if closing < 0 or "\n" in self._text[self._at : closing]:
            raise TemplateError("unterminated array")
        text = self._text[self._at : closing]
        self._at = closing + 1
        if "," in text:
            return [_union([_steps_of(f"[{part.strip(' ')}]") for part in text.split(",")])]
        if key := _DICT_KEY.fullmatch(text):
            return _steps_of(f".{key[1]}")
        if text == "*":
            text = ":"
        match = _SLICE.fullmatch(text)
        if match is None:
            raise TemplateError(f"invalid array index {text}")
        try:
            return [_items(*map(_bound, match.groups()), is_index=match[2] is None)]
        except ValueError:
            raise TemplateError(f"array index {text} is not a number") from None

    def _filter(self) -> Step:
        """A condition; "[?(" has been read."""
        start, quote, is_closed = self._at, "", False
        while True:
            character = self._peek()
            if not character or character == "\n":
                raise TemplateError("unterminated filter")
            self._at += 1
            if character in "\"'" and not quote:
                quote = character
            elif character == quote and self._text[self._at - 2] != "\\":
                is_closed = True
            elif character == ")" and bool(quote) == is_closed:
                break
        text = self._text[start : self._at - 1]
        if not self._take("]"):
            raise TemplateError("unclosed array expect ]")
        match = _COMPARISON.fullmatch(text)
        if match is None:
            return _having(_steps_of(text))
        if match[2] not in _COMPARISONS:
            raise TemplateError(f"unrecognized filter operator {match[2]}")
        return _comparing(_steps_of(match[1]), match[2], _steps_of(match[3]))

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, token: str) -> bool:
        if self._text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False


def _steps_of(text: str) -> list[Step]:
    """The steps of an expression that stands in another one."""
    (action, *_) = _Parser(f"{{{text}}}").actions()
    return action.steps


_ESCAPES = dict(zip("abfnrtv\\", "\a\b\f\n\r\t\v\\", strict=True))
_ESCAPE = re.compile(
    r"""\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|(.))""", re.DOTALL
)


def _unquoted(text: str, quote: str) -> str:
    """What Go's `strconv.UnquoteChar` makes of the characters between two quotes."""

    def replace(match: re.Match[str]) -> str:
        *coded, plain = match.groups()
        if plain is None:
            digits = next(filter(None, coded))
            return chr(int(digits, 8 if coded[3] else 16))
        if plain == quote or plain in _ESCAPES:
            return _ESCAPES.get(plain, plain)
        raise TemplateError(f"unquote string {quote}{text}{quote}: no such escape as \\{plain}")

    try:
        return _ESCAPE.sub(replace, text)
    except (ValueError, OverflowError):
        raise TemplateError(f"unquote string {quote}{text}{quote}: no such character") from None


def _bound(text: str | None) -> int | None:
    """An index of a slice; None where there is none."""
    digits = (text or "").removeprefix(":")
    return int(digits) if digits else None


def _constant(value: Any, *, once: bool = False) -> Step:
    """Text stands for itself; a number or truth value for each value before it."""
    return lambda found: [value] if once else [value] * len(found)


def _member(name: str) -> Step:
    def step(found: list[Any]) -> list[Any]:
        return [each[name] for each in found if isinstance(each, dict) and name in each]

    return step


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    return list(value.encode()) if isinstance(value, str) else []


def _wildcard(found: list[Any]) -> list[Any]:
    return [child for value in found for child in _children(value)]


def _recursive(found: list[Any]) -> list[Any]:
    """Every value that has something in it, the outer ones first."""
    every: list[Any] = []
    for value in found:
        children = _children(value)
        if children:
            every += [value, *_recursive(children)]
    return every


def _union(parts: Sequence[Sequence[Step]]) -> Step:
    def step(found: list[Any]) -> list[Any]:
        every: list[Any] = []
        for part in parts:
            every += _Chain(part)(found)
        return every

    return step


class _Chain:
    """Steps one after the other, as one."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def __call__(self, found: list[Any]) -> list[Any]:
        for step in self._steps:
            found = step(found)
        return found


def _items(start: int | None, end: int | None, stride: int | None, *, is_index: bool) -> Step:
    """`[start:end:stride]`, or `[start]`. Unlike Python's, an end beyond the list is an error."""

    def step(found: list[Any]) -> list[Any]:
        every: list[Any] = []
        for value in found:
            if value is None:
                continue
            if not isinstance(value, list):
                raise TemplateError(f"{_kind(value)} is not array or slice")
            length = len(value)
            first = (start or 0) + (length if (start or 0) < 0 else 0)
            if is_index:
                last = first + 1
            else:
                last = length if end is None else end + (length if end < 0 else 0)
            if first == last:
                return every
            _check(first, last, length)
            if stride is not None and stride <= 0:
                raise TemplateError("step must be > 0")
            every += value[first : last : stride or 1]
        return every

    return step


def _check(first: int, last: int, length: int) -> None:
    for index, is_outside in (
        (first, not 0 <= first < length),
        (last - 1, not 0 <= last <= length),
    ):
        if is_outside:
            raise TemplateError(f"array index out of bounds: index {index}, length {length}")
    if first > last:
        raise TemplateError(f"starting index {first} is greater than ending index {last}")


def _filtered(found: list[Any], passes: Callable[[Any], bool]) -> list[Any]:
    every = []
    for value in found:
        if not isinstance(value, list):
            raise TemplateError(f"{_kind(value)} is not array or slice and cannot be filtered")
        every += [item for item in value if passes(item)]
    return every


def _having(steps: Sequence[Step]) -> Step:
    def passes(item: Any) -> bool:
        try:
            return bool(_Chain(steps)([item]))
        except TemplateError:
            return False

    return lambda found: _filtered(found, passes)


def _comparing(left: Sequence[Step], sign: str, right: Sequence[Step]) -> Step:
    def passes(item: Any) -> bool:
        lefts = _Chain(left)([item])
        rights = _Chain(right)([item]) if len(lefts) == 1 else []
        if len(lefts) > 1 or len(rights) > 1:
            raise TemplateError("can only compare one element at a time")
        return bool(lefts and rights) and _compared(lefts[0], sign, rights[0])

    return lambda found: _filtered(found, passes)


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _compared(left: Any, sign: str, right: Any) -> bool:
    """As Go compares: only values of one type, and truth values only for equality."""
    for value in (left, right):
        if not isinstance(value, str | int | float):
            raise TemplateError("invalid type for comparison")
    if type(left) is not type(right):
        raise TemplateError("incompatible types for comparison")
    if isinstance(left, bool) and sign not in ("==", "!="):
        raise TemplateError("invalid type for comparison")
    return _COMPARISONS[sign](left, right)


def _kind(value: Any) -> str:
    names = {dict: "map", str: "string", bool: "bool", int: "int64", float: "float64"}
    return names.get(type(value), "null")
