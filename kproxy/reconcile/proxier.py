"""The Proxier makes what is open equal to what the objects say.

Level-triggered. What is pending is a set of dirty Service names and nothing else; their rules are
computed from the objects of the moment, so an add and a delete in between cancel by themselves,
and any history of events ends in the same state as a fresh start from the final objects.

The order of effects, over everything that is dirty at once:

1. close the frontends that are not wanted, or that another service port now owns;
2. set backends and policies. An open frontend that is to take fewer clients' connections does so
   before, one that is to take more does so after;
3. open the frontends that are wanted;
4. forget the service ports that are gone.

Backends come before the portal opens, so that no client is accepted with nowhere to go
(kube-proxy's `mergeService` had it the other way round), and the portal closes before the
balancer forgets. All closing comes before any opening, so that two ports can swap their numbers,
an address can change hands in one sync, and the budget of listeners is never exceeded.

A sync of thousands of Services, or of one with thousands of ports, is a long computation on a
thread that also relays bytes. It is therefore taken in steps (`sync_steps`), between which others
run. Objects that change in the meantime are dirty again, and the next sync handles them. A look at
everything (`resync_steps`) is many small syncs, so that such a change does not wait for its end. A
Service whose objects are the same as last time costs one comparison.
"""

import itertools
import operator
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import TypeAlias

import msgspec
import structlog

from kproxy.model import forwarding, names, steps
from kproxy.plane import plane as planes
from kproxy.portal import budget, claims
from kproxy.reconcile import collisions, effects, entries, statuses
from kproxy.reconcile.planning import placing, rules, work

_log = structlog.get_logger(__name__)

RESYNC_BATCH = 50
"""Services in each of the syncs that a resync is made of."""

_STRIDE = 128
"""Claims or ports looked at between two pauses."""

_AT_ONCE = 8
"""Addresses settled between two pauses: some 50 us."""

_STATES = forwarding.FrontendState

_PortPlan: TypeAlias = rules.PortPlan

Steps: TypeAlias = Generator[None, None, list[names.ServicePortName]]
"""A sync in steps; in the end, the service ports whose frontends may be in another state."""

_Snapshot: TypeAlias = tuple[object, ...]
"""The objects that the rules of a Service were made of."""


class _Touched(msgspec.Struct, gc=False):
    """How the claims of one address have changed since `_settle_claims` last ran for it."""

    winner: claims.Claim | None
    added: list[claims.Claim]


_TouchedAddresses: TypeAlias = dict[forwarding.PortalAddress, _Touched | None]


class Proxier:
    """Keeps a data plane equal to the objects that `reader` shows.

    Only Services in `namespaces` are served, or all when that is empty. `room` bounds the
    listeners; it is the proxier's from now on. `on_answer` is called when the data plane answers
    after the sync that asked: the next sync returns the service port. `beside` plans what is not
    a Service and served like one.
    """

    def __init__(
        self,
        reader: rules.ObjectReader,
        plane: planes.Forwarder,
        options: rules.Options,
        *,
        namespaces: frozenset[str] = frozenset(),
        room: budget.Budget | None = None,
        on_answer: Callable[[], None] = lambda: None,
        beside: work.Planner | None = None,
    ) -> None:
        self._reader = reader
        self._beside = beside
        self._plane = plane
        self._on_answer = on_answer
        self._executor = effects.Executor(plane, options.portal, self._hear)
        self._book = self._executor.book
        self._options = options
        self._portal = options.portal
        self._near: tuple[str, ...] = ()
        self._namespaces = namespaces
        self._budget = room or budget.Budget()
        self._dirty: set[names.NamespacedName] = set()
        self._made_of: dict[names.NamespacedName, _Snapshot] = {}
        self._ports_of: dict[names.NamespacedName, tuple[names.ServicePortName, ...]] = {}
        self._entries: dict[names.ServicePortName, entries.Entry] = {}
        self._claims = claims.Claims()
        self._is_retry_due = False
        self._left = effects.Effects()
        self._collisions = collisions.Collisions()
        self._touched: dict[names.ServicePortName, None] = {}
        self.quarantined = 0
        """Services whose rules could not be computed: bugs, contained."""

    def mark(self, changed: Iterable[names.NamespacedName]) -> None:
        """Mark Services as dirty: they or their endpoints have changed."""
        if self._namespaces:
            changed = [name for name in changed if name.namespace in self._namespaces]
        self._dirty.update(changed)

    def place(self, zone: str) -> bool:
        """Set the node's zone. True if it has changed: the caller must then run a full sync."""
        is_news = zone != self._options.zone
        if is_news:
            self._options = replace(self._options, zone=zone)
        return is_news

    def mark_all(self) -> None:
        """Recompute every Service at the next sync, and retry failed frontends."""
        self.mark(self._reader.service_names())
        self.mark(self._ports_of)
        if self._beside is not None:
            self.mark(self._beside.everything())
        self._is_retry_due = True

    def mark_beside(self) -> Generator[None, None, None]:
        """Mark as dirty what is not a Service, in steps."""
        if self._beside is not None:
            for run in steps.runs(self._beside.everything()):
                self.mark(run)
                yield

    @property
    def portal(self) -> str:
        """The portal, with the kernel mechanism that it uses, as text for people."""
        return self._portal.description

    @property
    def has_failures(self) -> bool:
        """Whether some frontend could not be opened and should be retried."""
        return self._executor.has_failures

    @property
    def options(self) -> rules.Options:
        """The options that hold for all Services."""
        return self._options

    @property
    def budget(self) -> budget.Budget:
        """The budget of listeners, to read."""
        return self._budget

    @property
    def listening(self) -> int:
        """How many frontends are open."""
        return self._book.open

    @property
    def opening(self) -> int:
        """How many frontends the data plane was asked to open and has not answered for."""
        return self._book.opening

    def sync(self) -> list[names.ServicePortName]:
        """`sync_steps`, all at once."""
        return steps.at_once(self.sync_steps())

    def sync_steps(self) -> Steps:
        """Carry out what the dirty Services require. Must not run before the first lists are in.

        Yields between pieces of work of some 100 us; only one sync may be under way. Returns the
        service ports whose frontends may be in another state than when a sync last returned. Those
        that the data plane has not answered for come with a later sync.

        A frontend that cannot be opened is reported and left for a later sync; it never keeps
        another one from being served.
        """
        yield from self._carry_out()
        return (yield from self._take_touched())

    def resync_steps(self, batch: int = RESYNC_BATCH) -> Steps:
        """Recompute every Service and retry failed frontends, in steps as `sync_steps` does.

        Services that become dirty meanwhile are in the next batch, before the remaining ones.
        """
        everything = {*self._reader.service_names(), *self._ports_of}
        if self._beside is not None:
            for run in steps.runs(self._beside.everything()):
                everything.update(run)
                yield
        self._is_retry_due = True
        listed = list(everything)
        for first in range(0, max(len(listed), 1), batch):
            self.mark(listed[first : first + batch])
            yield from self._carry_out()
        return (yield from self._take_touched())

    def _carry_out(self) -> Generator[None, None, None]:
        """Run one sync. If it raises, the next successful sync reports what it changed."""
        dirty, self._dirty = self._dirty, set()
        is_retry_due, self._is_retry_due = self._is_retry_due, False
        waiting = self._book.failed if is_retry_due else []
        left, self._left = self._left, effects.Effects()
        plan = effects.Effects()
        self._follow_node()
        try:
            yield from self._plan(dirty, plan, left)
            yield from self._executor.carry_out(plan)
        finally:
            self._left = plan
        for name in self._executor.retry(waiting, self._budget):
            self._touched[name] = None
            yield

    def _follow_node(self) -> None:
        """Tell the data plane which clients are on this node, if that has changed."""
        near = self._portal.node.near
        if near != self._near:
            self._near = near
            self._plane.send(forwarding.SetNear(near))

    def _take_touched(self) -> Steps:
        touched, self._touched = self._touched, {}
        if self._book.opening:
            # Their state is known with the answer, which touches them again.
            for count, name in enumerate(list(touched), 1):
                if self._book.is_opening(name):
                    del touched[name]
                if count % _STRIDE == 0:
                    yield
        # Nearly in order already, which is why it is a dict.
        return (yield from steps.sorted_in_steps(touched))

    def rules(self) -> dict[names.ServicePortName, forwarding.Rule]:
        """The rules in force, by service port."""
        return {rule.name: rule for rule in self.in_force()}

    def in_force(self) -> list[forwarding.Rule]:
        """The rules in force: those of the service ports that are for this proxy."""
        return [each.plan.rule for each in self._entries.values() if each.plan.is_served]

    def known(self) -> list[_PortPlan]:
        """The plan of every service port, whether it is for this proxy or not."""
        return [each.plan for each in self._entries.values()]

    def of_service(self, service: names.NamespacedName) -> list[_PortPlan]:
        """As `known`, of one Service; empty for one that is not known."""
        return [self._entries[each].plan for each in self._ports_of.get(service, ())]

    def frontends(self, name: names.ServicePortName) -> list[statuses.FrontendStatus]:
        """Where the frontends of a service port are."""
        entry = self._entries.get(name)
        if entry is None:
            return []
        plan = entry.plan
        parts = self._claims, self._budget, self._book
        return [statuses.of_place(plan, place, *parts) for place in plan.places]

    def locate(
        self, name: names.ServicePortName, frontend: forwarding.Frontend
    ) -> forwarding.PortalAddress | None:
        """Where clients reach `frontend` of a service port, which may not be known yet.

        None where the portal has no place for it, or another service port has that place: a client
        must not be led to another Service's endpoints. Whether anything listens does not matter.
        """
        if frontend.family not in self._portal.families:
            return None
        address = placing.located(frontend, self._portal).address
        if address is None:
            return None
        winner = self._claims.winner(address)
        if winner is not None and not collisions.is_served(name, frontend, winner):
            return None
        return address

    def _plan(
        self, dirty: Iterable[names.NamespacedName], plan: effects.Effects, left: effects.Effects
    ) -> Generator[None, None, None]:
        """Add to `plan` the effects that the `dirty` Services require.

        `left` are effects that a bug has kept the last sync from carrying out.
        """
        for message in left.set_backends:
            entry = self._entries.get(message.name)
            if entry is not None and (now := entry.backends) is not None:
                plan.set_backends.append(now)
        for update in left.set_local_endpoints:
            entry = self._entries.get(update.name)
            if entry is not None and (known := entry.local_endpoints) is not None:
                plan.set_local_endpoints.append(forwarding.SetLocalEndpoints(update.name, known))
        plan.forget.extend(name for name in left.forget if name not in self._entries)
        touched: _TouchedAddresses = {}
        for service in (yield from steps.sorted_in_steps(dirty)):
            try:
                yield from self._plan_service(service, plan, touched)
            except Exception:
                self.quarantined += 1
                _log.exception("internal error: Service left unchanged", service=str(service))
            yield
        for count, (address, change) in enumerate(touched.items(), 1):
            if change is not None:
                yield from self._settle_claims(address, change)
            # Releasing thousands of them at the end would be one long step.
            touched[address] = None
            if count % _AT_ONCE == 0:
                yield
        regranted = yield from self._budget.settle()
        undecided = itertools.chain(regranted, left.close, (address for address, _ in left.open))
        others = (address for address in undecided if address not in touched)
        for count, address in enumerate(itertools.chain(touched, others), 1):
            self._decide(address, plan)
            if count % _AT_ONCE == 0:
                yield

    def _settle_claims(
        self, address: forwarding.PortalAddress, change: _Touched
    ) -> Generator[None, None, None]:
        """Decide which claim has `address` now, and whether it needs a listener."""
        winner = self._claims.winner(address)
        if winner is not None:
            self._touched[winner.name] = None
        if (winner is None) != (change.winner is None):
            follow = self._portal.claim if winner is not None else self._portal.withdraw
            follow(address)
        if winner == change.winner:
            candidates = change.added
        else:
            candidates = self._claims.losers(address)
            for count, claim in enumerate(candidates, 1):
                self._touched[claim.name] = None
                if count % _STRIDE == 0:
                    yield
        if candidates:
            yield from self._collisions.report(address, winner, candidates)
        elif winner is not None:
            self._collisions.forget(address, winner)
        if winner is not None and self._needs_listener(winner):
            self._budget.want(address, winner, is_free=self._shares_listener(address, winner))
        else:
            self._budget.drop(address)

    def _decide(self, address: forwarding.PortalAddress, plan: effects.Effects) -> None:
        """Add the effects that open, close or re-admit `address`, if any is needed."""
        wanted = self._budget.granted(address)
        current = self._book.claim(address)
        if current is not None and current != wanted:
            plan.close.append(address)
        if wanted is None:
            self._executor.give_up(address)
        elif current != wanted:
            plan.open.append((address, wanted))
        elif current.admitted != wanted.admitted:
            # What drops for the lack of backends has none to give clients to, then or before.
            drops = self._fate(wanted) is _STATES.DROPPED
            changed = plan.narrow if drops else plan.widen
            changed.append(forwarding.Admit(address, wanted.admitted))
        winner = wanted or self._claims.winner(address)
        if winner is not None:
            self._touched[winner.name] = None

    def _needs_listener(self, claim: claims.Claim) -> bool:
        """Without endpoints nothing listens: connections are refused, not accepted and closed."""
        return self._fate(claim) is not _STATES.NO_ENDPOINTS

    def _fate(self, claim: claims.Claim) -> forwarding.FrontendState:
        """How the frontend of a known claim treats its clients."""
        return self._entries[claim.name].plan.rule.fate(claim.frontend)

    def _plan_service(
        self,
        service: names.NamespacedName,
        plan: effects.Effects,
        touched: _TouchedAddresses,
    ) -> Generator[None, None, None]:
        """Compute one Service anew, its effects into `plan`.

        The steps that could raise come first, so that a Service is changed as a whole or not at
        all.
        """
        if self._beside is None or service.is_of_service:
            asked = work.of_service(self._reader, service, self._options)
        else:
            asked = yield from self._beside.read(service, self._options)
        snapshot = (self._portal.node, self._options, *asked.objects)
        if _are_same(snapshot, self._made_of.get(service, (None,))):
            return
        planned = yield from asked.plans
        known = self._ports_of.get(service, ())
        changed: dict[names.ServicePortName, entries.Entry | None] = {}
        for count, name in enumerate(known, 1):
            if name not in planned:
                changed[name] = None
            if count % _STRIDE == 0:
                yield
        for count, (name, each) in enumerate(planned.items(), 1):
            entry, old = entries.Entry(each, asked.created), self._entries.get(name)
            if old != entry:
                changed[name] = entry
                if each.loops:
                    self._report_loops(each, old.plan if old else None)
            if count % _STRIDE == 0:
                yield
        for name, new in changed.items():
            self._replace(name, new, plan, touched)
            yield
        if planned:
            self._ports_of[service] = tuple(planned)
        else:
            self._ports_of.pop(service, None)
        if asked.objects:
            self._made_of[service] = snapshot
        else:
            self._made_of.pop(service, None)

    def _replace(
        self,
        name: names.ServicePortName,
        new: entries.Entry | None,
        plan: effects.Effects,
        touched: _TouchedAddresses,
    ) -> None:
        """Replace the entry of a service port by `new`."""
        self._touched[name] = None
        old = self._entries.pop(name, None)
        for address, claim in old.claims() if old else ():
            self._touch(address, touched)
            self._claims.withdraw(address, claim)
            self._collisions.forget(address, claim)
        if new is not None:
            self._entries[name] = new
            for address, claim in new.claims():
                self._touch(address, touched).added.append(claim)
                self._claims.add(address, claim)
        before = old.backends if old is not None else None
        after = new.backends if new is not None else None
        if after is None and before is not None:
            plan.forget.append(name)
        elif after is not None and before != after:
            plan.set_backends.append(after)
        counts = new.local_endpoints if new is not None else None
        if counts is not None and (old is None or counts != old.local_endpoints):
            plan.set_local_endpoints.append(forwarding.SetLocalEndpoints(name, counts))

    def _touch(self, address: forwarding.PortalAddress, touched: _TouchedAddresses) -> _Touched:
        """The change of `address`, before any of its claims is changed."""
        change = touched.get(address)
        if change is None:
            change = touched[address] = _Touched(self._claims.winner(address), [])
        return change

    def _shares_listener(self, address: forwarding.PortalAddress, claim: claims.Claim) -> bool:
        """Whether a frontend costs no listener of its own."""
        is_health_check = claim.frontend.kind is forwarding.FrontendKind.HEALTH_CHECK
        return not is_health_check and self._portal.shares(address)

    def _hear(self, name: names.ServicePortName, is_retry_due: bool) -> None:  # noqa: FBT001
        """Note an answer about a frontend."""
        self._touched[name] = None
        self._is_retry_due = self._is_retry_due or is_retry_due
        self._on_answer()

    def _report_loops(self, plan: _PortPlan, known: _PortPlan | None) -> None:
        if plan.loops - (known.loops if known else frozenset()):
            _log.warning(
                "endpoint is the Service's own address and was left out",
                service=str(plan.rule.name),
                endpoints=[str(backend) for backend in sorted(plan.loops)],
            )


def _are_same(one: _Snapshot, other: _Snapshot) -> bool:
    """Whether two snapshots are of the very same objects: comparing large ones takes long."""
    return len(one) == len(other) and all(map(operator.is_, one, other))
