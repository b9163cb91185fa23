"""The kinds that kproxy reads, in the order in which users are shown them."""

from typing import Any, TypeAlias

from kproxy.model.kinds import endpoint_slice_kind, endpoints_kind, pod_kind, service_kind
from kproxy.model.kinds.kind import Kind

Kinds: TypeAlias = tuple[Kind[Any], ...]

KINDS: Kinds = (service_kind.KIND, endpoints_kind.KIND, endpoint_slice_kind.KIND, pod_kind.KIND)

_FOR_NAMES = {each.name: each for each in (endpoints_kind.FOR_NAMES, endpoint_slice_kind.FOR_NAMES)}


def for_names(kinds: Kinds) -> Kinds:
    """`kinds` as a name server reads them, which wants endpoints that no proxy does."""
    return tuple(_FOR_NAMES.get(each.name, each) for each in kinds)
