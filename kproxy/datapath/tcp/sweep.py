"""Visit every connection now and then, for all that need not happen at once.

Timers per connection would cost each one of thousands of short connections something; a sweep
costs the long-lived ones a visit every few seconds. A visit

- arms the backend leg's keepalive, and the reset of both legs should this process be killed, once
  a connection has proved to live longer than a moment;
- ends a connection that has been half-closed without a byte moving for too long (kube-proxy
  tried half-close without such a limit, leaked sockets, and gave it up: kubernetes 18354);
- ends a connection whose peer has vanished with data unacknowledged, when keepalive is silent;
- gives back the pipe of a direction that has gone quiet;
- is the stall watchdog: bytes wait and their destination has room, yet nothing has moved for a
  while. That is a lost edge, which must never happen; it is counted, logged and healed instead of
  becoming an outage.

Bytes have moved when some were read from either socket, or when a peer has acknowledged some: a
slow reader makes progress too.
"""

import asyncio
import math

from kproxy.datapath import episodes, syscalls
from kproxy.datapath.tcp import connection, halfclose, relay, sharing

_TICK_SECONDS = 0.5
_STALL_SECONDS = 1.0
"""Quiet time before waiting bytes count as a stall: their event may be on its way."""


class Sweep:
    """Walks the poller's table a slice per tick, all of it once per `period` seconds."""

    def __init__(
        self,
        shared: sharing.Shared,
        *,
        half_closed_timeout: float,
        idle_timeout: float | None,
        keepalive_idle: int,
        period: float = 10.0,
    ) -> None:
        self._shared = shared
        self._half_closed_timeout = half_closed_timeout
        self._idle_timeout = idle_timeout
        self._keepalive_idle = keepalive_idle
        shortest = min(half_closed_timeout, idle_timeout or math.inf, keepalive_idle, period * 4)
        self._period = min(period, shortest / 4)
        self._tick = min(_TICK_SECONDS, self._period)
        self._position = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Sweep until `close`."""
        self._timer = asyncio.get_running_loop().call_later(self._tick, self._run)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        """Visit one slice. I/O comes first: after a pause of the process, bytes may be waiting
        that show a connection to be alive."""
        self._shared.poller.turn()
        handlers = self._shared.poller.handlers()
        size = len(handlers)
        share = math.ceil(size * self._tick / self._period)
        for fd in range(self._position, min(self._position + share, size)):
            conn = connection.of_client(handlers[fd])
            if conn is not None:
                try:
                    self.visit(conn, self._shared.poller.now)
                except Exception:
                    self._shared.poller.note_bug()
                    conn.abort(halfclose.BUG)
        self._position = (self._position + share) if self._position + share < size else 0
        self.start()

    def visit(self, conn: connection.Connection, now: float) -> None:
        """Look after one open connection."""
        server = conn.server
        if server is None:
            return
        client = conn.client
        if not conn.armed:
            conn.arm(self._keepalive_idle)
            conn.note_progress()
            return
        waiting = self._waiting(client) + self._waiting(server)
        seen = (client.total, server.total, waiting)
        if seen != conn.seen:
            conn.seen = seen
            conn.progress_at = now
            return
        client.release_idle_pipe()
        server.release_idle_pipe()
        quiet = now - conn.progress_at
        if reason := self._overdue(conn, quiet):
            conn.abort(reason)
        elif waiting and (vanished := self._vanished(client) or self._vanished(server)):
            conn.abort(conn.reset_by(vanished))
        elif quiet >= _STALL_SECONDS and (
            self._is_stalled(client, server) or self._is_stalled(server, client)
        ):
            self._recover(conn, client, server)

    def _waiting(self, leg: relay.Leg) -> int:
        """Bytes on their way out through a leg, and in the pipe that leads away from it."""
        piped = leg.pipe.filled if leg.pipe is not None else 0
        return self._shared.kernel.unsent(leg.fd) + piped

    def _overdue(self, conn: connection.Connection, quiet: float) -> halfclose.Reason | None:
        """The reason to end a connection that has been quiet for too long, if it has."""
        server = conn.server
        if conn.reason is not None or conn.client.failed or (server and server.failed):
            return halfclose.HALF_CLOSE_TIMEOUT if quiet >= self._half_closed_timeout else None
        if self._idle_timeout is not None and quiet >= self._idle_timeout:
            return halfclose.IDLE_TIMEOUT
        return None

    def _vanished(self, leg: relay.Leg) -> relay.Leg | None:
        """`leg`, if its peer has not answered for as long as keepalive would wait.

        Keepalive does not act while data is unacknowledged. A live peer whose window is closed
        answers each window probe.
        """
        silent = syscalls.unanswered_for(leg.sock)
        return leg if silent >= 2 * self._keepalive_idle else None

    def _is_stalled(self, source: relay.Leg, destination: relay.Leg) -> bool:
        """Whether bytes wait in or behind `source` although `destination` has room for them."""
        kernel = self._shared.kernel
        if destination.failed or kernel.unsent(destination.fd):
            return False
        if source.unsent is not None or (source.pipe is not None and source.pipe.filled):
            return True
        return not source.eof and kernel.unread(source.fd) > 0

    def _recover(self, conn: connection.Connection, client: relay.Leg, server: relay.Leg) -> None:
        self._shared.counters.stalls_recovered += 1
        state = [leg.describe() for leg in (client, server)]
        self._shared.episodes.note(
            episodes.STALLED,
            conn.target.text,
            lambda: {"client": conn.address, "state": state},
        )
        for leg in (client, server):
            if leg.peer is not None:
                leg.blocked = False
                leg.readable = True
        for leg in (client, server):
            if leg.peer is not None:
                leg.pump()
