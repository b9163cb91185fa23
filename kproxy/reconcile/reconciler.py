"""From a change in the Store to the data plane: mark, wait for the turn, sync, report.

Every Service event takes this way and ends in the data plane.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from kproxy.model import names
from kproxy.model.kinds import node_kind, service_cidr_kind
from kproxy.plane import plane as planes
from kproxy.portal import budget
from kproxy.reconcile import garbage, proxier, report, runner
from kproxy.reconcile.planning import rules, work
from kproxy.sources import source


class SyncRecord(Protocol):
    """Notes when syncs are asked for and done; health and metrics are made of it."""

    def queue(self) -> None:
        """A sync has been requested."""

    def sync(self) -> AbstractContextManager[None]:
        """Surrounds a sync. If the sync raises, its request stays pending."""

    def note_leaving(self, *, is_leaving: bool) -> None:
        """Note whether the node is about to be deleted."""


class Reconciler:
    """Makes what is open equal to what a source says, while `run` runs.

    `before_full_sync` is called before every periodic look at everything. `beside` plans what is
    not a Service and served like one. The source and the data plane stay the caller's.
    """

    def __init__(
        self,
        read: source.Source,
        plane: planes.Forwarder,
        options: rules.Options,
        syncs: SyncRecord,
        *,
        namespaces: frozenset[str] = frozenset(),
        room: budget.Budget | None = None,
        before_full_sync: Callable[[], None] = lambda: None,
        beside: work.Planner | None = None,
    ) -> None:
        self._source = read
        self._syncs = syncs
        self._before_full_sync = before_full_sync
        self._has_looked = False
        self.proxier = proxier.Proxier(
            read.store,
            plane,
            options,
            namespaces=namespaces,
            room=room,
            on_answer=self._on_answer,
            beside=beside,
        )
        self._beside = beside
        self._is_beside_due = False
        self._changed: set[names.NamespacedName] = set()
        self.reporter = report.Reporter(self.proxier.frontends)
        self.runner = runner.Runner(self._sync, self._full_sync, lambda: self.proxier.has_failures)
        self.is_served = asyncio.Event()
        """Set once everything that the first sync opened is open, or has failed."""
        read.store.subscribe(self._on_change)
        self._zone = options.zone
        self._node = node_kind.KIND.key(options.node)
        read.store.watch(node_kind.KIND, self._follow_node)
        self._portal = options.portal
        self._are_ranges_due = False
        read.store.watch(service_cidr_kind.KIND, self._follow_ranges)
        if beside is not None:
            beside.follow(self._follow_beside)

    async def run(self) -> None:
        """Sync on change and periodically, until cancelled."""
        await self.runner.run()

    def look_again(self) -> None:
        """Request a full sync although no object has changed."""
        self._on_change(frozenset())
        self.runner.request_full()

    def _on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        """The source's Store has changed. Nothing is opened before it is complete once."""
        if not self._source.has_synced:
            return
        if self._has_looked:
            self.proxier.mark(changed)
            if self._beside is not None:
                self._changed.update(changed)
        else:
            self.proxier.mark_all()
            self._has_looked = True
        self._syncs.queue()
        self.runner.request()

    def _follow_node(self) -> None:
        """The Node of this proxy may have changed. A zone that the operator gives stays."""
        found = self._source.store.get(node_kind.KIND, self._node)
        self._syncs.note_leaving(is_leaving=found is not None and found.is_leaving)
        if not self._zone and self.proxier.place(found.zone if found else ""):
            self.look_again()

    def _follow_ranges(self) -> None:
        """A ServiceCIDR has changed. The next sync heeds all of them."""
        self._are_ranges_due = True
        if self._source.has_synced:
            self.runner.request()

    def _follow_beside(self) -> None:
        """What is not a Service may have to be planned anew, all of it."""
        self._is_beside_due = True
        if self._source.has_synced:
            self.runner.request()

    def _on_answer(self) -> None:
        """The data plane has answered after the sync that asked."""
        self.runner.request()

    def _full_sync(self) -> Iterator[None]:
        self._before_full_sync()
        if self._source.has_synced:
            yield from self._carry_out(self.proxier.resync_steps())

    def _sync(self) -> Iterator[None]:
        yield from self._carry_out(self.proxier.sync_steps())

    def _mark_beside(self, beside: work.Planner) -> Iterator[None]:
        """Mark what is not a Service and depends on something that has changed."""
        changed, self._changed = self._changed, set()
        is_due, self._is_beside_due = self._is_beside_due, False
        if is_due:
            yield from self.proxier.mark_beside()
        else:
            self.proxier.mark((yield from beside.concerned(changed)))

    def _carry_out(self, steps: proxier.Steps) -> Iterator[None]:
        if self._are_ranges_due:
            self._are_ranges_due = False
            known = self._source.store.all(service_cidr_kind.KIND).values()
            yield from self._portal.take_ranges(
                [network for each in known for network in each.networks]
            )
        if self._beside is not None:
            yield from self._mark_beside(self._beside)
        with garbage.collector_waits():
            with self._syncs.sync():
                changed = yield from steps
            yield from self.reporter.report(changed)
        if not self.is_served.is_set() and not self.proxier.opening:
            garbage.keep_what_exists()  # it lives as long as the process
            self.is_served.set()
