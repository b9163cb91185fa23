"""What can be read of a data plane, as frozen data that can cross a process boundary.

Counts are those since the data plane started, or since it was first given the service port.
Moments are on the monotonic clock, which all processes of a host share.
"""

import msgspec

from kproxy.model import addresses, forwarding


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A data plane as a whole.

    `connections` are open now, dialling ones included, of `max_connections` that may be; so are
    `flows` of datagrams, of `max_flows`.
    `penalized` endpoints are in the penalty box. `counters` are those of
    `metrics.DataPathCounters`, by name.
    """

    connections: int
    max_connections: int
    flows: int
    max_flows: int
    penalized: int
    counters: dict[str, int]


class ServicePort(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on one service port; see `metrics.ServicePortCounters`.

    `ended` and `dial_failures` have entries only for what has happened. `affinity_entries` and
    `affinity_evictions` are None without session affinity.
    """

    active: int
    accepted: int
    ended: dict[str, int]
    bytes_from_clients: int
    bytes_from_backends: int
    dial_failures: dict[str, int]
    listen_drops: int
    reached: int
    """Connections that reached an endpoint, of the endpoints that are counted now."""
    affinity_entries: int | None
    affinity_evictions: int | None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint of a service port; see `metrics.EndpointCounters`.

    `is_used` says whether new connections go there without reservation. While the endpoint is in
    the penalty box they go there only if every other endpoint is in it too. `penalized_until` is
    when the box probes it next, None while it is outside. `own_address_of` names the part of kproxy
    that listens there: such an endpoint gets no connections.
    """

    total: int = 0
    active: int = 0
    dial_failures: int = 0
    is_used: bool = False
    penalized_until: float | None = None
    own_address_of: str | None = None


class Coming(msgspec.Struct, frozen=True, kw_only=True):
    """Where the next connection of a client goes, over the endpoints of one scope and family.

    `backend` is None where that is chance. `seconds_left` says for how long affinity holds the
    client there, None if it does not.
    """

    scope: forwarding.Scope
    family: addresses.Family
    backend: addresses.SocketAddress | None
    seconds_left: float | None = None


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A client that session affinity sends to `backend` for `seconds_left` more seconds."""

    scope: forwarding.Scope
    client: str
    backend: addresses.SocketAddress
    seconds_left: float
