"""Watcher: what the API and the log are told of Gateways and routes, kept true.

Level-triggered: shortly after a change the statuses of everything are made of the objects of the
moment, in slices, and compared with those before. It rests for longer than it works.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import structlog

from kproxy import turns
from kproxy.gateway import attaching, planner, state, statuses
from kproxy.model import names, steps
from kproxy.model.kinds.gateway import references, routes
from kproxy.sources import source, store

_log = structlog.get_logger(__name__)

PAUSE_SECONDS = 0.2
"""Seconds from a change until it is looked at, with all those that have come meanwhile."""

REST = 5.0
"""It rests for so many times as long as it has worked."""

_STRIDE = 16
"""Routes of which the status is made between two pauses: each may have 16 backends."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is new: statuses, and what this proxy has no say in any more."""

    statuses: state.Statuses
    gone: frozenset[state.Key] = frozenset()

    def __bool__(self) -> bool:
        """Whether anything is new."""
        return bool(self.statuses or self.gone)


def changes_in_steps(before: state.Statuses, now: state.Statuses) -> Generator[None, None, Change]:
    """What is new since `before`."""
    changed: dict[state.Key, statuses.Status] = {}
    for run in steps.runs(now.items(), _STRIDE):
        changed.update((key, each) for key, each in run if before.get(key) != each)
        yield
    gone: set[state.Key] = set()
    for keys in steps.runs(before, _STRIDE):
        gone.update(key for key in keys if key not in now)
        yield
    return Change(changed, frozenset(gone))


def statuses_in_steps(
    gateways: planner.Gateways, frontends_of: statuses.FrontendsOf
) -> Generator[None, None, dict[state.Key, statuses.Status]]:
    """The statuses of everything that this proxy has a say in."""
    made: dict[state.Key, statuses.Status] = {}
    known = gateways.gateway_class()
    if known is not None and known.controller == references.CONTROLLER:
        made[known.kind, known.name] = statuses.of_class(known)
    verdicts: dict[state.Key, dict[routes.Parent, attaching.Verdict]] = {}
    found: dict[state.Key, routes.Route] = {}
    for gateway in gateways.served():
        wanting: list[routes.Route] = []
        for run in steps.runs(gateways.routes_of(references.of_gateway(gateway.name))):
            wanting += run
            yield
        attached = yield from attaching.attach_in_steps(
            gateway, wanting, gateways.labels_of, has_verdicts=True
        )
        made[gateway.kind, gateway.name] = statuses.of_gateway(gateway, attached, frontends_of)
        for run in steps.runs(wanting):
            found.update(((each.kind, each.name), each) for each in run)
            yield
        # What is used up is let go at once: at the end it would be one long step.
        while attached.verdicts:
            (kind, name, parent), verdict = attached.verdicts.popitem()
            attached.places.popitem()
            verdicts.setdefault((kind, name), {})[parent] = verdict
            if len(attached.verdicts) % _STRIDE == 0:
                yield
    while verdicts:
        key, of_route = verdicts.popitem()
        route = found.pop(key)
        resolved = yield from gateways.resolved_in_steps(route)
        made[key] = statuses.of_route(route, of_route, resolved)
        if len(verdicts) % _STRIDE == 0:
            yield
    return made


class Watcher:
    """Follows `read` from `run` on, and takes the steps of `hear` with what is new.

    `shown` is kept true of it.

    `frontends_of` says where the proxier has opened a listener.
    """

    def __init__(
        self,
        read: source.Source,
        gateways: planner.Gateways,
        frontends_of: statuses.FrontendsOf,
        hear: Callable[[Change], Generator[None, None, None]],
        shown: state.GatewayState,
    ) -> None:
        self._read = read
        self._gateways = gateways
        self._frontends_of = frontends_of
        self._hear = hear
        self._shown = shown
        self._changed = asyncio.Event()
        self._turns = turns.Turns()
        self._services: dict[names.NamespacedName, object] = {}
        gateways.follow(self.look)
        self._subscription = read.store.subscribe(self._on_change)

    def look(self) -> None:
        """Look at everything soon."""
        self._changed.set()

    def close(self) -> None:
        """Follow no more."""
        self._subscription.cancel()

    async def run(self) -> None:
        """Keep the statuses true, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(PAUSE_SECONDS)
            self._changed.clear()
            if not self._read.has_synced:
                continue
            began = time.monotonic()
            try:
                await self._look()
            except Exception:
                _log.exception("internal error: the statuses of Gateways stay as they were")
            await asyncio.sleep(REST * (time.monotonic() - began))

    async def _look(self) -> None:
        found = await self._turns.result(statuses_in_steps(self._gateways, self._frontends_of))
        change = await self._turns.result(changes_in_steps(self._shown.statuses, found))
        if change:
            await self._turns.result(self._take(change, found))

    def _take(self, change: Change, found: state.Statuses) -> Generator[None, None, None]:
        before, self._shown.statuses = self._shown.statuses, found
        for run in steps.runs(change.statuses):
            self._shown.counts.update(kind for kind, name in run if (kind, name) not in before)
            yield
        for run in steps.runs(change.gone):
            self._shown.counts.subtract(kind for kind, _ in run)
            yield
        yield from self._hear(change)

    def _on_change(self, dirty: store.Dirty) -> None:
        """Look if one of these is a Gateway, or a Service that is another one for routes now.

        What becomes of endpoints does not matter.
        """
        for name in dirty:
            if not name.is_of_service:
                self._changed.set()
            elif self._gateways.has_routes(name):
                service = self._read.store.service(name)
                if self._services.get(name) is not service:
                    self._changed.set()
                self._services[name] = service
            else:
                self._services.pop(name, None)
        if self._read.has_synced and not self._shown.statuses:
            self._changed.set()
