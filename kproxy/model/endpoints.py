"""Endpoints of a Service port: the places its connections can go.

`Endpoint` carries what the API says of one backend; `Backend` is the part of it that a socket
can be connected to. `serving_set` decides which endpoints receive new connections.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


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


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One backend of a service port with the conditions the API gives it.

    Absent conditions mean ready and serving and not terminating
    (kube-proxy `endpointslicecache.go`; service-behaviour row 35). `node` is "" when unknown.
    """

    backend: Backend
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""


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
