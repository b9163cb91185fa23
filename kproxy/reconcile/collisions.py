"""Which claims lose an address to another Service, and the log lines that say so once."""

from collections.abc import Generator, Iterable

import structlog

from kproxy.model import forwarding, names
from kproxy.portal import claims

_STRIDE = 128
"""Claims looked at between two pauses."""

_SPELLED_OUT = 10
"""Service ports that lose one address in one sync and are logged by name; the rest are counted."""

_log = structlog.get_logger(__name__)


class Collisions:
    """The losing claims that have been logged, by address."""

    def __init__(self) -> None:
        self._losing: dict[forwarding.PortalAddress, set[claims.Claim]] = {}

    def report(
        self,
        address: forwarding.PortalAddress,
        winner: claims.Claim | None,
        candidates: Iterable[claims.Claim],
    ) -> Generator[None, None, None]:
        """Log once which of `candidates` do not get `address`, and which Service has it."""
        if winner is None:
            return
        self.forget(address, winner)
        losing = self._losing.get(address, set())
        found = 0
        for count, claim in enumerate(candidates, 1):
            if count % _STRIDE == 0:
                yield
            if claim in losing or claim == winner or is_served(claim.name, claim.frontend, winner):
                continue
            losing = self._losing.setdefault(address, losing)
            losing.add(claim)
            found += 1
            if found <= _SPELLED_OUT:
                _log.error(
                    "address is taken by another Service, this one is not served on it",
                    service=str(claim.name),
                    address=str(claim.frontend.socket_address),
                    bound=str(address),
                    owner=str(winner.name),
                )
        if found > _SPELLED_OUT:
            _log.error(
                "address is taken by another Service: more are not served on it",
                service_ports=found - _SPELLED_OUT,
                bound=str(address),
                owner=str(winner.name),
            )

    def forget(self, address: forwarding.PortalAddress, claim: claims.Claim) -> None:
        """`claim` has `address` now, or does not want it any more."""
        losing = self._losing.get(address)
        if losing is not None:
            losing.discard(claim)
            if not losing:
                del self._losing[address]


def is_served(
    name: names.ServicePortName, frontend: forwarding.Frontend, winner: claims.Claim
) -> bool:
    """Whether `frontend` of `name` is served by the claim that has its address.

    That claim is its own, or another one of the same port: a Service may list one address twice,
    as an external IP and as its load balancer's.
    """
    return winner.name == name and winner.frontend.scope is frontend.scope
