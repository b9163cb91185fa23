"""The part of a data path that is for UDP: its fronts, its flows, and what both share.

It is made for the first front of a data path: one without UDP pays nothing for it.
"""

import asyncio
import contextlib
from dataclasses import dataclass

from kproxy.datapath import episodes
from kproxy.datapath.tcp import sharing
from kproxy.datapath.udp import backend_sockets, front, pace, table, target
from kproxy.model import addresses, forwarding

_LARGEST = 65536
"""Bytes of the buffer that every datagram goes through: more than one of IPv4 or IPv6 can have."""
ANSWER_SECONDS = 2.0
"""At the end a first answer is not waited for if it has been due for so long: it may never come."""
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of the flows of a data path. Seconds and counts."""

    limit: int
    answered_seconds: float = table.ANSWERED_SECONDS
    unanswered_seconds: float = table.UNANSWERED_SECONDS


class UdpPath:
    """Fronts and flows of one data path on the running event loop. Owns their sockets.

    `files` are the descriptors that are left for flows and connections.
    """

    def __init__(
        self,
        shared: sharing.Shared,
        box: target.RefusalBox,
        settings: Settings,
        files: int,
        ephemeral_ports: range,
    ) -> None:
        self._shared = shared
        self._box = box
        self._pace = pace.Pace(shared.poller)
        self._buffer = bytearray(_LARGEST)
        self._sockets = backend_sockets.BackendSockets(
            shared.kernel, shared.poller, self._buffer, ephemeral_ports
        )
        self._table = table.Table(
            settings.limit,
            files,
            answered_seconds=settings.answered_seconds,
            unanswered_seconds=settings.unanswered_seconds,
            on_first=self._schedule,
        )
        self._fronts: dict[front.Front, None] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._made_way = 0

    @property
    def flows(self) -> int:
        """Flows there are now."""
        return self._table.count

    @property
    def fronts(self) -> int:
        """Fronts that are open."""
        return len(self._fronts)

    @property
    def limit(self) -> int:
        """Flows that there may be; the oldest make way for those beyond."""
        return self._table.limit

    def share(self, limit: int, files: int, resting: int) -> None:
        """Listeners have come or gone: so many flows there may be from now on, so many descriptors
        are left for them and for connections, and so many sockets may rest between two flows."""
        self._table.limit = limit
        self._table.files = files
        self._sockets.share(resting)

    def open(
        self,
        address: addresses.SocketAddress,
        to: target.Target,
        admitted: forwarding.Admission = None,
    ) -> front.Front:
        """Take datagrams at `address`. Raises OSError as bind(2) does.

        The front is this object's; end it with `shut`.
        """
        sock = self._shared.kernel.datagram_front(address, admitted)
        try:
            opened = front.Front(
                sock,
                to,
                self._shared,
                self._table,
                self._pace,
                self._box,
                self._buffer,
                self._sockets,
            )
        except OSError:
            sock.close()
            raise
        self._fronts[opened] = None
        return opened

    def shut(self, opened: front.Front) -> None:
        """Close a front, and end its flows."""
        opened.close()
        self._fronts.pop(opened, None)

    def note_change(self) -> None:
        """Backends have changed: let every flow be reviewed at its next datagram."""
        self._table.version += 1

    async def drain(self, grace: float) -> None:
        """Close, but serve as before until flows that began just now have had their first answer.

        Not for longer than `grace` seconds. Of a flow that was answered before, it is not known
        whether another answer is due. Cancelling it leaves everything to `close`.
        """
        self._shared.poller.turn()
        until = self._shared.poller.now
        since = until - ANSWER_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(grace, ANSWER_SECONDS)):
                while self._is_answer_due(since, until):  # noqa: ASYNC110  # flows tell nothing
                    await asyncio.sleep(_LOOK_SECONDS)
        self.close()

    def _is_answer_due(self, since: float, until: float) -> bool:
        """Whether a flow waits for its first answer, and had its last datagram in between."""
        return any(
            since < each.used <= until for opened in self._fronts for each in opened.unanswered
        )

    def close(self) -> None:
        """Close every front and end every flow."""
        for opened in list(self._fronts):
            self.shut(opened)
        self._sockets.share(0)
        if self._timer is not None:
            self._timer.cancel()

    def _report_full(self) -> None:
        """Say that flows had to make way since the last time."""
        count = self._table.made_way - self._made_way
        if count:
            self._made_way += count
            self._shared.episodes.note(
                episodes.FLOWS_FULL, details=lambda: {"limit": self.limit}, times=count
            )

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._table.tick, self._wake)

    def _wake(self) -> None:
        """End what is idle, and put backends on parole whose penalty has run out.

        Datagrams come first: after a pause of the process some may be waiting.
        """
        self._timer = None
        self._shared.poller.turn()
        now = self._shared.poller.now
        has_more = self._table.expire(now)
        self._report_full()
        for backend in self._box.due_probes(now):
            self._box.parole(backend)
        if has_more:
            self._timer = self._loop.call_soon(self._wake)
        elif self._table.count or self._box.boxed:
            self._schedule()
