"""The kinds that are read with `--gateway`."""

from kproxy.model.kinds import registry
from kproxy.model.kinds.gateway import (
    gateway_class_kind,
    gateway_kind,
    namespace_kind,
    reference_grant_kind,
    tcp_route_kind,
    udp_route_kind,
)

KINDS: registry.Kinds = (
    gateway_class_kind.KIND,
    gateway_kind.KIND,
    tcp_route_kind.KIND,
    udp_route_kind.KIND,
    reference_grant_kind.KIND,
    namespace_kind.KIND,
)
