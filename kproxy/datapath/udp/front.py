"""The front socket of a frontend: clients' datagrams come in here, and answers leave here.

It is bound to the frontend's own address, so an answer comes from where the client sent to. A flow
is known by the client's address and port. Its backend is chosen once and then kept, but looked at
again when backends have changed: a flow whose backend has left moves to another with its next
datagram, and one whose backend refused (an ICMP error) moves at once. If what was refused was the
flow's first datagram, it is sent to the next backend: its client notices nothing.
"""

import errno

from kproxy import events, metrics
from kproxy.datapath import admission, episodes, poller, syscalls
from kproxy.datapath.tcp import sharing
from kproxy.datapath.udp import backend_sockets, endings, flow, pace, table, target
from kproxy.model import addresses, forwarding

_AT_ONCE = 16
"""Datagrams taken per event."""
_LONGEST_HELD = 2048
"""Bytes of a first datagram that is kept for another backend."""
_MOST_ATTEMPTS = 4
"""Backends that a first datagram is sent to, as many as a TCP client's dial tries."""
_REFUSALS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
    }
)
"""Errors by which the network says that no datagram reaches this endpoint. Every other one says
nothing about it: a buffer is full, memory is short, a firewall of this host is in the way."""


class Front:
    """A front socket in the poller, and its flows. Owns all their sockets until `close`."""

    def __init__(
        self,
        sock: syscalls.DatagramSocket,
        to: target.Target,
        shared: sharing.Shared,
        limits: table.Table,
        rhythm: pace.Pace,
        box: target.RefusalBox,
        buffer: bytearray,
        sockets: backend_sockets.BackendSockets,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        name = sock.getsockname()
        self.address = addresses.SocketAddress(name[0], name[1])
        self.target = to
        self.pace = rhythm
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.answer = sock.sendto
        self.counters: metrics.DataPathCounters = shared.counters
        self.is_late = False
        self.flows: dict[flow.Client, flow.Flow] = {}
        self.answered: table.Queue = table.Queue()
        self.unanswered: table.Queue = table.Queue()
        self._receive = sock.recvfrom_into
        self._shared = shared
        self._table = limits
        self._box = box
        self._sockets = sockets
        shared.poller.register(self.fd, self, poller.READABLE)

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # a front has one sort of event
        """Pass datagrams of clients on, each in its flow."""
        rhythm = self.pace
        if rhythm.at != rhythm.poller.now:
            rhythm.begin()
        if rhythm.left <= 0:
            rhythm.defer(self)
            return
        flows = self.flows
        receive = self._receive
        buffer, view = self.buffer, self.view
        now = rhythm.at
        version = self._table.version
        count = 0
        try:
            while count < _AT_ONCE:
                size, client = receive(buffer)
                count += 1
                found = flows.get(client)
                if found is None:
                    self._begin(client, size)
                    continue
                if found.version != version and not self._review(found):
                    continue
                if found.used != now:
                    found.used = now
                    found.held = None
                    found.queue.move_to_end(found)
                found.from_client += size
                try:
                    found.send(view[:size])
                except OSError as error:
                    self._on_unsent(found, size, error.errno or 0)
        except BlockingIOError:
            pass
        rhythm.left -= count or 1
        self.counters.datagrams += count

    def on_bug(self) -> None:
        """Nothing is owned beyond the socket and the flows: the next datagram gets its chance."""

    def admit(self, admitted: forwarding.Admission) -> None:
        """Drop what `admitted` leaves out, from now on. Raises OSError as `admission.admit`."""
        admission.admit(self.sock, addresses.family(self.address.address), admitted)

    @property
    def drops(self) -> int:
        """Datagrams that the kernel dropped because the socket's buffer was full, or because they
        are not admitted; 0 once closed.

        Read from the kernel. `close` adds them to the service port's counters.
        """
        return syscalls.listen_drops(self.sock) if self.fd >= 0 else 0

    def close(self) -> None:
        """Close the front socket and end every flow."""
        if self.fd < 0:
            return
        for each in list(self.flows.values()):
            self.end(each, endings.FRONTEND_CLOSED)
        self.target.counters.listen_drops += self.drops
        self._shared.poller.unregister(self.fd)
        self.fd = -1
        self.sock.close()

    def end(self, ending: flow.Flow, reason: endings.Reason) -> None:
        """A flow is over: settle the counts, and give its socket up."""
        if self.flows.pop(ending.client, None) is None:
            return
        del ending.queue[ending]
        if self._shared.feed is not None:
            self._publish_end(self._shared.feed, ending, reason)
        counters = self.target.counters
        counters.ended[reason] += 1
        ending.count_bytes()
        ending.tally.ended += 1
        if ending.load is not None:
            ending.load.leave()
        ending.fd = -1
        self._sockets.release(ending.socket)
        self._table.remove(ending)

    def lose(self) -> None:
        """Count a datagram that could not be passed on."""
        self.counters.datagrams_lost += 1

    def on_answered(self, answered: flow.Flow) -> None:
        """The first answer of a flow: it may be idle for longer, and its backend is well."""
        answered.is_answered = True
        answered.held = None
        answered.tried = ()
        answered.used = self.pace.at
        del answered.queue[answered]
        answered.queue = self.answered
        answered.queue[answered] = None
        if self._box.boxed or self._box.paroled:
            self._box.succeed(answered.backend)

    def on_refused(self, refused: flow.Flow, code: int) -> None:
        """The network said that a datagram did not reach the backend of a flow.

        Another backend is chosen for what comes next. A first datagram is sent there.
        """
        if code not in _REFUSALS:
            self.lose()
            return
        backend, reason = refused.backend, errno.errorcode[code]
        counters = self.target.counters
        counters.dial_failures[reason] += 1
        counters.endpoints[backend].dial_failures += 1
        refused.tried = (*refused.tried, backend)
        if self._shared.feed is not None:
            self._publish_refused(self._shared.feed, refused, reason)
        if self._box.fail(backend, self.pace.at):
            self._table.version += 1
        held, refused.held = refused.held, None
        if len(refused.tried) >= _MOST_ATTEMPTS or held is None:
            refused.tried = (backend,)
            held = None
        choice = self.target.picker.repick(refused.client[0], refused.tried, self.pace.at)
        if choice is None:
            self.lose()
            self.end(refused, endings.NO_ENDPOINTS)
            return
        if held is None or choice in refused.tried:
            self.lose()
            self._note_refused(refused, reason)
            held = None
        if choice == backend or not self._move(refused, choice) or held is None:
            return
        refused.held = held
        try:
            refused.send(held)
        except OSError:
            self.lose()

    def on_bug_of(self, broken: flow.Flow) -> None:
        """An exception escaped while a flow was handled: end it."""
        self.end(broken, endings.BUG)

    def _begin(self, client: flow.Client, size: int) -> None:
        """The first datagram of a client, which is in the buffer: choose a backend and send it."""
        now = self.pace.at
        counters = self.target.counters
        own = self._table.own
        if client[1] in own.ports and own.led_back(client, self.target.text, self._shared.episodes):
            self.lose()
            return
        away = self.target.turned_away
        if away is not None and away.holds(client, now):
            self.lose()
            return
        backend = self.target.picker.pick(client[0], now)
        if backend is None:
            if away is not None:
                away.add(client, now)
            counters.end_at_once(endings.NO_ENDPOINTS)
            self.lose()
            return
        limits = self._table
        is_full = (
            limits.count >= limits.limit
            or limits.count + 2 * self._shared.connections >= limits.files
        )
        if is_full and not limits.make_room(self):
            counters.end_at_once(endings.NO_RESOURCES)
            self.lose()
            return
        begun = flow.Flow(self, client, backend, self.unanswered, now)
        if not self._connect(begun):
            if begun.load is not None:
                begun.load.leave()
            counters.end_at_once(endings.NO_RESOURCES)
            self.lose()
            return
        if own.countdown:
            own.countdown -= 1
        else:
            own.note(begun)
        begun.version = limits.version
        begun.from_client = size
        counters.accepted += 1
        self.flows[client] = begun
        self.unanswered[begun] = None
        limits.add(begun)
        if self._shared.feed is not None:
            self._publish_begun(self._shared.feed, begun)
        if size <= _LONGEST_HELD:
            begun.held = bytes(self.view[:size])
        try:
            begun.send(self.view[:size])
        except OSError as error:
            self.on_refused(begun, error.errno or 0)

    def _connect(self, wanting: flow.Flow) -> bool:
        """Give a flow a socket that is connected to its backend, and count it there.

        False if that is impossible; it is counted as a failed dial then.
        """
        backend = wanting.backend
        counted = self.target.terms.loads
        if counted is not None:
            wanting.load = counted.moved(wanting.load, backend)
        try:
            wanting.connect(self._sockets.connect(backend, wanting))
        except OSError as error:
            code = error.errno or 0
            self.target.counters.dial_failures[errno.errorcode.get(code, str(code))] += 1
            if code in _REFUSALS:
                self.target.counters.endpoints[backend].dial_failures += 1
                self._box.fail(backend, self.pace.at)
            return False
        tally = wanting.tally = self.target.counters.endpoints[backend]
        tally.total += 1
        return True

    def _review(self, reviewed: flow.Flow) -> bool:
        """Backends have changed: whether a flow may go on, to its backend or another one."""
        client, now = reviewed.client[0], self.pace.at
        picker = self.target.picker
        if not picker.may_keep(client, reviewed.backend):
            choice = picker.pick(client, now)
            if choice is None:
                self.lose()
                self.end(reviewed, endings.NO_ENDPOINTS)
                return False
            if choice != reviewed.backend and not self._move(reviewed, choice):
                return False
        reviewed.version = self._table.version
        return True

    def _move(self, moving: flow.Flow, backend: addresses.SocketAddress) -> bool:
        """Let a flow go on to another backend; False if that is impossible, and the flow ended."""
        socket, tally = moving.socket, moving.tally
        moving.backend = backend
        if not self._connect(moving):
            self.lose()
            self.end(moving, endings.NO_RESOURCES)
            return False
        tally.ended += 1
        self._sockets.release(socket)
        moving.version = self._table.version
        if self._shared.feed is not None:
            self._publish_dialled(self._shared.feed, moving)
        return True

    def _on_unsent(self, unsent: flow.Flow, size: int, code: int) -> None:
        """A datagram of `size` bytes, which is in the buffer, could not be sent.

        An error of the socket is that of an earlier datagram: this one is tried once more, at the
        backend that the flow has then.
        """
        if code not in _REFUSALS:
            self.lose()
            return
        self.on_refused(unsent, code)
        if unsent.fd < 0:
            return
        try:
            unsent.send(self.view[:size])
        except OSError:
            self.lose()

    def _note_refused(self, refused: flow.Flow, reason: str) -> None:
        """A datagram is lost because its backend refused it, and no other one could have it."""
        self._shared.episodes.note(
            episodes.REFUSED,
            self.target.text,
            lambda: {
                "client": refused.client[0],
                "endpoint": str(refused.tried[-1]),
                "reason": reason,
            },
        )

    def _publish_begun(self, feed: events.Feed, begun: flow.Flow) -> None:
        if feed.is_full:
            feed.drop(2)
            return
        client = begun.client[0], begun.client[1]
        feed.publish(events.ConnectionAccepted(begun.began_at, self.target.text, client))
        self._publish_dialled(feed, begun)

    def _publish_dialled(self, feed: events.Feed, dialled: flow.Flow) -> None:
        client = dialled.client[0], dialled.client[1]
        now = self.pace.at
        feed.publish(events.Dialled(now, self.target.text, client, dialled.backend, 0.0))

    def _publish_refused(self, feed: events.Feed, refused: flow.Flow, reason: str) -> None:
        if feed.is_full:
            feed.drop()
            return
        client = refused.client[0], refused.client[1]
        attempt = len(refused.tried)
        feed.publish(
            events.DialFailed(
                self.pace.at, self.target.text, client, refused.backend, reason, attempt
            )
        )

    def _publish_end(self, feed: events.Feed, ending: flow.Flow, reason: endings.Reason) -> None:
        if feed.is_full:
            feed.drop()
            return
        now = self._shared.poller.now
        feed.publish(
            events.ConnectionEnded(
                now,
                self.target.text,
                (ending.client[0], ending.client[1]),
                ending.backend,
                reason,
                endings.MEANING[reason],
                ending.from_client,
                ending.from_backend,
                now - ending.began_at,
            )
        )
