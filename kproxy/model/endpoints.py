"""Endpoints of a Service port: the places its connections can go.

`Endpoint` carries what the API says of one backend; `Backend` is the part of it that a socket
can be connected to. `serving_set` decides which endpoints receive new connections.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from kproxy.model import names


class Backend(NamedTuple):
    """Where to connect: an IP address in canonical text form, and a port. A socket address."""

    address: str
    port: int

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """One backend of a service port with the conditions the API gives it.

    Absent conditions mean ready and serving and not terminating
    (kube-proxy `endpointslicecache.go`; service-behaviour row 35). `node` is "" when unknown.
    """

    backend: Backend
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""


class EndpointPort(NamedTuple):
    """The endpoints behind one named port, merged: one per ip:port, sorted."""

    name: str
    protocol: names.Protocol
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class EndpointsObject:
    """One Endpoints or EndpointSlice object, after validation and the address policy.

    `name` is the object's own name. `service` is the Service it belongs to: the one of the same
    name for Endpoints, the one its label names, in its own namespace, for a slice. Ports are
    joined with a Service's by *name* and protocol, never by number (service-behaviour row 4).
    """

    name: names.NamespacedName
    service: names.NamespacedName
    origin: names.Kind
    ports: tuple[EndpointPort, ...] = ()

    def at(self, port: str, protocol: names.Protocol) -> tuple[Endpoint, ...]:
        """The endpoints of the port so named; () if the object has no such port."""
        for entry in self.ports:
            if entry.name == port and entry.protocol is protocol:
                return entry.endpoints
        return ()


def merged(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """`endpoints` with one entry per ip:port, sorted.

    Of duplicates the most useful one stays: ready before not ready, serving before not, staying
    before terminating, on a known node before an unknown one. The result does not depend on the
    order of the input (service-behaviour row 36, modern).
    """
    best: dict[Backend, Endpoint] = {}
    for endpoint in endpoints:
        rival = best.setdefault(endpoint.backend, endpoint)
        if rival is not endpoint and _preference(endpoint) > _preference(rival):
            best[endpoint.backend] = endpoint
    return tuple(best[backend] for backend in sorted(best))


def _preference(endpoint: Endpoint) -> tuple[bool, bool, bool, str]:
    return endpoint.ready, endpoint.serving, not endpoint.terminating, endpoint.node


def serving_set(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Endpoints that get new connections: the ready ones, else those serving while terminating.

    The fallback keeps a Service up while its last pods drain (KEP-1669; service-behaviour
    row 34). Callers apply it separately to the cluster-wide and the node-local set.
    """
    pool = tuple(endpoints)
    ready = tuple(e for e in pool if e.ready)
    return ready or tuple(e for e in pool if e.serving and e.terminating)


def on_node(endpoints: Iterable[Endpoint], node: str) -> tuple[Endpoint, ...]:
    """Endpoints on `node`; an empty node name matches none (service-behaviour row 29)."""
    return tuple(e for e in endpoints if node and e.node == node)
