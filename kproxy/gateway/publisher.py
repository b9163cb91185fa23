"""Publisher: writes the statuses of Gateways and routes to an API server.

Each object is read, merged with what is to be said of it (`status_text`), and patched if that
differs: no one else's words are lost, because the patch names the version that was read. Several
proxies may do so for the same objects. They agree on conditions, each adds its own addresses to
those of Gateways, and takes them out again at its end.

Without the right to write, everything is served all the same: one line says what is missing.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import structlog

from kproxy.gateway import state, status_text, statuses, watcher
from kproxy.model.kinds.gateway import (
    gateway_class_kind,
    gateway_kind,
    references,
    tcp_route_kind,
    udp_route_kind,
)
from kproxy.model.kinds.kind import Kind
from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress

MOST_FAILURES = 3
"""So many writes that fail end a pass: what is wrong is probably not one object."""

ANSWER_SECONDS = 30.0
MAX_BYTES = 4 * 1024 * 1024

_KINDS: dict[str, Kind[Any]] = {
    each.name: each
    for each in (
        gateway_class_kind.KIND,
        gateway_kind.KIND,
        tcp_route_kind.KIND,
        udp_route_kind.KIND,
    )
}
_GRANT = "kubectl create clusterrole kproxy-gateway-writer --verb=get,patch --resource=" + ",".join(
    f"{each.collection.plural}.{references.GROUP}{part}"
    for part in ("", "/status")
    for each in _KINDS.values()
)

_log = structlog.get_logger(__name__)


class Api(writing.Api, Protocol):
    """A client that reads single objects too. `client.Client` satisfies it."""

    def get(
        self, mode: progress.Mode, path: str, query: dict[str, str], /
    ) -> AbstractAsyncContextManager[client.Response]:
        """The answer to a GET. Raises RequestError."""


class Publisher:
    """Writes by the clients that `api` makes, from `run` on. `wall` is the wall clock."""

    def __init__(
        self,
        api: Callable[[], AbstractAsyncContextManager[Api]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._wall = wall
        self._due: dict[state.Key, statuses.Status] = {}
        self._has_due = asyncio.Event()
        self._addresses: dict[state.Key, tuple[str, ...]] = {}
        self._said: set[progress.Outcome] = set()
        self._writing = asyncio.Lock()
        self._is_ending = False

    def take(self, change: watcher.Change) -> None:
        """Write what is new, soon. Of a route that refers to no Gateway of ours any more, what
        we have written is taken out."""
        self._due.update(change.statuses)
        for kind, name in change.gone:
            if kind in (tcp_route_kind.KIND.name, udp_route_kind.KIND.name):
                self._due[kind, name] = statuses.RouteStatus(kind, name, _ANY_GENERATION, ())
            else:
                self._due.pop((kind, name), None)
                self._addresses.pop((kind, name), None)
        self._has_due.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        async with self._api() as api:
            await writing.keep_trying(self._has_due, lambda: self._write_all(api))

    async def withdraw(self, seconds: float) -> None:
        """Take our addresses out of every Gateway, and publish no more. Takes `seconds` at most."""
        self._is_ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._writing, self._api() as api:
                for key, addresses in self._addresses.items():
                    if not await self._write(api, key, _Withdrawal(addresses)):
                        return

    async def _write_all(self, api: Api) -> bool:
        """Write what is due; False if something fails, which stays due and comes last then."""
        failures = 0
        for key, status in list(self._due.items()):
            async with self._writing:
                if self._is_ending or failures == MOST_FAILURES:
                    break
                is_written = await self._write(api, key, status)
            if self._due.get(key) is not status:
                continue  # another one is due already
            del self._due[key]
            if not is_written:
                failures += 1
                self._due[key] = status
            elif isinstance(status, statuses.GatewayStatus):
                self._addresses[key] = status.addresses
        return not failures

    async def _write(
        self, api: Api, key: state.Key, status: "statuses.Status | _Withdrawal"
    ) -> bool:
        """Write one status if it differs; False if that failed."""
        collection = _KINDS[key[0]].collection
        for version in collection.versions:
            path = f"{collection.path(version, key[1].namespace)}/{key[1].name}"
            try:
                await self._patch(api, path, key, status)
            except client.RequestError as error:
                if error.outcome is progress.Outcome.NOT_FOUND:
                    continue  # in this version
                self._say(error, collection.plural)
                return False
            except Exception:
                _log.exception("internal error: a status is not written", path=path)
                return False
            self._said.clear()
            return True
        return True  # it is gone

    async def _patch(
        self, api: Api, path: str, key: state.Key, status: "statuses.Status | _Withdrawal"
    ) -> None:
        async with api.get(progress.Mode.LIST, path, {}) as answer:
            body = await answer.read_all(ANSWER_SECONDS, MAX_BYTES)
        try:
            found = msgspec.json.decode(body, type=_Found)
        except msgspec.DecodeError as error:
            raise client.RequestError(progress.Outcome.MALFORMED, str(error)) from None
        current = found.status or {}
        former = self._addresses.get(key, ())
        if isinstance(status, _Withdrawal):
            wanted = status_text.without(current, status.addresses)
        else:
            wanted = status_text.merged(current, status, writing.timestamp(self._wall()), former)
        if wanted == current:
            return
        patch = {"metadata": {"resourceVersion": found.metadata.resource_version}, "status": wanted}
        written = client.Write("PATCH", msgspec.json.encode(patch), writing.MERGE_PATCH)
        await api.write(f"{path}/status", written)

    def _say(self, error: client.RequestError, plural: str) -> None:
        """Say once why nothing can be written, until something can be."""
        if error.outcome not in self._said:
            self._said.add(error.outcome)
            said = writing.reason(error, _GRANT)
            _log.warning(f"cannot write the status of {plural}: {said}")


_ANY_GENERATION = 1 << 62
"""Of an object whose generation is not known any more."""


class _Withdrawal(msgspec.Struct, frozen=True):
    """The addresses that a proxy takes out at its end."""

    addresses: tuple[str, ...]


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Found(msgspec.Struct, frozen=True):
    """What is read of an object before its status is written."""

    metadata: _Metadata = _Metadata()
    status: dict[str, Any] | None = None
