"""The name server as a component of the proxy: made by `parts`, run by `server`."""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import structlog

from kproxy import errors, metrics, settings, turns
from kproxy.dns import cache, index, responder, tcp, udp, wire, zone
from kproxy.dns import settings as dns_settings
from kproxy.dns.forwarding import forwarder, upstreams
from kproxy.model import names
from kproxy.model.addresses import SocketAddress
from kproxy.sources import source
from kproxy.system import server_sockets

_PORTS_TRIED = 16
_BACKLOG = 128

_log = structlog.get_logger(__name__)


class NameServer:
    """Answers for the names of a Store's Services. A `component.Component`; owns its sockets."""

    name = "DNS"

    def __init__(
        self,
        place: settings.Listen,
        read: source.Source,
        located: zone.Located,
        *,
        domain: str,
        others: upstreams.Upstreams | None = None,
        namespaces: frozenset[str] = frozenset(),
        counters: metrics.DnsCounters | None = None,
        bounds: dns_settings.Bounds = dns_settings.MOST,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        """`located` says where clients reach a Service. Only `namespaces` are there; empty: all.
        `others_wait` says whether something else has work for this thread.

        Names of elsewhere are refused unless `others` names servers to ask.
        """
        self._place = place
        self._source = read
        self.counters = counters or metrics.DnsCounters()
        admits = namespaces.__contains__ if namespaces else _any
        self._index = index.Index(
            read.store, lambda service: zone.served_addresses(service, located), admits
        )
        self._zone = zone.Zone(
            read.store, self._index, located, domain, int(time.time()) & 0xFFFFFFFF, admits
        )
        self._kept = cache.Cache()
        self._answers = responder.Responder(
            self._find, self._kept, self.counters, recurses=others is not None
        )
        self._upstreams = others or (lambda: ())
        self._forwarder = forwarder.Forwarder(self._others, self.counters, bounds.asked)
        self._others_wait = others_wait
        self._tcp = tcp.TcpServer(self._answers, self._forward, bounds.connections, others_wait)
        self._dirty: dict[names.NamespacedName, None] = {}
        self._is_dirty = asyncio.Event()
        self._is_built = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._udp: udp.UdpServer | None = None
        self._address: str | None = None
        self._has_looked = False
        read.store.subscribe(self._on_change)
        self._on_change(frozenset())

    def bind(self) -> None:
        """Take the address, for UDP and for TCP. Raises KproxyError."""
        try:
            datagrams, streams = bind_both(self._place)
        except OSError as error:
            what_to_do = "give --dns an address and port that are free, or leave it out"
            if error.errno == errno.EACCES:
                what_to_do = (
                    "this user may not bind so low a port: give --dns a higher one, or kproxy the "
                    "capability CAP_NET_BIND_SERVICE"
                )
            raise errors.KproxyError(
                f"cannot answer DNS at {self._place}: {errors.reason(error)}; {what_to_do}"
            ) from error
        self._sockets = [datagrams, streams]
        self._udp = udp.UdpServer(
            datagrams, self._answers, self._kept, self._forward, self._others_wait
        )
        place = settings.Listen(*datagrams.getsockname()[:2])
        self._address = str(place)
        self._zone.own = () if place.is_everywhere else (place.host,)

    def addresses(self) -> Mapping[str, str | None]:
        """Where it listens, as `dns`."""
        return {"dns": self._address}

    async def run(self) -> None:
        """Answer, and follow the Store, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forwarder.run(), name="DNS forwarder")
            group.create_task(self._follow_changes(), name="DNS names")
            if self._udp is not None:
                self._udp.start()
                await self._tcp.start(self._sockets[1])

    async def _follow_changes(self) -> None:
        while True:
            await self._is_dirty.wait()
            self._is_dirty.clear()
            dirty, self._dirty = self._dirty, {}
            await turns.in_slices(self._follow(dirty))
            if self._source.has_synced and not self._dirty:
                self._is_built.set()

    async def ready(self) -> None:
        """Return once every Service of the first sync has its names."""
        await self._is_built.wait()

    async def drain(self, grace: float) -> None:
        """Answers are given until the end: what drains may still ask."""

    def close(self) -> None:
        """Close the sockets."""
        if self._udp is not None:
            self._udp.close()
        self._tcp.close()
        for each in self._sockets:
            each.close()

    def _on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        if not self._source.has_synced:
            return
        if not self._has_looked:
            self._has_looked = True
            changed |= self._source.store.service_names()
        self._dirty.update(dict.fromkeys(changed))
        self._is_dirty.set()

    def look(self, service: names.NamespacedName) -> None:
        """Look at a Service again soon: its frontends may be reached elsewhere."""
        if service.is_of_service:
            self._on_change(frozenset([service]))

    def _follow(self, dirty: Iterable[names.NamespacedName]) -> Iterator[None]:
        """Look at Services again, and forget the answers that may have become others."""
        for name in dirty:
            try:
                changed = yield from self._index.update(name)
                yield from self._kept.drop(changed)
            except Exception:
                _log.exception("internal error: names of a Service stay", service=str(name))
            yield

    def _find(self, question: wire.Name, type_: int) -> zone.Answer | None:
        """The answer of the zone; none can be given before everything has been read."""
        found = self._zone.answer(question, type_)
        if found is not None and not self._is_built.is_set():
            return zone.Answer(wire.Rcode.SERVFAIL)
        return found

    def _others(self) -> list[SocketAddress]:
        """The servers to forward to, without this one."""
        own = {self._sockets[0].getsockname()[:2]} if self._sockets else set()
        return [each for each in self._upstreams() if each not in own]

    def _forward(self, wanted: responder.Forward, send: udp.Send) -> None:
        """Have others asked, and send the answer."""
        query = wanted.query
        if wanted.known is not None and (target := wanted.known.target) is not None:
            query = query._replace(name=target, key=target, has_edns=False, wants_dnssec=False)

        def finish(reply: bytes | None) -> None:
            send(self._answers.finish(wanted, reply))

        self._forwarder.ask(query, finish)


def _any(_: str) -> bool:
    return True


def bind_both(place: settings.Listen) -> tuple[socket.socket, socket.socket]:
    """A socket for datagrams and one that listens, of the same port. Raises OSError."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    for left in reversed(range(1 if place.port else _PORTS_TRIED)):
        with contextlib.ExitStack() as opened:
            datagrams = opened.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            if family == socket.AF_INET6:
                # As Go's listeners: `::` takes IPv4 as well, another address only its own family.
                datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, place.host != "::")
            datagrams.bind((place.host, place.port))
            port = datagrams.getsockname()[1]
            try:
                streams = server_sockets.listen((place.host, port), _BACKLOG)
            except OSError as error:
                # The kernel picked a port for datagrams that another process has for TCP.
                if error.errno == errno.EADDRINUSE and left:
                    continue
                raise
            opened.pop_all()
            return datagrams, streams
    raise OSError(errno.EADDRINUSE, "no port is free for UDP and TCP")
