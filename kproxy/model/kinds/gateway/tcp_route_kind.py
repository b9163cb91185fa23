"""The kind TCPRoute; see `routes`."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from kproxy.model import names
from kproxy.model.judging import findings
from kproxy.model.kinds.gateway import references, routes
from kproxy.model.kinds.kind import Collection, Kind, Policy


@dataclass(frozen=True, slots=True)
class TcpRoute(routes.Route):
    """A route of TCP."""

    kind: ClassVar[str] = "TCPRoute"
    protocol: ClassVar[names.Protocol] = names.Protocol.TCP


def judge(
    shape: routes.RouteShape, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, routes.Route | None]:
    """See `routes.judged`."""
    return (yield from routes.judged(TcpRoute, shape, found, policy))


KIND: Kind[routes.Route] = Kind(
    name=TcpRoute.kind,
    collection=Collection("tcproutes", references.GROUP, routes.VERSIONS, needed=False),
    shape=routes.RouteShape,
    judge=judge,
    owner=routes.owner,
)
