"""One flow: the datagrams between a client's address and port and one backend.

Each flow has a socket of its own, connected to its backend. So the kernel lets in what comes from
that backend alone, its answers need no look-up, and an ICMP error of the backend's host is an error
of this socket.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

from kproxy.datapath.udp import backend_sockets
from kproxy.model import addresses

if TYPE_CHECKING:
    from collections import OrderedDict

    from kproxy import metrics
    from kproxy.datapath import loads
    from kproxy.datapath.udp import front

_AT_ONCE = 8
"""Answers taken per event, after the first one of all. That one is often the only one, and a read
in vain costs as much as another one: if there are more, the kernel says so again."""

Client: TypeAlias = tuple[Any, ...]
"""A client's address as recvfrom(2) gives it and sendto(2) takes it: it begins with IP address and
port, and has two numbers more in IPv6."""


class Flow:
    """The datagrams of one client. Its front makes it, ends it, and closes its socket."""

    __slots__ = (
        "__weakref__",
        "_pace",
        "_receive",
        "backend",
        "began_at",
        "client",
        "counted",
        "fd",
        "from_backend",
        "from_client",
        "front",
        "held",
        "is_answered",
        "is_late",
        "load",
        "queue",
        "send",
        "socket",
        "tally",
        "tried",
        "used",
        "version",
    )

    def __init__(
        self,
        owner: "front.Front",
        client: Client,
        backend: addresses.SocketAddress,
        queue: "OrderedDict[Flow, None]",
        now: float,
    ) -> None:
        self._pace = owner.pace
        self.front = owner
        self.client = client
        self.backend = backend
        self.queue = queue
        """The order of use that this flow stands in: its front's answered or unanswered ones."""
        self.began_at = self.used = now
        self.version = 0
        """The version of what there is to choose from, of which `backend` is known to be."""
        self.from_client = 0
        self.from_backend = 0
        """Payload bytes."""
        self.counted = (0, 0)
        """How many of them the counters of the service port have."""
        self.is_answered = False
        self.is_late = False
        self.held: bytes | None = None
        """The first datagram, for as long as it may have to be sent to another backend."""
        self.tried: tuple[addresses.SocketAddress, ...] = ()
        """Backends that have refused it."""
        self.load: loads.Load | None = None
        """Where it is counted, if the strategy counts."""
        self.tally: metrics.EndpointCounters

    def connect(self, socket: backend_sockets.BackendSocket) -> None:
        """Use this socket, which is connected to `backend`, from now on."""
        self.socket = socket
        self.fd = socket.fd
        self.send = socket.send
        self._receive = socket.receive

    @property
    def state(self) -> str:
        """In a word, for people."""
        return "answered" if self.is_answered else "unanswered"

    def on_events(self, mask: int) -> None:  # noqa: ARG002  # an error is found by reading
        """Pass answers on to the client, or find out that the backend refuses."""
        pace = self._pace
        if pace.at != pace.poller.now:
            pace.begin()
        if pace.left <= 0:
            pace.defer(self)
            return
        owner = self.front
        client = self.client
        receive = self._receive
        buffer, view, answer = owner.buffer, owner.view, owner.answer
        most = _AT_ONCE if self.is_answered else 1
        count = moved = failure = 0
        try:
            while count < most:
                size = receive(buffer)
                count += 1
                moved += size
                try:
                    answer(view[:size], client)
                except OSError:
                    owner.lose()
        except BlockingIOError:
            pass
        except OSError as error:
            failure = error.errno or 0
        pace.left -= count or 1
        if count:
            self.from_backend += moved
            owner.counters.datagrams += count
            if not self.is_answered:
                owner.on_answered(self)
            elif self.used != pace.at:
                self.used = pace.at
                self.queue.move_to_end(self)
        if failure:
            owner.on_refused(self, failure)

    def on_bug(self) -> None:
        """An exception escaped: end this flow."""
        self.front.on_bug_of(self)

    def count_bytes(self) -> None:
        """Bring the counters of the service port up to date while the flow goes on."""
        counters = self.front.target.counters
        sent, received = self.counted
        counters.bytes_from_clients += self.from_client - sent
        counters.bytes_from_backends += self.from_backend - received
        self.counted = self.from_client, self.from_backend
