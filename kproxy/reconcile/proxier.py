"""The Proxier: one function, `sync`, makes what is open equal to what the objects say.

Level-triggered. What is pending is a set of dirty Service names and nothing else; their rules are
computed from the objects of the moment, so an add and a delete in between cancel by themselves,
and any history of events ends in the same state as a fresh start from the final objects.

The order of effects, over everything that is dirty at once:

1. close the frontends that are not wanted, or wanted by someone else;
2. set backends and policies;
3. open the frontends that are wanted;
4. forget the service ports that are gone.

Backends come before the portal opens, so that no client is accepted with nowhere to go
(kube-proxy's `mergeService` had it the other way round), and the portal closes before the
balancer forgets. All closing comes before any opening, so that two ports can swap their numbers
and an address can change hands in one sync.

A sync of thousands of Services is a long computation on a thread that also relays bytes. It can
therefore be taken in steps (`sync_steps`), between which others run. Objects that change in the
meantime are dirty again, and the next sync looks at them once more. A look at everything
(`resync_steps`) is many small syncs, so that such a change does not wait for the end of it.
"""

import operator
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import structlog

from kproxy import errors
from kproxy.model import endpoints, forwarding, names, services
from kproxy.portal import claims
from kproxy.reconcile import dataplane, rules

_log = structlog.get_logger(__name__)

RESYNC_BATCH = 10
"""Services in each of the syncs that a resync is made of: a millisecond of work."""


Steps: TypeAlias = Generator[None, None, list[names.ServicePortName]]
"""A sync in steps; in the end, the service ports whose frontends may be in another state."""


@dataclass(frozen=True, slots=True)
class FrontendStatus:
    """Where a frontend is, for people and for `kproxy get services`.

    `state` is "bound", "no-endpoints", "collision", or "unavailable"; `detail` says more in a
    clause. `bound` is the address it has or would have, None when it cannot have any.
    """

    frontend: forwarding.Frontend
    bound: endpoints.Backend | None
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the proxier remembers of a service port: its rule, and what it claims where.

    `loops` are the endpoints that were left out because they are its own addresses.
    """

    rule: forwarding.Rule
    claims: tuple[tuple[endpoints.Backend, claims.Claim], ...]
    loops: frozenset[endpoints.Backend]


@dataclass(slots=True)
class _Plan:
    """The effects of one sync, in order."""

    close: list[endpoints.Backend] = field(default_factory=list)
    set_backends: list[forwarding.SetBackends] = field(default_factory=list)
    open: list[tuple[endpoints.Backend, claims.Claim]] = field(default_factory=list)
    forget: list[names.ServicePortName] = field(default_factory=list)


class Proxier:
    """Keeps a data plane equal to the objects that `reader` shows.

    `locate` is the portal's: the address that a frontend is bound to, or PortalUnavailableError.
    `node` and `default_strategy` are as in `rules.rules_for`. Only Services in `namespaces` are
    served, or all when that is empty.
    """

    def __init__(
        self,
        reader: rules.ObjectReader,
        plane: dataplane.DataPlane,
        locate: Callable[[forwarding.Frontend], endpoints.Backend],
        *,
        node: str = "",
        default_strategy: services.Strategy = services.Strategy.ROUND_ROBIN,
        namespaces: frozenset[str] = frozenset(),
    ) -> None:
        self._reader = reader
        self._plane = plane
        self._locate = locate
        self._node = node
        self._default_strategy = default_strategy
        self._namespaces = namespaces
        self._dirty: set[names.NamespacedName] = set()
        self._ports_of: dict[names.NamespacedName, tuple[names.ServicePortName, ...]] = {}
        self._entries: dict[names.ServicePortName, _Entry] = {}
        self._claims = claims.Claims()
        self._open: dict[endpoints.Backend, claims.Claim] = {}
        self._failed: dict[endpoints.Backend, str] = {}
        self._collisions: dict[endpoints.Backend, frozenset[claims.Claim]] = {}
        self._touched: dict[names.ServicePortName, None] = {}
        self.quarantined = 0
        """Services whose rules could not be computed: bugs, contained."""

    def mark(self, changed: Iterable[names.NamespacedName]) -> None:
        """These Services, or their endpoints, are not what they were."""
        if self._namespaces:
            changed = [name for name in changed if name.namespace in self._namespaces]
        self._dirty.update(changed)

    def mark_all(self) -> None:
        """Look at everything again at the next sync, and retry what could not be opened."""
        self.mark(self._reader.service_names())
        self.mark(self._ports_of)

    @property
    def has_failures(self) -> bool:
        """Whether some frontend could not be opened and should be retried."""
        return bool(self._failed)

    def sync(self) -> list[names.ServicePortName]:
        """`sync_steps`, all at once."""
        return at_once(self.sync_steps())

    def sync_steps(self) -> Steps:
        """Carry out what the dirty Services require. Must not run before the first lists are in.

        Yields between pieces of work of some 100 us; only one sync may be under way. Returns the
        service ports whose frontends may be in another state than when a sync last returned.

        A frontend that cannot be opened is reported and left for a later sync; it never keeps
        another one from being served.
        """
        yield from self._carry_out()
        return self._take_touched()

    def resync_steps(self, batch: int = RESYNC_BATCH) -> Steps:
        """Look at everything again, and retry what could not be opened, as `sync_steps` does.

        What becomes dirty meanwhile comes with the next batch, before all that is left.
        """
        everything = list({*self._reader.service_names(), *self._ports_of})
        for first in range(0, len(everything), batch):
            self.mark(everything[first : first + batch])
            yield from self._carry_out()
        return self._take_touched()

    def _carry_out(self) -> Generator[None, None, None]:
        """One sync. Should it meet a bug, what it has touched is told by the next."""
        dirty, self._dirty = self._dirty, set()
        plan = _Plan()
        yield from self._plan(dirty, plan)
        for address in plan.close:
            del self._open[address]
            self._plane.apply(forwarding.CloseFrontend(address))
            yield
        for message in plan.set_backends:
            yield from self._plane.steps(message)
            yield
        for address, claim in plan.open:
            self._open_frontend(address, claim)
            yield
        for name in plan.forget:
            self._plane.apply(forwarding.Forget(name))
            yield

    def _take_touched(self) -> list[names.ServicePortName]:
        touched, self._touched = self._touched, {}
        return sorted(touched)  # nearly in order already, which is why it is a dict

    def rules(self) -> dict[names.ServicePortName, forwarding.Rule]:
        """The rules in force, by service port."""
        return {name: entry.rule for name, entry in self._entries.items()}

    def in_force(self) -> list[forwarding.Rule]:
        """The rules in force: `rules().values()` at a twentieth of the cost."""
        return [entry.rule for entry in self._entries.values()]

    def frontends(self, name: names.ServicePortName) -> list[FrontendStatus]:
        """Where the frontends of a service port are."""
        entry = self._entries.get(name)
        return [self._status(entry.rule, f) for f in entry.rule.frontends] if entry else []

    def _plan(
        self, dirty: Iterable[names.NamespacedName], plan: _Plan
    ) -> Generator[None, None, None]:
        """Fill in `plan`, the effects by which `dirty` are made true."""
        touched: dict[endpoints.Backend, None] = {}
        for service in _by_name(dirty):
            try:
                self._plan_service(service, plan, touched)
            except Exception:
                self.quarantined += 1
                _log.exception("a bug keeps this Service as it was", service=str(service))
            yield
        for address in touched:
            winner = self._claims.winner(address)
            self._report_collisions(address, winner)
            self._touched.update((claim.name, None) for claim in self._claims.all(address))
            if winner is not None and not self._has_backends(winner):
                winner = None
            current = self._open.get(address)
            if current is not None and current != winner:
                plan.close.append(address)
            if winner is None:
                self._failed.pop(address, None)
            elif current != winner:
                plan.open.append((address, winner))
            yield

    def _has_backends(self, claim: claims.Claim) -> bool:
        """Without backends nobody listens: connections are refused, never accepted and closed."""
        return bool(self._entries[claim.name].rule.backends(claim.frontend.scope))

    def _plan_service(
        self,
        service: names.NamespacedName,
        plan: _Plan,
        touched: dict[endpoints.Backend, None],
    ) -> None:
        """Compute one Service anew: its claims at once, its effects into `plan`.

        Whatever may meet a bug comes first, so that a Service is changed as a whole or not at all.
        """
        found = self._reader.service(service)
        ruled = rules.rules_for(
            found, self._reader, node=self._node, default_strategy=self._default_strategy
        )
        created = found.created if found else ""
        desired = {name: self._entry(rule, created) for name, rule in ruled.items()}
        known = {name: self._entries[name] for name in self._ports_of.get(service, ())}
        if desired == known:
            # A resync meets little else: what is there stays, what is not open is tried.
            touched.update(self._not_open(known.values()))
            return
        for name in known:
            for address, claim in self._entries[name].claims:
                self._claims.withdraw(address, claim)
                touched[address] = None
            if name not in desired:
                del self._entries[name]
                plan.forget.append(name)
                self._touched[name] = None
        for name, entry in desired.items():
            for address, claim in entry.claims:
                self._claims.add(address, claim)
                touched[address] = None
            old = self._entries.get(name)
            self._entries[name] = entry
            self._touched[name] = None
            if old is None or _backends(old.rule) != _backends(entry.rule):
                plan.set_backends.append(_backends(entry.rule))
        if desired:
            self._ports_of[service] = tuple(desired)
        else:
            self._ports_of.pop(service, None)

    def _not_open(self, entries: Iterable[_Entry]) -> Iterable[tuple[endpoints.Backend, None]]:
        """The addresses that `entries` claim and do not have, whatever the reason."""
        for entry in entries:
            for address, claim in entry.claims:
                if self._open.get(address) != claim:
                    yield address, None

    def _entry(self, raw: forwarding.Rule, created: str) -> _Entry:
        """The entry for a rule of the objects: without loops, and with its claims."""
        loops = self._loops(raw)
        known = self._entries.get(raw.name)
        if loops - (known.loops if known else frozenset()):
            _log.warning(
                "endpoint is the Service's own address and was left out",
                service=str(raw.name),
                endpoints=[str(backend) for backend in sorted(loops)],
            )
        rule = replace(
            raw,
            cluster=tuple(b for b in raw.cluster if b not in loops),
            local=tuple(b for b in raw.local if b not in loops),
        )
        return _Entry(rule, tuple(self._wanted(rule, created)), loops)

    def _wanted(
        self, rule: forwarding.Rule, created: str
    ) -> Iterable[tuple[endpoints.Backend, claims.Claim]]:
        """The addresses a rule claims, with backends or without."""
        for frontend in rule.frontends:
            try:
                address = self._locate(frontend)
            except errors.PortalUnavailableError as error:
                self._report_unavailable(rule.name, frontend, str(error))
            else:
                yield address, claims.Claim(created, rule.name, frontend)

    def _loops(self, rule: forwarding.Rule) -> frozenset[endpoints.Backend]:
        """Backends that are the service port's own frontends: they would dial themselves."""
        own: set[endpoints.Backend] = set()
        for frontend in rule.frontends:
            own.add(endpoints.Backend(frontend.address, frontend.port))
            try:
                own.add(self._locate(frontend))
            except errors.PortalUnavailableError:
                continue
        return frozenset(own.intersection((*rule.cluster, *rule.local)))

    def _open_frontend(self, address: endpoints.Backend, claim: claims.Claim) -> None:
        message = forwarding.OpenFrontend(claim.name, claim.frontend, address)
        try:
            self._plane.apply(message)
        except OSError as error:
            reason = error.strerror or str(error)
            if self._failed.get(address) != reason:
                _log.error(
                    "cannot listen, will retry",
                    service=str(claim.name),
                    address=str(address),
                    reason=reason,
                )
            self._failed[address] = reason
        else:
            self._failed.pop(address, None)
            self._open[address] = claim

    def _report_collisions(self, address: endpoints.Backend, winner: claims.Claim | None) -> None:
        """Say once who does not get an address, and who has it."""
        known = self._collisions.pop(address, frozenset())
        if winner is None:
            return
        losers = [
            claim
            for claim in self._claims.losers(address)
            if not _is_served(claim.name, claim.frontend, winner)
        ]
        for claim in losers:
            if claim not in known:
                _log.error(
                    "address is taken by another Service, this one is not served on it",
                    service=str(claim.name),
                    address=f"{claim.frontend.address}:{claim.frontend.port}",
                    bound=str(address),
                    owner=str(winner.name),
                )
        if losers:
            self._collisions[address] = frozenset(losers)

    def _report_unavailable(
        self, name: names.ServicePortName, frontend: forwarding.Frontend, reason: str
    ) -> None:
        known = self._entries.get(name)
        if known is None or frontend not in known.rule.frontends:
            _log.error("frontend is not served", service=str(name), reason=reason)

    def _status(self, rule: forwarding.Rule, frontend: forwarding.Frontend) -> FrontendStatus:
        try:
            address = self._locate(frontend)
        except errors.PortalUnavailableError as error:
            return FrontendStatus(frontend, None, "unavailable", str(error))
        winner = self._claims.winner(address)
        if winner is not None and not _is_served(rule.name, frontend, winner):
            return FrontendStatus(
                frontend, address, "collision", f"{address} belongs to {winner.name}"
            )
        if not rule.backends(frontend.scope):
            return FrontendStatus(frontend, address, "no-endpoints", "connections are refused")
        if address in self._open:
            return FrontendStatus(frontend, address, "bound")
        detail = self._failed.get(address, "about to be opened")
        return FrontendStatus(frontend, address, "unavailable", detail)


def at_once(steps: Steps) -> list[names.ServicePortName]:
    """Take all steps of a sync, and return what it does."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            changed: list[names.ServicePortName] = done.value
            return changed


def _by_name(dirty: Iterable[names.NamespacedName]) -> list[names.NamespacedName]:
    """As `sorted` would, in two thirds of the time: strings compare faster than tuples do."""
    by_name = sorted(dirty, key=operator.attrgetter("name"))
    return sorted(by_name, key=operator.attrgetter("namespace"))


def _backends(rule: forwarding.Rule) -> forwarding.SetBackends:
    return forwarding.SetBackends(rule.name, rule.policy, rule.cluster, rule.local)


def _is_served(
    name: names.ServicePortName, frontend: forwarding.Frontend, winner: claims.Claim
) -> bool:
    """Whether `frontend` of `name` is served by who has its address: itself or its like.

    A Service may have one address twice, as an external IP and from its load balancer.
    """
    return winner.name == name and winner.frontend.scope is frontend.scope
