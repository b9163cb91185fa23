"""Who may bind which address, when several service ports want the same one.

The API server never gives one ClusterIP to two Services, but manifests can, and two ClusterIPs
can meet in 127/8. One claimant wins and is served; the others are told who it is. The winner is
the same whatever the order in which the claims came: the oldest Service, then the first by
name, so that a random history of changes ends where a fresh start does (fault-catalogue S10).
"""

from dataclasses import dataclass

from kproxy.model import endpoints, forwarding, names


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A service port's wish to have `frontend` bound. Ordered by precedence."""

    created: str
    """The Service's creationTimestamp (RFC 3339, UTC); "" when unknown, which comes first."""
    name: names.ServicePortName
    frontend: forwarding.Frontend


class Claims:
    """All wishes, by bound address."""

    def __init__(self) -> None:
        self._claims: dict[endpoints.Backend, set[Claim]] = {}

    def add(self, address: endpoints.Backend, claim: Claim) -> None:
        """`claim` wants `address`. Claiming twice is claiming once."""
        self._claims.setdefault(address, set()).add(claim)

    def withdraw(self, address: endpoints.Backend, claim: Claim) -> None:
        """`claim` no longer wants `address`. An unknown claim is no error."""
        wanted = self._claims.get(address)
        if wanted is not None:
            wanted.discard(claim)
            if not wanted:
                del self._claims[address]

    def winner(self, address: endpoints.Backend) -> Claim | None:
        """Whose `address` is to be, if anyone's."""
        wanted = self._claims.get(address)
        return min(wanted) if wanted else None

    def all(self, address: endpoints.Backend) -> frozenset[Claim]:
        """Everyone who wants `address`."""
        return frozenset(self._claims.get(address, ()))

    def losers(self, address: endpoints.Backend) -> list[Claim]:
        """Who wants `address` in vain, in order of precedence."""
        return sorted(self._claims.get(address, ()))[1:]
