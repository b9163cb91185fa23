"""Query parameters as kube-apiserver reads them: Go's numbers and truth values.

The conversions are those of apimachinery's `pkg/runtime/conversion.go`. A value that cannot be
read is answered with 400; a parameter that the server does not know is ignored.
"""

import re
from collections.abc import Mapping

from kproxy.simulator.store import statuses

_SIGNED = re.compile(r"[+-]?[0-9]+", re.ASCII)
_UNSIGNED = re.compile(r"[0-9]+", re.ASCII)
_MOST_DIGITS = 20
"""Digits of the largest number of 64 bits: longer ones are out of range, and not converted."""


def integer(query: Mapping[str, str], name: str) -> int | None:
    """A parameter of type int64; None if it is not given. Raises BadRequest."""
    if name not in query:
        return None
    text = query[name]
    value, complaint = _parsed("ParseInt", _SIGNED, text, -(2**63), 2**63 - 1)
    if complaint:
        raise statuses.bad_request(complaint)
    return value


def boolean(query: Mapping[str, str], name: str) -> bool | None:
    """A parameter of type bool; None if it is not given. All but "false" and "0" is true."""
    if name not in query:
        return None
    return query[name].lower() not in ("false", "0")


def version(query: Mapping[str, str]) -> str:
    """The `resourceVersion`, "" if there is none. Raises BadRequest."""
    text = query.get("resourceVersion", "")
    if text:
        _, complaint = _parsed("ParseUint", _UNSIGNED, text, 0, 2**64 - 1)
        if complaint:
            cause = statuses.invalid_value("resourceVersion", text, complaint)
            raise statuses.bad_request(f"invalid resource version: {cause}")
    return text


def _parsed(
    function: str, pattern: re.Pattern[str], text: str, least: int, most: int
) -> tuple[int, str]:
    """The number, and the complaint of Go's strconv; "" if there is none."""
    if not pattern.fullmatch(text):
        return 0, f"strconv.{function}: parsing {statuses.quoted(text)}: invalid syntax"
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) <= _MOST_DIGITS:
        value = int(text)
        if least <= value <= most:
            return value, ""
    return 0, f"strconv.{function}: parsing {statuses.quoted(text)}: value out of range"
