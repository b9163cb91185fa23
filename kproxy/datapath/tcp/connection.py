"""One proxied connection from accept to end."""

from collections.abc import Callable, Sequence
from typing import Protocol

from kproxy import events, metrics
from kproxy.datapath import loads, poller, proxy_protocol, syscalls
from kproxy.datapath.tcp import direction, halfclose, relay, sharing
from kproxy.model import addresses, names


class Picker(Protocol):
    """Chooses backends for one service port. The balancer satisfies it; it must not block."""

    def pick(self, client: str, now: float, /) -> addresses.SocketAddress | None:
        """The first choice for a new connection from `client`; None when there is no backend."""

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float, /
    ) -> addresses.SocketAddress | None:
        """Another choice after the dials in `tried` failed, untried ones first."""

    def has_alternative(self, client: str, tried: Sequence[addresses.SocketAddress], /) -> bool:
        """Whether a backend is left for `client`, neither in `tried` nor known to be failing."""


class Roll(Protocol):
    """Knows the connections of a service port whose lifetimes are limited."""

    def enter(self, conn: "Connection", /) -> None:
        """A connection has reached its backend."""

    def leave(self, conn: "Connection", /) -> None:
        """A connection has ended; it may not have entered."""


class Terms:
    """What a Service asks for its connections. The targets of a service port share one."""

    __slots__ = ("build_header", "loads", "name", "roll")

    def __init__(self, name: str = "") -> None:
        self.name = name
        """The service port, as logs and facts show it."""
        self.build_header: Callable[[proxy_protocol.Ends], bytes] | None = None
        """Makes the PROXY header that goes before the client's bytes; None: there is none."""
        self.roll: Roll | None = None
        """Set while lifetimes are limited."""
        self.loads: loads.Loads | None = None
        """Set while the strategy goes by the number of connections."""


class Target:
    """Where a listener's connections go: a picker, and the counters of its service port."""

    __slots__ = ("counters", "name", "picker", "terms", "text")

    def __init__(
        self,
        name: names.ServicePortName,
        picker: Picker,
        counters: metrics.ServicePortCounters | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.name = name
        self.picker = picker
        self.terms = terms or Terms(str(name))
        self.text = self.terms.name or str(name)
        """The name, as logs and facts show it."""
        self.counters = counters or metrics.ServicePortCounters(halfclose.REASONS)


class PendingDial(Protocol):
    """What a connection waits for before it is relayed. `dial.Dial` satisfies it."""

    @property
    def state(self) -> str:
        """What is waited for, in a word for people."""

    def cancel(self) -> None:
        """The connection ends: drop the dial's socket."""


class Waiting:
    """Has the events of a client's socket before the connection is dialled. For subclasses."""

    __slots__ = ("conn",)

    def __init__(self, conn: "Connection") -> None:
        self.conn = conn


class Connection:
    """A client's connection and the backend leg it is relayed to.

    Owns both sockets through its legs; `close` and `abort` are the only ways they are closed.
    """

    __slots__ = (
        "accepted_at",
        "armed",
        "backend",
        "client",
        "destination",
        "dial",
        "is_prompt",
        "load",
        "progress_at",
        "reason",
        "seen",
        "server",
        "shared",
        "source",
        "tally",
        "target",
    )

    def __init__(
        self,
        shared: sharing.Shared,
        target: Target,
        sock: syscalls.StreamSocket,
        fd: int,
        source: syscalls.Name,
    ) -> None:
        self.shared = shared
        self.target = target
        self.source = source
        """The client's address and port."""
        self.destination: addresses.SocketAddress | None = None
        """Where the client connected to, if that was at a proxy in front of this one."""
        self.client = relay.Leg(self, sock, fd)
        self.server: relay.Leg | None = None
        self.backend: addresses.SocketAddress | None = None
        self.tally: metrics.EndpointCounters | None = None
        """The backend's counters; None until it is connected."""
        self.load: loads.Load | None = None
        """Where it is counted, if the strategy counts."""
        self.dial: PendingDial | None = None
        """The dial under way, if it did not complete at once, or what is waited for before it."""
        self.reason: halfclose.Reason | None = None
        """Set when the end has begun: by the first half-close, or at the end itself."""
        self.armed = False
        self.is_prompt = False
        """TCP_NODELAY is set on the backend leg, and what else `make_prompt` sets."""
        self.seen: tuple[int, int, int] | None = None
        """What the sweep saw at its last visit."""
        self.accepted_at = self.progress_at = shared.poller.now
        shared.connections += 1
        target.counters.accepted += 1

    @property
    def address(self) -> str:
        """The client's IP address."""
        return self.source[0]

    @property
    def client_port(self) -> int:
        """The client's port."""
        return self.source[1]

    @property
    def is_open(self) -> bool:
        """False once the connection has ended."""
        return self.client.fd >= 0

    @property
    def state(self) -> str:
        """In a word, for people."""
        if self.server is None:
            return "dialling" if self.dial is None else self.dial.state
        return "half-closed" if self.reason is not None else "open"

    def arm(self, keepalive_idle: int) -> None:
        """Arm keepalive and reset-on-close on a connection that lasts. Called by the sweep.

        The backend leg gets the keepalive that the client's inherited from its listener. Both
        legs get a reset on close, which `close` takes back: if this process is killed, its peers
        see a reset, and no cut transfer passes for a complete one. Doing this for every
        short connection would cost seven system calls each.
        """
        server = self.server
        assert server is not None
        self.armed = True
        syscalls.arm_keepalive(server.sock, keepalive_idle)
        syscalls.reset_on_close(server.sock)
        syscalls.reset_on_close(self.client.sock)

    @property
    def ends(self) -> proxy_protocol.Ends:
        """The client's address, and where it connected to, as a PROXY header has them."""
        destination = self.destination
        if destination is None:
            destination = addresses.SocketAddress(*self.client.sock.getsockname()[:2])
        return proxy_protocol.Ends(addresses.SocketAddress(*self.source[:2]), destination)

    def make_prompt(self) -> None:
        """Let nothing hold back what is sent to the backend, before a second message is sent.

        No Nagle delay; no pacing on loopback. A connection of one message never needs either, and
        is spared the system calls. The client leg has inherited both from its listener.
        """
        assert self.server is not None
        assert self.backend is not None
        self.is_prompt = True
        syscalls.send_at_once(self.server.sock)
        syscalls.send_unpaced(self.server.sock, self.backend.address)

    def count_bytes(self) -> None:
        """Bring the counters of the service port up to date while the connection goes on."""
        counters = self.target.counters
        counters.bytes_from_clients += self.client.take_count()
        if self.server is not None:
            counters.bytes_from_backends += self.server.take_count()

    def note_progress(self) -> None:
        """Start the inactivity clock anew."""
        self.progress_at = self.shared.poller.now

    def reset_by(self, leg: direction.Direction) -> halfclose.Reason:
        """The reason for an end that `leg`'s failure brought about."""
        return halfclose.CLIENT_RESET if leg is self.client else halfclose.BACKEND_RESET

    def close(self) -> None:
        """Both directions have ended in order: close both sockets."""
        server = self.server
        assert server is not None
        assert self.reason is not None
        if self.armed:
            syscalls.close_in_order(server.sock)
            syscalls.close_in_order(self.client.sock)
        self._end(self.reason)

    def abort(self, reason: halfclose.Reason) -> None:
        """Reset both sides, whatever is under way. Does nothing when already ended."""
        if not self.is_open:
            return
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        syscalls.reset_on_close(self.client.sock)
        if self.server is not None:
            syscalls.reset_on_close(self.server.sock)
        self._end(reason)

    def assert_consistent(self) -> None:
        """Check this connection and both its directions; AssertionError names what does not hold.

        For tests: holds between two events.
        """
        client, server = self.client, self.server
        assert server is not None or not (self.armed or self.is_prompt), "prepared too early"
        client.assert_consistent()
        if server is None:
            return
        server.assert_consistent()
        assert self.dial is None, "reached, and still dialling"
        assert (server.fd < 0) is not self.is_open, "only one of two sockets is given up"
        if self.is_open:
            assert client.peer is server, "an open connection is not linked"
            is_half_closed = client.ended or server.ended
            assert self.reason is None or is_half_closed, "half-closed, yet neither has ended"

    def _publish_end(self, feed: events.Feed, reason: halfclose.Reason) -> None:
        if feed.is_full:
            feed.drop()
            return
        now = self.shared.poller.now
        feed.publish(
            events.ConnectionEnded(
                now,
                self.target.text,
                self.source[:2],
                self.backend,
                reason,
                halfclose.MEANING[reason],
                self.client.total,
                self.server.total if self.server is not None else 0,
                now - self.accepted_at,
            )
        )

    def _end(self, reason: halfclose.Reason) -> None:
        """Settle the counts, give the sockets up, and break the links.

        With the links broken no cycle is left for the garbage collector.
        """
        self.reason = reason
        shared = self.shared
        if shared.feed is not None:
            self._publish_end(shared.feed, reason)
        target = self.target
        counters = target.counters
        counters.ended[reason] += 1
        roll = target.terms.roll
        if roll is not None:
            roll.leave(self)
        if self.load is not None:
            self.load.leave()
        client = self.client
        server = self.server
        counters.bytes_from_clients += client.moved
        if client.unsent is not None or client.pipe is not None:
            client.discard()
        if server is None:
            shared.poller.close_later(client.fd, client.sock)
        else:
            counters.bytes_from_backends += server.moved
            if server.unsent is not None or server.pipe is not None:
                server.discard()
            if self.tally is not None:
                self.tally.ended += 1
            shared.poller.close_pair_later(client.fd, client.sock, server.fd, server.sock)
            server.fd = -1
            client.peer = server.peer = None
            del server.conn
        client.fd = -1
        del client.conn
        shared.connections -= 1
        if shared.on_room is not None:
            shared.on_room()


def of_client(handler: poller.EventHandler) -> Connection | None:
    """The connection whose client socket `handler` is; None for every other handler.

    A walk through the poller's table finds each connection once by it.
    """
    if type(handler) is relay.Leg:
        conn = handler.conn
        if isinstance(conn, Connection) and conn.client is handler:
            return conn
    if isinstance(handler, Waiting):
        return handler.conn
    return None
