"""References to objects of any kind: `TypedLocalObjectReference` and its rules."""

from collections.abc import Iterator

import msgspec

from kproxy.simulator.store import formats, statuses
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object


class Reference(msgspec.Struct, rename="camel"):
    """A reference; `scope` and `namespace` are of an IngressClass's parameters alone."""

    api_group: str | None = None
    kind: str | None = None
    name: str | None = None
    scope: str | None = None
    namespace: str | None = None


def violations(reference: Object, where: str) -> Iterator[Cause]:
    """What is wrong with the group, the kind and the name of a reference."""
    group = reference.get("apiGroup")
    if group is not None:
        place = f"{where}.apiGroup"
        yield from statuses.malformed_value(place, group, formats.dns_1123_subdomain)
    for field in ("kind", "name"):
        text = reference.get(field) or ""
        if not text:
            yield statuses.required_value(f"{where}.{field}")
        yield from statuses.malformed_value(f"{where}.{field}", text, formats.path_segment)
