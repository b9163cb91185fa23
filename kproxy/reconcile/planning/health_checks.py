"""`healthCheckNodePort`: where load balancers ask whether this node has endpoints of a Service.

docs/behaviour.md rows 30 and 31. The port is a frontend of the Service's first port, at each of the
node's addresses, so that it is claimed, counted, opened and retried like all others.
`ops.node_health` listens there, not a data plane.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence

from kproxy.model import addresses, forwarding, steps
from kproxy.model.kinds import endpoints, services


class Counting:
    """Counts the addresses of ready endpoints on `node`, over all ports of one Service."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._seen: dict[addresses.Family, set[str]] = {each: set() for each in addresses.Family}

    def add_in_steps(self, found: Sequence[endpoints.Endpoint]) -> Generator[None, None, None]:
        """Count the endpoints of one port, with a pause now and then."""
        if not self._node:
            return
        for run in steps.runs(found):
            for each in run:
                if each.ready and each.node == self._node:
                    address = each.backend.address
                    self._seen[addresses.family(address)].add(address)
            yield

    def counts(self) -> tuple[tuple[addresses.Family, int], ...]:
        """The number of addresses in each family."""
        return tuple((family, len(seen)) for family, seen in self._seen.items())


def frontends(
    service: services.Service, at: Iterable[tuple[addresses.Family, str]]
) -> Iterator[forwarding.Frontend]:
    """The health check's frontends, one per node address; none without a port."""
    if not service.health_check_node_port:
        return
    for family, address in at:
        yield forwarding.Frontend(
            forwarding.FrontendKind.HEALTH_CHECK,
            address,
            service.health_check_node_port,
            family=family,
        )
