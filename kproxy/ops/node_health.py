"""The servers behind `healthCheckNodePort`, as kube-proxy has them (docs/behaviour.md row 30).

A load balancer asks each node whether it has endpoints of a Service, and sends traffic to those
that do: 200 if there is a ready one here, else 503. The body is that of kube-proxy 1.20, to the
byte (`pkg/proxy/healthcheck/service_health.go`). As in today's kube-proxy, a node whose proxy is
not well answers 503, whatever it has.

Anyone may connect to these ports, and there may be thousands of them. So all of their connections
together are bounded, as those of one ops server.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from kproxy import events
from kproxy.model import addresses, forwarding, names
from kproxy.ops.serving import answers, heads, responder
from kproxy.plane import plane

MAX_CONNECTIONS = 24
"""Connections to all health check ports together."""
_BACKLOG = 64
_BODY = '{\n\t"service": {\n\t\t"namespace": %s,\n\t\t"name": %s\n\t},\n\t"localEndpoints": %d\n}'


@dataclass(slots=True)
class _Server:
    """A listening socket for one Service; `task` serves it once `NodeHealth.run` runs."""

    name: names.ServicePortName
    socket: socket.socket
    site: responder.Site
    task: asyncio.Task[None] | None = None
    listening: asyncio.Server | None = None

    def close(self) -> None:
        """Stop listening, at once; end the connections that were made."""
        if self.listening is not None:
            self.listening.close()  # which closes the socket
        else:
            self.socket.close()
        if self.task is not None:
            self.task.cancel()


class NodeHealth:
    """Stands before a data plane, and opens frontends of the kind HEALTH_CHECK in its place.

    Satisfies `plane.Forwarder`. `is_well` says whether the proxy does its work. Call `run` to have
    requests answered, and `close` at the end; the data plane stays the caller's.
    """

    def __init__(
        self,
        forwarder: plane.Forwarder,
        is_well: Callable[[], bool],
        feed: events.Feed,
        clock: Callable[[], float],
    ) -> None:
        self._forwarder = forwarder
        self._is_well = is_well
        self._feed = feed
        self._clock = clock
        self._hear: Callable[[forwarding.Report], None] = lambda _: None
        self._servers: dict[forwarding.PortalAddress, _Server] = {}
        self._counts: dict[names.ServicePortName, Mapping[addresses.Family, int]] = {}
        self._room = responder.Room(MAX_CONNECTIONS)
        self._group: asyncio.TaskGroup | None = None

    def subscribe(self, hear: Callable[[forwarding.Report], None]) -> None:
        """See `plane.Forwarder`."""
        self._hear = hear
        self._forwarder.subscribe(hear)

    def send(self, message: forwarding.Message) -> None:
        """See `plane.Forwarder`."""
        match message:
            case forwarding.OpenFrontend(frontend=frontend) if (
                frontend.kind is forwarding.FrontendKind.HEALTH_CHECK
            ):
                self._open(message)
            case forwarding.CloseFrontend(address) if address in self._servers:
                self._close(address)
            case forwarding.SetLocalEndpoints(name, counts):
                self._counts[name] = dict(counts)
            case forwarding.Forget(name):
                self._counts.pop(name, None)
                self._forwarder.send(message)
            case _:
                self._forwarder.send(message)

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """See `plane.Forwarder`."""
        yield from self._forwarder.send_steps(message)

    async def run(self) -> None:
        """Answer requests, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for each in self._servers.values():
                self._start(each)
            try:
                await self._room.keep_tidy()
            finally:
                self._group = None

    def close(self) -> None:
        """Stop listening everywhere."""
        for address in list(self._servers):
            self._close(address)

    def _open(self, message: forwarding.OpenFrontend) -> None:
        """Listen, and report what became of it."""
        at, name = message.address.socket_address, message.name
        family = addresses.family(at.address)
        try:
            sock = socket.create_server(
                at,
                family=socket.AF_INET6 if family is addresses.Family.IPV6 else socket.AF_INET,
                backlog=_BACKLOG,
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self._feed.record(events.FrontendFailed(self._clock(), str(name), at, reason))
            self._hear(forwarding.OpenFailed(message.address, reason))
            return
        made = _Server(name, sock, responder.Site({}, default=self._handler(name, family)))
        self._servers[message.address] = made
        if self._group is not None:
            self._start(made)
        self._feed.record(events.FrontendOpened(self._clock(), str(name), at))
        self._hear(forwarding.Opened(message.address))

    def _close(self, address: forwarding.PortalAddress) -> None:
        made = self._servers.pop(address)
        made.close()
        self._feed.record(
            events.FrontendClosed(self._clock(), str(made.name), address.socket_address)
        )

    def _start(self, made: _Server) -> None:
        assert self._group is not None
        made.task = self._group.create_task(self._serve(made))

    async def _serve(self, made: _Server) -> None:
        async with (
            asyncio.TaskGroup() as group,
            responder.serving(made.socket, made.site, group, self._room) as made.listening,
        ):
            await asyncio.get_running_loop().create_future()

    def _handler(self, name: names.ServicePortName, family: addresses.Family) -> responder.Handler:
        async def answer(_request: heads.Request) -> answers.Answer:
            count = self._counts.get(name, {}).get(family, 0)
            is_good = count > 0 and self._is_well()
            status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
            return answers.Answer(status, body(name.service, count))

        return answer


def body(service: names.NamespacedName, count: int) -> bytes:
    """kube-proxy's words, with tabs and without a newline at the end.

    Not `json.dumps` with an indent: each call leaves a cycle of closures of 2.7 KB behind.
    """
    said = _BODY % (json.dumps(service.namespace), json.dumps(service.name), count)
    return said.encode()
