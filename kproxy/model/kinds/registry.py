"""The kinds that kproxy reads, in the order in which users are shown them."""

from typing import Any, TypeAlias

from kproxy.model.kinds import endpoint_slice_kind, endpoints_kind, pod_kind, service_kind
from kproxy.model.kinds.kind import Kind

Kinds: TypeAlias = tuple[Kind[Any], ...]

KINDS: Kinds = (service_kind.KIND, endpoints_kind.KIND, endpoint_slice_kind.KIND, pod_kind.KIND)
