"""Which frontends get a listening socket when there are not enough for all of them.

A process has a limited number of descriptors, and one tenant can ask for any number of ports. So
listeners have a budget, shared out by max-min fairness: first among namespaces, then among the
Services of a namespace. A share that one does not need goes to the others. No claimant gets more
than another that has less and wants more. A Service or namespace with 20,000 ports therefore never
takes a listener from one with two. Where a remainder cannot be divided, older ones come first,
then by name. Within a Service ClusterIPs come before node ports, load balancers and external IPs,
then low ports before high ones.

The result is a function of what is wanted now, and not of the order in which it was asked for: a
restart ends in the same state.
"""

import bisect
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from kproxy.model import forwarding, steps
from kproxy.portal import claims

_STRIDE = 128
"""Services or addresses looked at between two pauses."""

Age: TypeAlias = tuple[str, str]
"""Creation time and name: the order in which a remainder is given out."""


class Shortage(StrEnum):
    """Which bound keeps a frontend from listening."""

    LISTENERS = "listeners"
    SERVICES = "services"


def water_level(demands: Mapping[int, int], supply: int) -> tuple[int, int]:
    """Share `supply` fairly: the level, and how many of those that want more get one more.

    `demands` counts the claimants by how much each wants. Each claimant gets what it wants up to
    the level (max-min fairness).
    """
    level, left, claimants = 0, supply, sum(demands.values())
    for demand in sorted(demands):
        if (demand - level) * claimants > left:
            more, remainder = divmod(left, claimants)
            return level + more, remainder
        left -= (demand - level) * claimants
        claimants -= demands[demand]
        level = demand
    return level, 0


class Shares:
    """Shares `supply` out fairly: call `next` once for each claimant, in their order.

    `demands` counts the claimants by how much each wants.
    """

    def __init__(self, demands: Mapping[int, int], supply: int) -> None:
        self._level, self._remainder = water_level(demands, supply)

    def next(self, demand: int) -> int:
        """The share of the next claimant."""
        if demand <= self._level:
            return demand
        if self._remainder:
            self._remainder -= 1
            return self._level + 1
        return self._level


def shares(demands: Sequence[int], supply: int) -> Iterator[int]:
    """The share of each claimant, by what each wants."""
    if sum(demands) <= supply:
        return iter(demands)
    shared = Shares(Counter(demands), supply)
    return (shared.next(each) for each in demands)


@dataclass(slots=True)
class _Service:
    """What one Service wants: the claims by address. `denied` are those that it does not get.

    Those in `free` cost no listener; only a bound on Services can deny them.
    """

    created: str
    wants: dict[forwarding.PortalAddress, claims.Claim] = field(default_factory=dict)
    free: dict[forwarding.PortalAddress, claims.Claim] = field(default_factory=dict)
    denied: dict[forwarding.PortalAddress, Shortage] = field(default_factory=dict)
    settled: tuple[int, Shortage] | None = None
    """The share that `denied` was computed from; None once `wants` has changed."""


@dataclass(slots=True)
class _Namespace:
    """The Services of one namespace that want listeners, and in which order they are served."""

    services: dict[str, _Service] = field(default_factory=dict)
    order: list[Age] = field(default_factory=list)
    wanted: int = 0
    is_limited: bool = False
    """Whether it got fewer listeners than it wanted when they were last shared out."""


class Budget:
    """Shares out at most `listeners`, for at most `services` Services of each namespace.

    None means no bound. `want` and `drop` say what changes; `settle` shares out anew.
    """

    def __init__(self, listeners: int | None = None, services: int | None = None) -> None:
        self.limit = listeners
        self._services_limit = services
        self._wanted: dict[forwarding.PortalAddress, claims.Claim] = {}
        self._cost = 0
        self._namespaces: dict[str, _Namespace] = {}
        self._order: list[Age] = []
        self._crowded: set[str] = set()
        self._denied: dict[forwarding.PortalAddress, Shortage] = {}
        self._changed: dict[forwarding.PortalAddress, None] = {}
        self._is_settled = True

    def want(
        self, address: forwarding.PortalAddress, claim: claims.Claim, *, is_free: bool = False
    ) -> None:
        """Ask for a listener at `address` for `claim`, in place of the claim that had it.

        With `is_free` it shares a listener that exists anyway. The cost of one `address` never
        changes.
        """
        before = self._wanted.get(address)
        if before is not None:
            if before == claim:
                self._wanted[address] = claim  # what it admits may differ
                return
            self.drop(address)
        self._wanted[address] = claim
        key = claim.name.service
        namespace = self._namespaces.get(key.namespace)
        if namespace is None:
            namespace = self._namespaces[key.namespace] = _Namespace()
        service = namespace.services.get(key.name)
        if service is None or service.created != claim.created:
            oldest = namespace.order[:1]
            if service is None:
                service = namespace.services[key.name] = _Service(claim.created)
            else:
                _remove(namespace.order, (service.created, key.name))
                service.created = claim.created
            bisect.insort(namespace.order, (claim.created, key.name))
            self._reorder(key.namespace, oldest, namespace.order[:1])
        service.settled = None
        if is_free:
            service.free[address] = claim
        else:
            service.wants[address] = claim
            namespace.wanted += 1
            self._cost += 1
        self._count(key.namespace, namespace)

    def drop(self, address: forwarding.PortalAddress) -> None:
        """Withdraw what `want` asked for at `address`. An unknown address is no error."""
        claim = self._wanted.pop(address, None)
        if claim is None:
            return
        key = claim.name.service
        namespace = self._namespaces[key.namespace]
        service = namespace.services[key.name]
        if service.free.pop(address, None) is None:
            del service.wants[address]
            namespace.wanted -= 1
            self._cost -= 1
        service.denied.pop(address, None)
        self._denied.pop(address, None)
        service.settled = None
        if not service.wants and not service.free:
            oldest = namespace.order[:1]
            del namespace.services[key.name]
            _remove(namespace.order, (service.created, key.name))
            self._reorder(key.namespace, oldest, namespace.order[:1])
            if not namespace.order:
                del self._namespaces[key.namespace]
        self._count(key.namespace, namespace)

    def granted(self, address: forwarding.PortalAddress) -> claims.Claim | None:
        """The claim that gets the listener at `address`, as of the last `settle`."""
        return None if address in self._denied else self._wanted.get(address)

    def shortage(self, address: forwarding.PortalAddress) -> Shortage | None:
        """Why the claim that wants `address` gets no listener; None when it gets one."""
        return self._denied.get(address)

    def shortages(self) -> Mapping[Shortage, int]:
        """How many frontends have no listener, by the bound that keeps it from them."""
        return Counter(self._denied.values())

    def settle(self) -> Generator[None, None, list[forwarding.PortalAddress]]:
        """Share out the listeners; returns the addresses for which the answer has changed.

        O(1) while there is enough for all. Pauses between pieces of work of some 100 us.
        """
        if not self._is_settled and (self._is_short or self._denied):
            yield from self._share_out_all()
        self._is_settled = True
        changed, self._changed = list(self._changed), {}
        return changed

    def _share_out_all(self) -> Generator[None, None, None]:
        supply = self._cost if self.limit is None else self.limit
        demands: dict[str, int] = {}
        for count, (_, name) in enumerate(self._order, 1):
            demands[name] = yield from self._demand(self._namespaces[name], name)
            if count % _STRIDE == 0:
                yield
        shares = Shares(Counter(demands.values()), supply)
        for name, demand in demands.items():
            namespace = self._namespaces[name]
            share = shares.next(demand)
            is_limited = share < namespace.wanted or name in self._crowded
            if is_limited or namespace.is_limited:
                yield from self._share_out(namespace, share)
            namespace.is_limited = is_limited
            yield

    @property
    def _is_short(self) -> bool:
        is_over = self.limit is not None and self._cost > self.limit
        return is_over or bool(self._crowded)

    def _demand(self, namespace: _Namespace, name: str) -> Generator[None, None, int]:
        """How many listeners the namespace's permitted Services want."""
        if name not in self._crowded:
            return namespace.wanted
        demand = 0
        for count, (_, service) in enumerate(namespace.order[: self._services_limit], 1):
            demand += len(namespace.services[service].wants)
            if count % _STRIDE == 0:
                yield
        return demand

    def _share_out(self, namespace: _Namespace, supply: int) -> Generator[None, None, None]:
        """Share `supply`, the namespace's listeners, among its Services."""
        order = namespace.order
        allowed = len(order) if self._services_limit is None else self._services_limit
        demands: Counter[int] = Counter()
        for count, (_, name) in enumerate(order[:allowed], 1):
            demands[len(namespace.services[name].wants)] += 1
            if count % _STRIDE == 0:
                yield
        shares = Shares(demands, supply)
        for count, (_, name) in enumerate(list(order)):
            service = namespace.services[name]
            if count < allowed:
                result = shares.next(len(service.wants)), Shortage.LISTENERS
            else:
                result = 0, Shortage.SERVICES
            if service.settled != result:
                yield from self._grant(service, *result)
                service.settled = result
            if count % _STRIDE == 0:
                yield

    def _grant(self, service: _Service, share: int, cause: Shortage) -> Generator[None, None, None]:
        """Let the first `share` of what a Service wants have listeners."""
        before, service.denied = service.denied, {}
        if share < len(service.wants):
            ranked = yield from steps.sorted_in_steps(service.wants.items(), _rank)
            for count, (address, _) in enumerate(ranked[share:], 1):
                service.denied[address] = cause
                if count % _STRIDE == 0:
                    yield
        if cause is Shortage.SERVICES:
            service.denied.update(dict.fromkeys(service.free, cause))
        for count, address in enumerate([*service.wants, *service.free], 1):
            now = service.denied.get(address)
            if before.get(address) is not now:
                self._changed[address] = None
                if now is None:
                    del self._denied[address]
                else:
                    self._denied[address] = now
            if count % _STRIDE == 0:
                yield

    def _count(self, name: str, namespace: _Namespace) -> None:
        """Note that what a namespace wants has changed."""
        self._is_settled = False
        limit = self._services_limit
        if limit is not None and len(namespace.services) > limit:
            self._crowded.add(name)
        else:
            self._crowded.discard(name)

    def _reorder(self, name: str, before: list[Age], after: list[Age]) -> None:
        """Move a namespace in the order if its oldest Service is another one now."""
        if before == after:
            return
        if before:
            _remove(self._order, (before[0][0], name))
        if after:
            bisect.insort(self._order, (after[0][0], name))


def _remove(order: list[Age], age: Age) -> None:
    del order[bisect.bisect_left(order, age)]


def _rank(
    want: tuple[forwarding.PortalAddress, claims.Claim],
) -> tuple[int, int, str, forwarding.PortalAddress]:
    """The order in which the frontends of one Service get listeners."""
    address, claim = want
    frontend = claim.frontend
    return claims.rank(frontend.kind), frontend.port, frontend.address, address
