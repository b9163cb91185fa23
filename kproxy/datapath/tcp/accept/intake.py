"""Take clients from proxies in front of this one: a PROXY header has the client's address.

Only addresses that are listed may say so: any other client could give itself any address. And from
a listed address the header is required: to take a connection without one for the client's own would
let a misconfigured proxy pass as all of its clients. A connection that is closed before its header,
as by a health check that only connects, ends without a log line.

The header comes first and in one piece, so mostly it is there when the client is accepted.
Otherwise the connection waits for it, counts as open, and is reset if the header is not whole in
time. No backend is dialled before: the balancer goes by the real client's address.
"""

import asyncio
from collections.abc import Callable, Sequence

from kproxy import events
from kproxy.datapath import episodes, poller, proxy_protocol
from kproxy.datapath.tcp import connection, dial, halfclose, sharing

TIMEOUT = 5.0
"""Seconds in which a header must be whole: enough for two lost packets in a row (RFC 6298)."""


class Awaited(connection.Waiting):
    """A connection whose header is not whole yet. Satisfies `connection.PendingDial`."""

    __slots__ = ("_held", "_intake", "deadline")

    state = "awaiting-proxy-header"

    def __init__(self, intake: "Intake", conn: connection.Connection) -> None:
        super().__init__(conn)
        self._intake = intake
        self._held = b""
        self.deadline = intake.poller.now + TIMEOUT

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # reading shows what has happened
        """Bytes have come, or the end."""
        if self.read():
            self._intake.go_on(self)

    def on_bug(self) -> None:
        """An exception escaped: end the connection."""
        self.conn.abort(halfclose.BUG)

    def cancel(self) -> None:
        """The connection ends, or goes on with its dial."""
        self._intake.forget(self)

    def read(self) -> bool:
        """Read what has come. True once the header is whole, and the connection knows its client.

        What follows the header is kept for the backend. A connection that cannot go on is ended.
        """
        conn, leg = self.conn, self.conn.client
        while True:
            leg.read_first()
            if leg.unsent is None:
                if leg.eof:
                    leg.moved = 0
                    conn.abort(halfclose.LEFT_HEADER)
                return False
            data, leg.unsent = self._held + leg.unsent, None
            try:
                header = proxy_protocol.parse(data)
            except proxy_protocol.HeaderError as error:
                leg.moved = 0
                self._intake.refuse(conn, str(error))
                return False
            if header is not None:
                break
            self._held = data
        leg.moved -= header.size
        leg.unsent = data[header.size :] or None
        if header.ends is not None:
            conn.source, conn.destination = header.ends
        return True


class Intake:
    """Accepts clients for one data path, on behalf of its dialler. Satisfies `listener.Starter`.

    `is_listed` says whether a header is required of, and believed, an address. Owns a timer, and no
    connection.
    """

    def __init__(
        self, shared: sharing.Shared, dialer: dial.Dialer, is_listed: Callable[[str], bool]
    ) -> None:
        self.poller = shared.poller
        self._shared = shared
        self._dialer = dialer
        self._is_listed = is_listed
        self._waiting: dict[Awaited, None] = {}
        """In the order of their deadlines."""
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Stop the timer. Every connection must have ended by now."""
        if self._timer is not None:
            self._timer.cancel()

    def start(self, accepted: Sequence[connection.Connection]) -> None:
        """Dial for accepted clients, at once or when their PROXY header is whole."""
        direct = []
        known = []
        for conn in accepted:
            if not self._is_listed(conn.address):
                direct.append(conn)
                continue
            try:
                awaited = Awaited(self, conn)
                conn.dial = awaited
                if awaited.read():
                    self._name(awaited)
                    known.append(conn)
                elif conn.is_open:
                    self._wait(awaited)
            except Exception:
                self.poller.note_bug()
                conn.abort(halfclose.BUG)
        if direct:
            self._dialer.start(direct)
        if known:
            self._dialer.start(known, has_read=True)

    def go_on(self, awaited: Awaited) -> None:
        """The header is whole: dial."""
        conn = awaited.conn
        self.poller.unregister(conn.client.fd)  # the dialler registers it anew, with all its edges
        self._name(awaited)
        self._dialer.start((conn,), has_read=True)

    def forget(self, awaited: Awaited) -> None:
        """The connection waits for its header no longer."""
        self._waiting.pop(awaited, None)

    def refuse(self, conn: connection.Connection, reason: str) -> None:
        """What came from a listed address is no header: reset, and say so once."""
        peer = conn.address
        self._shared.episodes.note(
            episodes.NO_HEADER, conn.target.text, lambda: {"proxy": peer, "reason": reason}
        )
        conn.abort(halfclose.BAD_HEADER)

    def _name(self, awaited: Awaited) -> None:
        """The connection waits for its header no longer, and is its client's."""
        conn = awaited.conn
        awaited.cancel()
        conn.dial = None
        feed = self._shared.feed
        if feed is None:
            return
        if feed.is_full:
            feed.drop()
            return
        via = conn.client.sock.getpeername()[:2]
        client = conn.source[:2]
        feed.publish(events.ClientNamed(self.poller.now, conn.target.text, client, via))

    def _wait(self, awaited: Awaited) -> None:
        conn = awaited.conn
        try:
            self.poller.register(conn.client.fd, awaited, poller.RELAY)
        except OSError:
            conn.abort(halfclose.NO_RESOURCES)
            return
        self._waiting[awaited] = None
        if self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        first = next(iter(self._waiting))
        delay = max(first.deadline - self.poller.now, 0.001)
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        """Reset those whose time is up. I/O comes first: after a pause of the process, headers may
        have been waiting here for long."""
        self._timer = None
        self.poller.turn()
        now = self.poller.now
        for awaited in list(self._waiting):
            if awaited.deadline > now:
                break
            awaited.conn.client.moved = 0
            awaited.conn.abort(halfclose.HEADER_TIMEOUT)
        if self._waiting:
            self._schedule()
