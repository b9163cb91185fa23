"""Being an endpoint of the cluster's own DNS Service, `kube-dns`: by an EndpointSlice of our own.

The slice stands beside those of the cluster's control plane, which leaves it alone, since a label
says that another manages it. It is written again when it is changed or gone, and removed at the
end. Without the right to, names are answered all the same: one line says which right is missing.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import structlog

from kproxy.dns import name_server, settings
from kproxy.model import addresses, names
from kproxy.model.addresses import SocketAddress
from kproxy.model.kinds import endpoint_slice_kind, endpoints, services
from kproxy.portal import loopback
from kproxy.sources import store
from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress

SERVICE = names.NamespacedName(settings.KUBE_DNS_NAMESPACE, "kube-dns")
PORT = 53
"""The port of the Service at which clients ask."""
SETTLE_SECONDS = 1.0
"""At the end: how long others are given to notice that the slice is gone."""
_WITHDRAW_SECONDS = 3.0

_LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
_PROTOCOLS = (names.Protocol.UDP, names.Protocol.TCP)
_COLLECTION = endpoint_slice_kind.KIND.collection
_GRANT = (
    "kubectl create role kproxy-kube-dns "
    f"--namespace={SERVICE.namespace} --verb=create,patch,delete --resource={_COLLECTION}"
)

_log = structlog.get_logger(__name__)


class KubeDns:
    """A `component.Component` beside `server`, whose address becomes an endpoint.

    It writes by the clients that `api` makes. `node` tells the slices of several proxies apart.
    """

    name = "kube-dns"

    def __init__(
        self,
        server: name_server.NameServer,
        known: store.Store,
        api: Callable[[], AbstractAsyncContextManager[writing.Api]],
        node: str,
    ) -> None:
        self._server = server
        self._known = known
        self._api = api
        self._node = node
        self._slice = names.NamespacedName(SERVICE.namespace, f"kube-dns-kproxy-{node}"[:253])
        self._due = asyncio.Event()
        self._said: progress.Outcome | None = None
        self._is_written = False
        self._is_ending = False
        self._writing = asyncio.Lock()
        self._subscription = known.subscribe(self._on_change)

    def bind(self) -> None:
        """Do nothing: the name server has the address."""

    def addresses(self) -> Mapping[str, str | None]:
        """None of its own."""
        return {}

    async def run(self) -> None:
        """Keep the slice as it should be, until cancelled."""
        await self._server.ready()
        self._due.set()
        async with self._api() as api:
            await writing.keep_trying(self._due, lambda: self._settle(api))

    async def ready(self) -> None:
        """Return at once: names are answered whether this is allowed or not."""

    async def drain(self, grace: float) -> None:
        """Remove the slice, and let those who follow it notice."""
        self._is_ending = True
        with contextlib.suppress(TimeoutError):
            # A write that is under way ends first: it would bring the slice back.
            async with asyncio.timeout(min(grace, _WITHDRAW_SECONDS)), self._writing:
                if not self._is_written:
                    return
                async with self._api() as api:
                    if await self._attempt(self._delete(api)):
                        await asyncio.sleep(SETTLE_SECONDS)

    def close(self) -> None:
        """Follow the Store no more."""
        self._subscription.cancel()

    def _on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        if SERVICE in changed:
            self._due.set()

    async def _settle(self, api: writing.Api) -> bool:
        """Write what differs from what the API server has shown; False if that failed."""
        async with self._writing:
            return self._is_ending or await self._write(api)

    async def _write(self, api: writing.Api) -> bool:
        service = self._known.service(SERVICE)
        ports = _ports(service, self._place.port) if service is not None else []
        shown = self._known.get(endpoint_slice_kind.KIND, self._slice)
        if not ports:
            return shown is None or await self._attempt(self._delete(api))
        if shown is not None and self._is_as_wanted(shown, ports):
            self._is_written = True
            return True
        if not await self._attempt(self._put(api, ports)):
            return False
        self._is_written = True
        _log.info("an endpoint of kube-dns", slice=str(self._slice), address=str(self._place))
        return True

    @property
    def _place(self) -> SocketAddress:
        place = addresses.parse_socket_address(self._server.addresses()["dns"] or "")
        assert place is not None, "a name server that is ready has been bound"
        return place

    def _is_as_wanted(self, shown: endpoints.EndpointsObject, ports: list[dict[str, Any]]) -> bool:
        wanted = {(each["name"], each["protocol"], self._place) for each in ports}
        found = {
            (port.name, port.protocol.value, each.backend)
            for port in shown.ports
            for each in port.endpoints
            if each.ready
        }
        return found == wanted

    async def _attempt(self, writing: Awaitable[None]) -> bool:
        """Whether something could be written. The first failure is said."""
        try:
            await writing
        except client.RequestError as error:
            self._say(error)
            return False
        self._said = None
        return True

    async def _put(self, api: writing.Api, ports: list[dict[str, Any]]) -> None:
        """Write the slice, which may be there. Raises RequestError."""
        missing: client.RequestError | None = None
        for version in _COLLECTION.versions:
            collection = _COLLECTION.path(version, SERVICE.namespace)
            body = msgspec.json.encode(self._document(version, ports))
            patch = client.Write("PATCH", body, writing.MERGE_PATCH)
            create = client.Write("POST", body)
            for path, written in (f"{collection}/{self._slice.name}", patch), (collection, create):
                try:
                    await api.write(path, written)
                except client.RequestError as error:
                    missing = _if_not_found(error)
                else:
                    return
        if missing is not None:
            raise missing

    async def _delete(self, api: writing.Api) -> None:
        """Delete the slice, if it is there. Raises RequestError."""
        for version in _COLLECTION.versions:
            path = f"{_COLLECTION.path(version, SERVICE.namespace)}/{self._slice.name}"
            try:
                await api.write(path, client.Write("DELETE", b""))
            except client.RequestError as error:
                _if_not_found(error)
            else:
                return

    def _document(self, version: str, ports: list[dict[str, Any]]) -> dict[str, Any]:
        place = self._place
        return {
            "apiVersion": f"{_COLLECTION.group}/{version}",
            "kind": endpoint_slice_kind.NAME,
            "metadata": {
                "name": self._slice.name,
                "namespace": SERVICE.namespace,
                "labels": {
                    endpoint_slice_kind.LABEL_SERVICE_NAME: SERVICE.name,
                    _LABEL_MANAGED_BY: "kproxy",
                },
            },
            "addressType": addresses.family(place.address).value,
            "endpoints": [
                {
                    "addresses": [place.address],
                    "conditions": {"ready": True},
                    "nodeName": self._node,
                }
            ],
            "ports": ports,
        }

    def _say(self, error: client.RequestError) -> None:
        """Say once why it cannot be written, until it can be."""
        if error.outcome is not self._said:
            self._said = error.outcome
            said = writing.reason(error, _GRANT)
            _log.warning(f"cannot become an endpoint of kube-dns: {said}")


def _if_not_found(error: client.RequestError) -> client.RequestError:
    """`error`, if it says that there is no such object or version. Raises it if it does not."""
    if error.outcome is not progress.Outcome.NOT_FOUND:
        raise error
    return error


def _ports(service: services.Service, number: int) -> list[dict[str, Any]]:
    """The ports of the Service at which DNS is asked, by their names, and our number.

    A simulated cluster moves port 53 where it may not be bound.
    """
    return [
        {"name": each.name, "protocol": each.protocol.value, "port": number}
        for each in service.ports
        if each.port in {PORT, PORT + loopback.PORT_SHIFT} and each.protocol in _PROTOCOLS
    ]
