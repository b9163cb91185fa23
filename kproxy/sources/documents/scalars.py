"""YAML scalars as kubectl understands them: go-yaml v2's `resolve.go`, then JSON.

kubectl turns YAML into JSON before anything else reads it. So 80.0 is the integer 80, 0o17 and
017 are 15, `y` and `off` are booleans, and 22:30, which YAML 1.1 calls a number of base 60, is
a string. A key that is no string becomes the string that JSON needs.
"""

import base64
import binascii
import decimal
import functools
import math
import re
from typing import Any, Final

MERGE: Final = object()
"""What the plain scalar `<<` means as a key."""

LONGEST_NUMBER = 400
"""Longer plain scalars are strings: as numbers they are beyond what a float can hold."""

_PREFIX = "tag:yaml.org,2002:"
_CACHED_LENGTH = 64
_MAX_INT = 2**63 - 1
_MIN_INT = -(2**63)
_MAX_UNSIGNED = 2**64 - 1

_WORDS: dict[str, Any] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True
    ),
    **dict.fromkeys(
        ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False
    ),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{f"{sign}{word}": math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    "<<": MERGE,
}
_INTEGER = re.compile(
    r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[oO]([0-7]+)|0[bB]([01]+)|0([0-7]+)|(0|[1-9][0-9]*))"
)
_BASES = (16, 8, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def resolved(text: str, tag: str | None, *, is_plain: bool) -> Any:
    """The value of the scalar `text`; `tag` is its tag as libyaml gives it, None without one.

    Raises ValueError, whose message is a clause, when the text cannot have that tag, or the value
    has no form in JSON.
    """
    if tag is None:
        return _plain(text) if is_plain else text
    name = tag.removeprefix(_PREFIX) if tag.startswith(_PREFIX) else ""
    if name == "binary":
        return _decoded(text)
    if name not in {"int", "float", "bool", "null"}:
        return text  # strings, timestamps, and tags that kubectl passes over
    value = _plain(text)
    is_real = name == "int" and not _INTEGER.fullmatch(text.replace("_", ""))
    if is_real or not _has_type(value, name):
        raise ValueError(f"{text[:60]!r} cannot have the tag !!{name}")
    return value


def key_text(key: Any) -> str:
    """A mapping's key as JSON has it. Raises ValueError for a key that JSON cannot have."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    if isinstance(key, float):
        return _float_text(key)
    what = "null" if key is None else "itself a mapping or a list"
    raise ValueError(f"a key is {what}")


def _plain(text: str) -> Any:
    if len(text) < _CACHED_LENGTH:
        return _cached(text)
    return _number(text) if len(text) <= LONGEST_NUMBER else text


@functools.lru_cache(maxsize=4096)
def _cached(text: str) -> Any:
    """The value of a plain scalar. Cached, because the same few come often."""
    value = _WORDS.get(text, text)
    if value is text:
        return _number(text)
    if isinstance(value, float):
        raise ValueError(f"{text} is no value that JSON has")  # noqa: TRY004
    return value


def _number(text: str) -> Any:
    """The number that `text` spells, else `text`."""
    if not text or text[0] not in "+-.0123456789":
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    integer = _INTEGER.fullmatch(plain)
    if integer:
        digits = next(index for index in range(2, 7) if integer[index] is not None)
        value = int(integer[digits], _BASES[digits - 2])
        value = -value if integer[1] == "-" else value
        if _MIN_INT <= value <= _MAX_INT:
            return value
        if value <= _MAX_UNSIGNED and not integer[1]:
            return float(value)
    if not _FLOAT.fullmatch(plain):
        return text
    number = float(plain)
    if math.isinf(number):
        return text
    return int(number) if number.is_integer() and abs(number) <= _MAX_INT else number


def _has_type(value: Any, name: str) -> bool:
    if name == "null":
        return value is None
    if name == "bool":
        return isinstance(value, bool)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and (name == "float" or isinstance(value, int))


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(re.sub(r"[\r\n]", "", text), validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        raise ValueError("a value with the tag !!binary is not base64") from None


def _float_text(value: float) -> str:
    """`value` as Go's `strconv.FormatFloat(value, 'g', -1, 64)` spells it."""
    if value.is_integer() and abs(value) < 10**6:
        return str(int(value))
    if 1e-4 <= abs(value) < 10**6:
        return repr(value)
    digits = len(decimal.Decimal(repr(value)).normalize().as_tuple().digits)
    return f"{value:.{digits - 1}e}"
