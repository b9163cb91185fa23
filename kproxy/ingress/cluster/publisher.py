"""Publisher: writes back to an API server where Ingresses are reached, and what is wrong with them.

Several proxies may serve the same Ingresses, each at its own address, and none of them leads: each
adds its address to the list in an Ingress's status where it is missing, and takes it out again at
its end. So they agree, whatever the order of their writes. Only what differs is written. One that
was killed leaves its address there: the next one on its host takes it out (`record`).

Without the rights, Ingresses are served all the same: one line says which right is missing.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from kproxy.ingress import state, table
from kproxy.ingress.cluster import record
from kproxy.model import addresses, admission, names
from kproxy.model.kinds.ingress import ingress_kind, ingresses
from kproxy.sources import store
from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress

MOST_WAITING = 100
"""Events that wait to be written; of more the oldest are dropped, and stay in the log."""

EVENTS_AT_ONCE = 25
EVENT_SECONDS = 1.0
"""Seconds until one more Event may be written, once as many as `EVENTS_AT_ONCE` were."""

MOST_FAILURES = 3
"""So many writes that fail end a pass: what is wrong is probably not one Ingress."""

PAUSE_SECONDS = 0.1
"""Seconds from a change until it is written, with all that have come meanwhile."""

_COMPONENT = "kproxy-ingress"
_MOST_NAME = 200
_MOST_MESSAGE = 1024
_GRANT = (
    "kubectl create clusterrole kproxy-ingress-writer "
    "--verb=patch,create --resource=ingresses.networking.k8s.io/status,events"
)

_log = structlog.get_logger(__name__)


class Publisher:
    """Writes by the clients that `api` makes, from `run` on.

    `own` gives the addresses at which nginx is reached now. What is in force is read from `shown`,
    and what is published already from `known`. `kept` records what is written.
    """

    def __init__(
        self,
        api: Callable[[], AbstractAsyncContextManager[writing.Api]],
        known: store.Store,
        shown: state.IngressState,
        own: Callable[[], Sequence[str]],
        kept: record.Record,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._known = known
        self._shown = shown
        self._own = own
        self.record = kept
        """What this proxy has written, and killed ones before it."""
        self._wall = wall
        self._own_before: frozenset[str] = frozenset()
        self._gone: set[str] = set()
        self._due = asyncio.Event()
        self._has_events = asyncio.Event()
        self._events: deque[table.Problem] = deque(maxlen=MOST_WAITING)
        self._written: dict[names.NamespacedName, ingresses.Ingress] = {}
        self._said: set[str] = set()
        self._is_ending = False
        known.watch(ingress_kind.KIND, self.look)

    def look(self) -> None:
        """What is in force may have changed, or what is published."""
        self._due.set()

    def note(self, problem: table.Problem) -> None:
        """Write an Event about a problem of an Ingress, in time."""
        self._events.append(problem)
        self._has_events.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        async with self._api() as api, asyncio.TaskGroup() as group:
            publishing = writing.keep_trying(
                self._due, lambda: self._publish_all(api), PAUSE_SECONDS
            )
            group.create_task(publishing, name="status of Ingresses")
            group.create_task(self._write_events(api), name="Events of Ingresses")

    async def withdraw(self, seconds: float) -> None:
        """Take our addresses out of every status, as far as `seconds` allow. Publish no more."""
        self._is_ending = True
        own = {*self._own(), *self._own_before, *self._gone, *self.record.earlier}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._api() as api:
                for each in self._served():
                    others = tuple(entry for entry in each.published if entry not in own)
                    if others != each.published and not await self._patch(api, each, others):
                        return

    def _served(self) -> list[ingresses.Ingress]:
        """The Ingresses that are in force, as the API server last had them."""
        found = (self._known.get(ingress_kind.KIND, name) for name in sorted(self._shown.served))
        return [each for each in found if each is not None]

    async def _publish_all(self, api: writing.Api) -> bool:
        """Add our addresses where they are missing; returns whether that was possible.

        Those that were ours and are not any more are taken out, in one pass: another proxy that has
        one of them may add it again.
        """
        own = tuple(self._own())
        self._gone |= self._own_before | self.record.earlier
        self.record.earlier.clear()
        self._gone -= set(own)
        self._own_before = frozenset(own)
        self.record.note({*own, *self._gone})
        served = self._served()
        present = {each.name for each in served}
        self._written = {name: at for name, at in self._written.items() if name in present}
        failures, is_complete = 0, bool(self._shown.version)
        for each in served:
            others = tuple(entry for entry in each.published if entry not in self._gone)
            wanted = others + tuple(entry for entry in own if entry not in others)
            # The API server has not shown the effect of the last write yet.
            is_written = self._written.get(each.name) is each
            is_complete = is_complete and not is_written
            if wanted == each.published or is_written or self._is_ending:
                continue
            if await self._patch(api, each, wanted):
                self._written[each.name] = each
            else:
                failures += 1
            if failures >= MOST_FAILURES:
                break
        if is_complete and not failures:
            self._gone.clear()
            self.record.note(own)
        return not failures

    async def _patch(
        self, api: writing.Api, ingress: ingresses.Ingress, published: Sequence[str]
    ) -> bool:
        entries = [{_sort(entry): entry} for entry in published]
        body = {"status": {"loadBalancer": {"ingress": entries or None}}}
        written = client.Write("PATCH", msgspec.json.encode(body), writing.MERGE_PATCH)
        collection = ingress_kind.KIND.collection
        for version in collection.versions:
            path = f"{collection.path(version, ingress.name.namespace)}/{ingress.name.name}/status"
            outcome = await self._write(api, path, written, "patch", f"{collection.plural}/status")
            if outcome is not progress.Outcome.NOT_FOUND:
                return outcome is None
        return True  # it is gone

    async def _write_events(self, api: writing.Api) -> None:
        clock = asyncio.get_running_loop().time
        room, at = float(EVENTS_AT_ONCE), clock()
        while True:
            await self._has_events.wait()
            now = clock()
            room, at = min(room + (now - at) / EVENT_SECONDS, EVENTS_AT_ONCE), now
            if room < 1:
                await asyncio.sleep(EVENT_SECONDS)
                continue
            problem = self._events.popleft()
            if not self._events:
                self._has_events.clear()
            ingress = self._known.get(ingress_kind.KIND, problem.ingress)
            if ingress is None:
                continue
            room -= 1
            path = f"/api/v1/namespaces/{problem.ingress.namespace}/events"
            written = client.Write("POST", msgspec.json.encode(self._event(ingress, problem)))
            if await self._write(api, path, written, "create", "events") is not None:
                await asyncio.sleep(writing.FIRST_WAIT)  # the problem is in the log

    def _event(self, ingress: ingresses.Ingress, problem: table.Problem) -> dict[str, Any]:
        name, moment = ingress.name, writing.timestamp(self._wall())
        is_note = problem.severity is admission.Severity.NOTE
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{name.name[:_MOST_NAME]}.{secrets.token_hex(8)}",
                "namespace": name.namespace,
            },
            "involvedObject": {
                "apiVersion": ingress_kind.KIND.api_versions[0],
                "kind": ingress.kind,
                "namespace": name.namespace,
                "name": name.name,
                "uid": ingress.uid,
            },
            "type": "Normal" if is_note else "Warning",
            "reason": problem.reason,
            "message": problem.text[:_MOST_MESSAGE],
            "source": {"component": _COMPONENT},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }

    async def _write(
        self, api: writing.Api, path: str, written: client.Write, verb: str, resource: str
    ) -> progress.Outcome | None:
        """Write; returns None once that is done, else why it failed, which is said once."""
        try:
            await api.write(path, written)
        except client.RequestError as error:
            if resource not in self._said and error.outcome is not progress.Outcome.NOT_FOUND:
                self._said.add(resource)
                _log.warning(f"cannot {verb} {resource}: {writing.reason(error, _GRANT)}")
            return error.outcome
        self._said.discard(resource)
        return None


def _sort(entry: str) -> str:
    """Which field of an entry in a status has it: that of addresses, or that of host names."""
    return "ip" if addresses.parse(entry) is not None else "hostname"
