"""Dial a backend for an accepted client, without holding up any other client.

A dial is a non-blocking connect with a timeout. The ladder is kube-proxy's
(`proxysocket.go`: 250 ms, 500 ms, 1 s, 2 s), but over distinct endpoints, and never inside the
accept loop, where one dead endpoint used to block every new client of its service port.

Most dials never wait at all: on loopback and on a fast network the handshake is over when
connect(2) returns, so the client's first bytes are sent at once. Only a dial that did not
complete becomes a `Dial`, with a place in a timeout queue. When those bytes are there before the
dial, the handshake's last ACK travels with them: the server wakes once, for both.

A failed endpoint goes to the penalty box (`PenaltyBox`). A success takes it out, a client's or a
probe's, if it came within the first rung: an endpoint slower than that would otherwise go in and
out at its clients' cost. When an endpoint is boxed, the dials that still wait on it move on at once
if another endpoint is left, instead of waiting out the timeout that one client already waited out.
"""

import _socket
import asyncio
import errno
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from kproxy import events
from kproxy.datapath import poller, syscalls
from kproxy.datapath.tcp import connection, dial_failures, halfclose, relay, sharing
from kproxy.model import addresses

LADDER = (0.25, 0.5, 1.0, 2.0)
"""Seconds each successive attempt may take."""

_SOL_SOCKET = _socket.SOL_SOCKET
_SO_OOBINLINE = _socket.SO_OOBINLINE
_IN_PROGRESS = frozenset({0, errno.EINPROGRESS})
_RESET_AFTERWARDS = dial_failures.RESET_AFTERWARDS

Attempts = tuple[tuple[addresses.SocketAddress, str], ...]
"""Failed attempts in order: the backend, and why (an errno name, or "timeout")."""


class PenaltyBox(Protocol):
    """Which backends fail, and when to probe them: what the data path needs of the penalty box.

    The balancer's satisfies it.
    """

    @property
    def boxed(self) -> Collection[addresses.SocketAddress]:
        """The backends in the box: always the same collection, whose emptiness is cheap to see."""

    def fail(self, backend: addresses.SocketAddress, now: float, /) -> bool:
        """A dial failed. True if this put the backend into the box."""

    def succeed(self, backend: addresses.SocketAddress, /) -> None:
        """A dial succeeded within the first rung: the backend leaves the box."""

    def next_due(self) -> float | None:
        """When the next probe is due, in monotonic seconds; None when nothing is boxed."""

    def due_probes(self, now: float, /) -> list[addresses.SocketAddress]:
        """Backends whose penalty has run out and that no probe is dialling yet."""

    def probe_started(self, backend: addresses.SocketAddress, /) -> None:
        """A probe of `backend` is under way; `fail` or `succeed` will follow."""


class Dial:
    """One dial that is waiting for its handshake. Owns its socket until connected."""

    state = "dialling"
    __slots__ = ("attempts", "backend", "conn", "deadline", "dialer", "fd", "sock")

    def __init__(
        self,
        dialer: "Dialer",
        conn: connection.Connection,
        sock: syscalls.StreamSocket,
        backend: addresses.SocketAddress,
        attempts: Attempts,
    ) -> None:
        self.dialer = dialer
        self.conn: connection.Connection | None = conn
        """None once the dial is over."""
        self.sock = sock
        self.fd = sock.fileno()
        self.backend = backend
        self.attempts = attempts
        """The failed attempts before this one."""
        self.deadline = dialer.poller.now + LADDER[len(attempts)]

    def on_events(self, mask: int) -> None:
        """The handshake is over, one way or the other."""
        code = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code in _RESET_AFTERWARDS:
            assert self.conn is not None
            self.conn.abort(halfclose.BACKEND_RESET)
        elif code:
            self.dialer.on_failed(self, dial_failures.reason(code))
        elif mask & poller.WRITABLE:
            self.dialer.on_connected(self, mask)

    def on_bug(self) -> None:
        """An exception escaped: end the connection this dial was for."""
        if self.conn is not None:
            self.conn.abort(halfclose.BUG)

    def waited(self, now: float) -> float:
        """Seconds since this attempt began."""
        return now - self.deadline + LADDER[len(self.attempts)]

    def cancel(self) -> None:
        """The client is gone, or the dial failed: drop the socket.

        If the handshake has completed meanwhile, the backend gets a reset. The kernel answers a
        late SYN-ACK with one too, so an abandoned handshake never serves another client.
        """
        if self.conn is not None:
            self.conn = None
            self.dialer.forget(self)
            syscalls.reset_on_close(self.sock)
            self.dialer.poller.close_later(self.fd, self.sock)


class Dialer:
    """Dials for all connections of one data path. Owns its timer, and no connection.

    `on_unreachable(conn, attempts)` is called for every client that was turned away, `on_boxed()`
    when a dial has put a backend in the penalty box.
    """

    def __init__(
        self,
        shared: sharing.Shared,
        box: PenaltyBox,
        *,
        on_unreachable: Callable[[connection.Connection, Attempts], None],
        on_boxed: Callable[[], None],
        ephemeral_ports: range = range(32768, 61000),
    ) -> None:
        self._shared = shared
        self.poller = shared.poller
        self._box = box
        self._boxed = box.boxed
        self._on_unreachable = on_unreachable
        self._on_boxed = on_boxed
        self._ephemeral_ports = ephemeral_ports
        self._waiting: dict[addresses.SocketAddress, set[Dial]] = {}
        self._queues: tuple[deque[Dial], ...] = tuple(deque() for _ in LADDER)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def pending(self) -> int:
        """Dials that wait for their handshake."""
        return sum(map(len, self._waiting.values()))

    def close(self) -> None:
        """Stop the timer. Every connection must have ended by now."""
        if self._timer is not None:
            self._timer.cancel()

    def start(self, accepted: Sequence[connection.Connection], *, has_read: bool = False) -> None:
        """Dial for clients that have just been accepted.

        Their first bytes are read before, unless the caller `has_read` them. The PROXY header, if
        there is one, goes in front of them: every backend that is tried gets it anew.

        All connects come first, and only then the first bytes. A server that is woken by one
        connect is still awake for the next ones; taking each client through connect and send
        by itself wakes it twice for each, and waking a sleeping process was found to be a fifth
        of a connection's cost.
        """
        now = self.poller.now
        dialled = []
        for conn in accepted:
            try:
                if not has_read:
                    conn.client.read_first()
                if conn.client.failed:
                    conn.abort(halfclose.CLIENT_LEFT_DIAL)
                    continue
                build_header = conn.target.terms.build_header
                if build_header is not None:
                    conn.client.put_first(build_header(conn.ends))
                backend = conn.target.picker.pick(conn.source[0], now)
                if backend is None:
                    self._turn_away(conn, halfclose.NO_ENDPOINTS, ())
                    continue
                sock = self._connect(conn, backend, ())
            except Exception:
                self._contain(conn)
                continue
            if sock is not None:
                dialled.append((conn, sock, backend))
        own_dials = self._shared.own_dials
        own_dials.countdown -= 1
        if own_dials.countdown < 0:
            own_dials.note(dialled)
        for conn, sock, backend in dialled:
            try:
                self._follow_up(conn, sock, backend)
            except Exception:
                self._contain(conn)

    def on_connected(self, dial: Dial, mask: int) -> None:
        """A waiting dial has its handshake: hand its socket to the relay."""
        conn = dial.conn
        assert conn is not None
        if dial.backend.port in self._ephemeral_ports and dial_failures.met_itself(
            dial.sock, dial.backend
        ):
            self.on_failed(dial, "ECONNREFUSED")
            return
        self.forget(dial)
        dial.conn = conn.dial = None
        if self._boxed and dial.waited(self.poller.now) <= LADDER[0]:
            self._box.succeed(dial.backend)
        conn.server = server = relay.Leg(conn, dial.sock, dial.fd)
        server.watches_writable = True
        self.poller.replace(dial.fd, server)
        self._link(conn, conn.client, server, dial.backend)
        if server.peer is not None:
            server.on_events(mask)

    def on_failed(self, dial: Dial, reason: str) -> None:
        """A waiting dial failed or timed out: its client moves on to another endpoint."""
        conn = dial.conn
        assert conn is not None
        dial.cancel()
        conn.dial = None
        try:
            self._next(conn, (*dial.attempts, (dial.backend, reason)))
        except Exception:
            self._contain(conn)

    def forget(self, dial: Dial) -> None:
        """`dial` waits no longer. Its place in the timeout queue empties by itself."""
        waiting = self._waiting[dial.backend]
        waiting.discard(dial)
        if not waiting:
            del self._waiting[dial.backend]

    def _connect(
        self, conn: connection.Connection, backend: addresses.SocketAddress, attempts: Attempts
    ) -> syscalls.StreamSocket | None:
        """Begin a connect and return its socket; None when it failed and that was dealt with."""
        counted = conn.target.terms.loads
        if counted is not None:
            conn.load = counted.moved(conn.load, backend)
        try:
            sock = self._shared.kernel.stream_socket(backend)
        except OSError as error:
            reason = dial_failures.reason(error.errno or 0)
            conn.target.counters.dial_failures[reason] += 1
            self._turn_away(conn, halfclose.NO_RESOURCES, (*attempts, (backend, reason)))
            return None
        # In line, or a read would skip the urgent byte. Accepted sockets inherit it.
        sock.setsockopt(_SOL_SOCKET, _SO_OOBINLINE, 1)
        if conn.client.unsent is not None:
            syscalls.join_ack_and_data(sock)
        code = sock.connect_ex(backend)
        if code in _IN_PROGRESS:
            return sock
        sock.close()
        self._next(conn, (*attempts, (backend, dial_failures.reason(code))))
        return None

    def _follow_up(
        self,
        conn: connection.Connection,
        sock: syscalls.StreamSocket,
        backend: addresses.SocketAddress,
    ) -> None:
        """Finish a first connect at once if its handshake is over, else wait for it."""
        if backend.port in self._ephemeral_ports:
            self._wait(conn, sock, backend, ())
            return
        code = conn.client.send_first(sock)
        if not code:
            self._relay(conn, sock, backend)
        elif code == errno.EAGAIN:
            self._wait(conn, sock, backend, ())
        else:
            syscalls.reset_on_close(sock)
            sock.close()
            if conn.client.failed:
                conn.abort(halfclose.CLIENT_LEFT_DIAL)
            elif code in _RESET_AFTERWARDS:
                conn.abort(halfclose.BACKEND_RESET)
            else:
                self._next(conn, ((backend, dial_failures.reason(code)),))

    def _attempt(
        self, conn: connection.Connection, backend: addresses.SocketAddress, attempts: Attempts
    ) -> None:
        """Dial again, after `attempts` failed."""
        sock = self._connect(conn, backend, attempts)
        if sock is not None:
            self._wait(conn, sock, backend, attempts)

    def _contain(self, conn: connection.Connection) -> None:
        """Call from an `except` block: counts the bug and aborts only this connection."""
        self.poller.note_bug()
        conn.abort(halfclose.BUG)

    def _relay(
        self,
        conn: connection.Connection,
        sock: syscalls.StreamSocket,
        backend: addresses.SocketAddress,
    ) -> None:
        """The handshake was over when connect returned: hand the socket to the relay."""
        conn.server = server = relay.Leg(conn, sock, sock.fileno())
        client = conn.client
        try:
            self.poller.register_pair(server.fd, server, client.fd, client)
        except OSError:
            conn.abort(halfclose.NO_RESOURCES)
        else:
            if self._boxed:
                self._box.succeed(backend)
            self._link(conn, client, server, backend)

    def _link(
        self,
        conn: connection.Connection,
        client: relay.Leg,
        server: relay.Leg,
        backend: addresses.SocketAddress,
    ) -> None:
        """Let bytes flow, beginning with those that came from the client during the dial."""
        conn.backend = backend
        target = conn.target
        tally = conn.tally = target.counters.endpoints[backend]
        tally.total += 1
        if self._shared.feed is not None:
            self._publish_dialled(self._shared.feed, conn, backend)
        server.peer = client
        client.peer = server
        if client.unsent is None and not client.eof and not client.readable:
            # The client leg's next event is not for the fast path: see Connection.make_prompt.
            server.quick = True
        else:
            conn.make_prompt()
            client.pump()
            client.settle()
        roll = target.terms.roll
        if roll is not None and conn.is_open:
            roll.enter(conn)

    def _wait(
        self,
        conn: connection.Connection,
        sock: syscalls.StreamSocket,
        backend: addresses.SocketAddress,
        attempts: Attempts,
    ) -> None:
        """The handshake takes time: wait for its event or its timeout.

        The client is watched meanwhile, so that a reset of its own ends the dial.
        """
        dial = Dial(self, conn, sock, backend, attempts)
        conn.dial = dial
        self._waiting.setdefault(backend, set()).add(dial)
        self._queues[len(attempts)].append(dial)
        event_poller = self.poller
        try:
            event_poller.register(dial.fd, dial, poller.RELAY_BOTH)
            if not event_poller.is_registered(conn.client.fd, conn.client):
                event_poller.register(conn.client.fd, conn.client, poller.RELAY)
        except OSError:
            conn.abort(halfclose.NO_RESOURCES)
            return
        if self._timer is None or dial.deadline < self._timer_at:
            self._schedule(dial.deadline)

    def _next(self, conn: connection.Connection, attempts: Attempts) -> None:
        """The last of `attempts` has just failed: try another endpoint while rungs are left."""
        backend, reason = attempts[-1]
        now = self.poller.now
        if self._shared.feed is not None:
            self._publish_failed(self._shared.feed, conn, attempts)
        conn.target.counters.dial_failures[reason] += 1
        is_news = False
        if not dial_failures.is_our_own_fault(reason):
            conn.target.counters.endpoints[backend].dial_failures += 1
            is_news = self._box.fail(backend, now)
        tried = [attempt[0] for attempt in attempts]
        if len(attempts) == len(LADDER):
            self._turn_away(conn, halfclose.DIAL_FAILED, attempts)
        else:
            choice = conn.target.picker.repick(conn.address, tried, now)
            if choice is None:
                self._turn_away(conn, halfclose.NO_ENDPOINTS, attempts)
            else:
                self._attempt(conn, choice, attempts)
        if is_news:
            self._on_boxed()
            self._move_on(backend)

    def _move_on(self, backend: addresses.SocketAddress) -> None:
        """`backend` has just failed: dials that wait on it move on, if another backend is left.

        They do not mark the backend again, since their own dials have not failed.
        """
        for dial in list(self._waiting.get(backend, ())):
            conn = dial.conn
            if conn is None:
                continue
            attempts = (*dial.attempts, (backend, "moved-on"))
            tried = [attempt[0] for attempt in attempts]
            if len(attempts) == len(LADDER) or not conn.target.picker.has_alternative(
                conn.address, tried
            ):
                continue
            dial.cancel()
            conn.dial = None
            if self._shared.feed is not None:
                self._publish_failed(self._shared.feed, conn, attempts)
            try:
                choice = conn.target.picker.repick(conn.address, tried, self.poller.now)
                assert choice is not None
                self._attempt(conn, choice, attempts)
            except Exception:
                self._contain(conn)

    def _publish_dialled(
        self, feed: events.Feed, conn: connection.Connection, backend: addresses.SocketAddress
    ) -> None:
        if feed.is_full:
            feed.drop()
            return
        now = self.poller.now
        client = conn.source[:2]
        waited = now - conn.accepted_at
        feed.publish(events.Dialled(now, conn.target.text, client, backend, waited))

    def _publish_failed(
        self, feed: events.Feed, conn: connection.Connection, attempts: Attempts
    ) -> None:
        if feed.is_full:
            feed.drop()
            return
        backend, reason = attempts[-1]
        client = conn.source[:2]
        feed.publish(
            events.DialFailed(
                self.poller.now, conn.target.text, client, backend, reason, len(attempts)
            )
        )

    def _turn_away(
        self, conn: connection.Connection, reason: halfclose.Reason, attempts: Attempts
    ) -> None:
        """No backend can be reached: reset the client, and say why in the log."""
        self._on_unreachable(conn, attempts)
        conn.abort(reason)

    def _schedule(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay = max(deadline - self.poller.now, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        """Fail the dials whose time is up.

        Events come first: after a pause of the whole process (SIGSTOP, a suspended machine) the
        handshake may have completed long ago.
        """
        self._timer = None
        self.poller.turn()
        now = self.poller.now
        heads = []
        for queue in self._queues:
            while queue and (queue[0].conn is None or queue[0].deadline <= now):
                dial = queue.popleft()
                if dial.conn is not None:
                    self.on_failed(dial, "timeout")
            if queue:
                heads.append(queue[0].deadline)
        if heads:
            self._schedule(min(heads))
