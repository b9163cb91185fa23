"""The kind UDPRoute; see `routes`."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from kproxy.model import names
from kproxy.model.judging import findings
from kproxy.model.kinds.gateway import references, routes
from kproxy.model.kinds.kind import Collection, Kind, Policy


@dataclass(frozen=True, slots=True)
class UdpRoute(routes.Route):
    """A route of UDP."""

    kind: ClassVar[str] = "UDPRoute"
    protocol: ClassVar[names.Protocol] = names.Protocol.UDP


def judge(
    shape: routes.RouteShape, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, routes.Route | None]:
    """See `routes.judged`."""
    return (yield from routes.judged(UdpRoute, shape, found, policy))


KIND: Kind[routes.Route] = Kind(
    name=UdpRoute.kind,
    collection=Collection("udproutes", references.GROUP, routes.VERSIONS, needed=False),
    shape=routes.RouteShape,
    judge=judge,
    owner=routes.owner,
)
