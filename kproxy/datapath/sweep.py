"""Visit every connection now and then, for all that need not happen at once.

Timers per connection would cost each one of thousands of short connections something; a sweep
costs the long-lived ones a visit every few seconds. A visit

- arms keepalive and the reset-on-crash of the backend leg, once a connection has proved to live
  longer than a moment;
- ends a connection that has been half-closed without a byte moving for too long (kube-proxy
  tried half-close without such a limit, leaked sockets, and gave it up: kubernetes 18354);
- gives back the pipe of a direction that has gone quiet;
- is the stall watchdog: bytes wait to be read and their destination has room, yet nothing has
  moved since the last visit. That is a lost edge, which must never happen; it is counted, logged
  and healed instead of becoming an outage.
"""

import asyncio
import math

import structlog

from kproxy.datapath import connection, halfclose, relay

_TICK_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Sweep:
    """Walks the poller's table a slice per tick, all of it once per `period` seconds."""

    def __init__(
        self,
        shared: connection.Shared,
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
        """Stop sweeping."""
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
            handler = handlers[fd]
            if type(handler) is relay.Leg and handler.conn.client is handler:
                try:
                    self.visit(handler.conn, self._shared.poller.now)
                except Exception:
                    _log.exception("a bug ended one connection")
                    handler.on_bug()
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
        moved = client.moved + server.moved
        if moved != conn.seen_moved:
            conn.seen_moved = moved
            conn.progress_at = now
            return
        client.release_idle_pipe()
        server.release_idle_pipe()
        quiet = now - conn.progress_at
        if conn.reason is not None or client.failed or server.failed:
            if quiet >= self._half_closed_timeout:
                conn.abort(halfclose.HALF_CLOSE_TIMEOUT)
                return
        elif self._idle_timeout is not None and quiet >= self._idle_timeout:
            conn.abort(halfclose.IDLE_TIMEOUT)
            return
        if self._is_stalled(client, server) or self._is_stalled(server, client):
            self._recover(conn, client, server)

    def _is_stalled(self, source: relay.Leg, destination: relay.Leg) -> bool:
        """Whether bytes wait in `source` although `destination` has room for them."""
        kernel = self._shared.kernel
        return (
            not source.eof
            and not destination.failed
            and kernel.unread(source.fd) > 0
            and kernel.unsent(destination.fd) == 0
            and source.conn is destination.conn
        )

    def _recover(self, conn: connection.Connection, client: relay.Leg, server: relay.Leg) -> None:
        self._shared.counters.stalls_recovered += 1
        _log.error(
            "recovered a stalled connection: please report this",
            service=conn.target.name,
            client=conn.address,
            state=[leg.describe() for leg in (client, server)],
        )
        for leg in (client, server):
            if leg.peer is not None:
                leg.blocked = False
                leg.readable = True
        for leg in (client, server):
            if leg.peer is not None:
                leg.pump()
