"""What the proxier keeps of a service port, and the messages that follow from it."""

from collections.abc import Iterator

import msgspec

from kproxy.model import addresses, forwarding
from kproxy.portal import claims
from kproxy.reconcile.planning import rules


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What the proxier keeps of a service port."""

    plan: rules.PortPlan
    created: str

    def claims(self) -> Iterator[tuple[forwarding.PortalAddress, claims.Claim]]:
        """The addresses that it wants, with backends or without."""
        for place in self.plan.places:
            if place.address is not None:
                claim = claims.Claim(
                    self.created, self.plan.rule.name, place.frontend, place.admitted
                )
                yield place.address, claim

    @property
    def local_endpoints(self) -> tuple[tuple[addresses.Family, int], ...] | None:
        """How many of its endpoints are on this node; None where that is not asked for."""
        return self.plan.local_endpoints

    @property
    def backends(self) -> forwarding.SetBackends | None:
        """What it is balanced over; None while it is not served."""
        if not self.plan.is_served:
            return None
        rule = self.plan.rule
        return forwarding.SetBackends(rule.name, rule.policy, rule.pools, rule.spared)
