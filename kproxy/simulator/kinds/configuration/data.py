"""The contents of Secrets and ConfigMaps: keys, bytes as base64, and what immutability forbids."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sized

from kproxy.simulator.store import formats, statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

LARGEST = 1024 * 1024
"""Bytes in all values together (`MaxSecretSize`)."""

_IMMUTABLE = "field is immutable when `immutable` is set"


def encode(content: bytes) -> str:
    """Bytes as the API has them in JSON."""
    return base64.b64encode(content).decode()


def decoded(resource: Resource, values: Mapping[str, str] | None) -> dict[str, bytes]:
    """The bytes of base64 values. Raises BadRequest, which names the place and not the value."""
    found = {}
    for key, text in (values or {}).items():
        plain = text.replace("\r", "").replace("\n", "")  # as Go's decoder does
        try:
            found[key] = base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError):
            detail = f"illegal base64 data at input byte {_first_illegal(text)}"
            raise statuses.unreadable(resource, ValueError(detail)) from None
    return found


def encode_anew(resource: Resource, changed: Object, field: str) -> None:
    """Replace base64 values by their only spelling: kube-apiserver reads bytes and writes them.

    So line breaks are gone from what is stored. Raises BadRequest as `decoded` does.
    """
    if values := changed.get(field):
        found = decoded(resource, values)
        changed[field] = {key: encode(content) for key, content in found.items()}


def _first_illegal(text: str) -> int:
    match = re.search(r"[^A-Za-z0-9+/\r\n]", text)
    return match.start() if match else len(text)


def key_violations(values: Iterable[str], where: str) -> Iterator[Cause]:
    """The keys that could not be the name of a file."""
    for key in values:
        yield from statuses.malformed_value(f"{where}[{key}]", key, formats.config_map_key)


def size(*parts: Mapping[str, Sized]) -> int:
    """The bytes in the values of all parts."""
    return sum(len(value) for part in parts for value in part.values())


def immutable_violations(old: Object, new: Object, fields: Iterable[str]) -> Iterator[Cause]:
    """What an immutable object may not change: that it is, and `fields`."""
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        yield statuses.forbidden_value("immutable", _IMMUTABLE)
    for field in fields:
        if (old.get(field) or {}) != (new.get(field) or {}):
            yield statuses.forbidden_value(field, _IMMUTABLE)
