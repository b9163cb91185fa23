"""Which service port gets an address that several want.

The API server never gives one ClusterIP to two Services, but manifests can, two ClusterIPs can meet
in 127/8, and any user who may edit a Service can write another Service's address into its
`externalIPs`. One claim wins and is served. The winner does not depend on the order in which the
claims came, so a random history of changes ends where a fresh start does (docs/faults.md S10):

1. by kind: a ClusterIP before a node port or a health check's, before a load balancer's address,
   before an external IP. The API server and the load balancer's controller choose all but the
   last; the Service's author chooses an external IP, which must not take another Service's
   address (CVE-2020-8554);
2. the oldest Service;
3. by namespace, Service name, port name.
"""

import bisect
from typing import TypeAlias

import msgspec

from kproxy.model import forwarding, names

_KINDS = forwarding.FrontendKind
_RANK = {
    _KINDS.CLUSTER_IP: 0,
    _KINDS.NODE_PORT: 1,
    _KINDS.HEALTH_CHECK: 1,
    _KINDS.LOAD_BALANCER: 2,
    _KINDS.EXTERNAL_IP: 3,
}

_Precedence: TypeAlias = tuple[int, str, names.ServicePortName, str, int, str]


def rank(kind: forwarding.FrontendKind) -> int:
    """The precedence of a kind of frontend; 0 comes first."""
    return _RANK[kind]


class Claim(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One service port's claim to have `frontend` bound.

    A change of what is `admitted` makes no other claim: the address does not move to it.
    """

    created: str
    """The Service's creationTimestamp (RFC 3339, UTC); "" when unknown, which comes first."""
    name: names.ServicePortName
    frontend: forwarding.Frontend
    admitted: forwarding.Admission = None
    """The admitted client networks."""

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Claim)
            and self.frontend == other.frontend
            and self.name == other.name
            and self.created == other.created
        )

    def __ne__(self, other: object) -> bool:
        return not self == other  # a Struct's own compares all fields

    def __hash__(self) -> int:
        return hash((self.name, self.frontend))

    @property
    def precedence(self) -> _Precedence:
        """Sorts claims; no two claims have the same."""
        frontend = self.frontend
        where = frontend.address, frontend.port, frontend.scope.value
        return _RANK[frontend.kind], self.created, self.name, *where


def _precedence(claim: Claim) -> _Precedence:
    return claim.precedence


class Claims:
    """All claims, by bound address. Adding, withdrawing and finding the winner take O(log n)."""

    def __init__(self) -> None:
        self._claims: dict[forwarding.PortalAddress, list[Claim]] = {}

    def add(self, address: forwarding.PortalAddress, claim: Claim) -> None:
        """Record that `claim` wants `address`. A repeated call changes nothing."""
        wanted = self._claims.get(address)
        if wanted is None:
            self._claims[address] = [claim]
            return
        at = bisect.bisect_left(wanted, claim.precedence, key=_precedence)
        if wanted[at : at + 1] != [claim]:
            wanted.insert(at, claim)

    def withdraw(self, address: forwarding.PortalAddress, claim: Claim) -> None:
        """Record that `claim` no longer wants `address`. An unknown claim is no error."""
        wanted = self._claims.get(address, [])
        at = bisect.bisect_left(wanted, claim.precedence, key=_precedence)
        if wanted[at : at + 1] == [claim]:
            del wanted[at]
            if not wanted:
                del self._claims[address]

    def winner(self, address: forwarding.PortalAddress) -> Claim | None:
        """The claim that gets `address`; None if no claim wants it."""
        wanted = self._claims.get(address)
        return wanted[0] if wanted else None

    def losers(self, address: forwarding.PortalAddress) -> list[Claim]:
        """The claims that do not get `address`, in order of precedence."""
        return self._claims.get(address, [])[1:]
