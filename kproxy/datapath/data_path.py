"""The data path as one object: open and close listeners, drain, count.

`DataPath` wires poller, listeners, dialler, prober and sweep together; a process has one. It is
all that the layers above see of the data path.
"""

import asyncio
import contextlib
import errno
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kproxy import events, metrics
from kproxy.datapath import descriptors, episodes, poller, splice, syscalls
from kproxy.datapath.tcp import connection, dial, halfclose, lifespan, probe, sharing, sweep
from kproxy.datapath.tcp.accept import intake, listener, shared_listener
from kproxy.datapath.udp import flow, front, path, table
from kproxy.datapath.udp import target as udp_target
from kproxy.model import addresses, forwarding, names

_COUNTED_AT_ONCE = 1000
"""Descriptors looked at in one step: some 0.2 ms."""
_SHUT_AT_ONCE = 64
"""Listeners closed before the connections that finish have their turn: 10,000 take 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a data path. Seconds and counts."""

    half_closed_timeout: float = 300.0
    """A half-closed connection on which no byte moves for this long is reset."""
    idle_timeout: float | None = None
    """An open connection on which no byte moves for this long is reset; None: never."""
    keepalive_idle: int = 60
    """Silence after which TCP keepalive asks whether a peer is still there; twice as much ends a
    connection to one that is not."""
    backlog: int = 4096
    max_connections: int | None = None
    """None: computed from RLIMIT_NOFILE. More than that computes to is a ConfigError."""
    max_listeners: int | None = None
    """As `max_connections`."""
    proxy_protocol_from: tuple[str, ...] = ()
    """Networks, as CIDRs, whose connections must begin with a PROXY header, which is believed."""
    max_flows: int | None = None
    """Flows of UDP at once. As `max_connections`."""
    udp_timeout: float | None = None
    """A flow on which no datagram moves for this long ends; None: after 30 s, and 10 s before its
    first answer."""
    set_aside: int = 0
    """Descriptors that optional parts of this process may need, and that stay theirs."""


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """One open connection, or flow of datagrams, as `kproxy get connections` shows it.

    `age` is in seconds.
    """

    service: names.ServicePortName
    client: str
    client_port: int
    frontend: addresses.SocketAddress
    backend: addresses.SocketAddress | None
    bytes_from_client: int
    bytes_from_backend: int
    state: str
    age: float


class DataPath:
    """One data path on the running event loop.

    Owns its listeners, every connection accepted by them, and its epoll. Must be made on the
    event loop that will run it, and ended with `close`.
    """

    def __init__(
        self,
        box: dial.PenaltyBox,
        limits: Limits | None = None,
        kernel: syscalls.Kernel | None = None,
        udp_box: udp_target.RefusalBox | None = None,
    ) -> None:
        """`udp_box` is for `open_datagrams`, which cannot be called without it."""
        self._limits = limits or Limits()
        self._kernel = kernel or syscalls.Kernel()
        # splice(2) has no MSG_NOSIGNAL: with SIGPIPE at its default a reset peer would kill us.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        open_files = syscalls.open_files_limit() - self._limits.set_aside
        descriptors.check(
            open_files,
            connections=self._limits.max_connections,
            listeners=self._limits.max_listeners,
            flows=self._limits.max_flows,
        )
        self._poller = poller.Poller(self._kernel)
        self._pipes = splice.PipePool(self._kernel, limit=descriptors.pipe_limit(open_files))
        self._shared = sharing.Shared(self._kernel, self._poller, self._pipes)
        self._open_files = open_files
        self._ephemeral_ports = _ephemeral_ports()
        self._listeners: set[listener.Acceptor] = set()
        self._shared_listeners: dict[str, shared_listener.SharedListener] = {}
        self._udp: path.UdpPath | None = None
        self._udp_box = udp_box
        self._gate = listener.Gate(self._shared, self._connection_limit(), self._shared.episodes)
        self._prober = probe.Prober(self._shared, box)
        self._dialer = dial.Dialer(
            self._shared,
            box,
            on_unreachable=self._on_unreachable,
            on_boxed=self._prober.schedule,
            ephemeral_ports=self._ephemeral_ports,
        )
        self._intake: intake.Intake | None = None
        if self._limits.proxy_protocol_from:
            is_listed = addresses.holder(self._limits.proxy_protocol_from)
            self._intake = intake.Intake(self._shared, self._dialer, is_listed)
        self._first: listener.Starter = self._intake or self._dialer
        """What listeners give their clients to."""
        self._keeper = lifespan.Keeper(self._shared)
        self._sweep = sweep.Sweep(
            self._shared,
            half_closed_timeout=self._limits.half_closed_timeout,
            idle_timeout=self._limits.idle_timeout,
            keepalive_idle=self._limits.keepalive_idle,
        )
        self._poller.attach(asyncio.get_running_loop())
        self._sweep.start()

    def publish_to(self, feed: events.Feed) -> None:
        """Publish facts about connections to `feed`, while it has a subscription."""
        feed.follow(self._give_feed)
        self._keeper.feed = feed

    def _give_feed(self, feed: events.Feed | None) -> None:
        self._shared.feed = feed

    @property
    def connections(self) -> int:
        """Connections open now, dialling ones included."""
        return self._shared.connections

    @property
    def max_connections(self) -> int:
        """Connections that may be open at once; clients beyond wait in the kernel's queues."""
        return self._gate.limit

    @property
    def flows(self) -> int:
        """Flows of datagrams there are now."""
        return self._udp.flows if self._udp is not None else 0

    @property
    def max_flows(self) -> int:
        """Flows of datagrams that there may be at once; the oldest make way for those beyond."""
        limits = self._limits
        return limits.max_flows or descriptors.flow_limit(
            self._open_files, self._open_listeners, limits.max_connections, self._ephemeral_ports
        )

    @property
    def max_listeners(self) -> int:
        """Listeners that there may be, so that descriptors are left for everything else."""
        asked = self._limits.max_listeners
        return asked or descriptors.listener_limit(self._open_files, self._limits.max_connections)

    @property
    def counters(self) -> metrics.DataPathCounters:
        """Counters of the whole data path, live."""
        counters = self._shared.counters
        counters.stale_events = self._poller.stale_events
        counters.bugs = self._poller.bugs
        if self._shared_listeners:
            shared = self._shared_listeners.values()
            counters.shared_listen_drops = sum(each.drops for each in shared)
        return counters

    @property
    def idle_pipes(self) -> int:
        """Empty pipes kept for the next bulk transfer."""
        return self._pipes.idle

    def open(
        self,
        address: addresses.SocketAddress,
        target: connection.Target,
        admitted: forwarding.Admission = None,
    ) -> listener.Listener:
        """Listen on `address` and relay its clients to backends of `target`'s picker.

        What `admitted` leaves out is dropped.
        Raises OSError as bind(2) and listen(2) do. The listener is the data path's; end it with
        `shut`. Port 0 lets the kernel pick; see `Listener.address`. EMFILE also means that
        open connections hold the descriptors which listeners may have.
        """
        self._need_file()
        limits = self._limits
        sock = self._kernel.listen(
            address, limits.backlog, limits.keepalive_idle, is_deaf=admitted is not None
        )
        with _closed_on_error(sock):
            opened = listener.Listener(sock, target, self._shared, self._first, self._gate)
        if admitted is not None:
            with _closed_on_error(opened):
                opened.admit(admitted)
        self._listeners.add(opened)
        self._share_files()
        return opened

    def share(self, name: str, descriptor: int) -> None:
        """Take a duplicate of a listening socket, for `open_shared`. Raises OSError.

        No client may connect to it before the first `open_shared`.
        """
        limits = self._limits
        sock = self._kernel.adopt(descriptor, limits.backlog, limits.keepalive_idle)
        with _closed_on_error(sock):
            opened = shared_listener.SharedListener(
                sock, name, self._shared, self._first, self._gate
            )
        self._listeners.add(opened)
        self._shared_listeners[name] = opened
        self._share_files()

    def open_shared(
        self,
        where: forwarding.SharedListener,
        target: connection.Target | shared_listener.Maker,
    ) -> shared_listener.Place:
        """Relay the clients of a shared socket that connected to the address in `where`.

        Costs no descriptor. Raises OSError if no such socket was shared.
        """
        shared = self._shared_listeners.get(where.name)
        if shared is None or shared.fd < 0:
            raise OSError(errno.EBADF, f"there is no shared listener {where.name}")
        return shared.open(where.address, target)

    def open_datagrams(
        self,
        address: addresses.SocketAddress,
        target: udp_target.Target,
        admitted: forwarding.Admission = None,
    ) -> front.Front:
        """Take datagrams at `address`, and pass each client's on to a backend of `target`'s picker.

        As `open`.
        """
        self._need_file()
        opened = self._udp_path().open(address, target, admitted)
        self._share_files()
        return opened

    def note_change(self) -> None:
        """What the pickers of fronts choose from has changed: flows follow."""
        if self._udp is not None:
            self._udp.note_change()

    def shut(self, opened: listener.Acceptor | shared_listener.Place | front.Front) -> None:
        """Stop listening: new clients are refused, existing connections go on to their end.

        Flows of datagrams have no end of their own: they end with their front.
        """
        if isinstance(opened, shared_listener.Place):
            opened.close()
            return
        if isinstance(opened, front.Front):
            self._udp_path().shut(opened)
        else:
            opened.close()
            self._listeners.discard(opened)
        self._share_files()

    async def drain(self, grace: float) -> int:
        """Stop accepting and let connections finish for `grace` seconds.

        Flows of datagrams end before, when first answers that are due have come or taken too long.
        Returns how many connections were left and reset. Cancelling it leaves them to `close`.
        """
        deadline = asyncio.get_running_loop().time() + grace
        for count, opened in enumerate(list(self._listeners), 1):
            self.shut(opened)
            if count % _SHUT_AT_ONCE == 0:
                await asyncio.sleep(0)
        if self._udp is not None:
            await self._udp.drain(grace)
        if self._shared.connections:
            finished = asyncio.Event()

            def on_room() -> None:
                if not self._shared.connections:
                    finished.set()

            self._shared.on_room = on_room
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await finished.wait()
        return self.abort_all()

    def abort_all(self) -> int:
        """Reset every open connection; returns how many there were."""
        open_now = list(self._open_connections())
        for conn in open_now:
            conn.abort(halfclose.KILLED)
        return len(open_now)

    @property
    def has_events(self) -> bool:
        """Whether a socket waits for its turn on this thread."""
        return self._poller.has_events

    def close(self) -> None:
        """Reset what is left and give every descriptor back."""
        for opened in list(self._listeners):
            self.shut(opened)
        self.abort_all()
        if self._udp is not None:
            self._udp.close()
        self._sweep.close()
        self._keeper.close()
        self._dialer.close()
        if self._intake is not None:
            self._intake.close()
        self._prober.close()
        self._shared.episodes.close()
        self._poller.close()
        self._pipes.close()

    @property
    def lifetimes(self) -> lifespan.Keeper:
        """What limits the lifetimes of connections."""
        return self._keeper

    def connection_views(
        self, is_asked_for: Callable[[names.ServicePortName], bool] = lambda _: True
    ) -> Iterator[ConnectionView | None]:
        """The open connections and flows of the services so asked for, each as it is when its turn
        comes; None is a step without one."""
        for count, handler in enumerate(self._poller.handlers(), 1):
            if count % _COUNTED_AT_ONCE == 0:
                yield None
            conn = connection.of_client(handler)
            if conn is None:
                if type(handler) is flow.Flow and is_asked_for(handler.front.target.name):
                    yield self._flow_view(handler)
            elif is_asked_for(conn.target.name):
                yield ConnectionView(
                    service=conn.target.name,
                    client=conn.address,
                    client_port=conn.client_port,
                    frontend=addresses.SocketAddress(*conn.client.sock.getsockname()[:2]),
                    backend=conn.backend,
                    bytes_from_client=conn.client.total,
                    bytes_from_backend=conn.server.total if conn.server else 0,
                    state=self._keeper.state(conn),
                    age=self._poller.now - conn.accepted_at,
                )

    def _flow_view(self, seen: flow.Flow) -> ConnectionView:
        return ConnectionView(
            service=seen.front.target.name,
            client=seen.client[0],
            client_port=seen.client[1],
            frontend=seen.front.address,
            backend=seen.backend,
            bytes_from_client=seen.from_client,
            bytes_from_backend=seen.from_backend,
            state=seen.state,
            age=self._poller.now - seen.began_at,
        )

    def count_bytes(self) -> Iterator[None]:
        """Bring the counters of bytes up to date with open connections and flows, in steps."""
        handlers = self._poller.handlers()
        for fd in range(len(handlers)):  # the table never shrinks
            handler = handlers[fd]
            conn = connection.of_client(handler)
            if conn is not None:
                conn.count_bytes()
            elif type(handler) is flow.Flow:
                handler.count_bytes()
            if fd % _COUNTED_AT_ONCE == 0:
                yield

    def _open_connections(self) -> Iterator[connection.Connection]:
        for handler in self._poller.handlers():
            conn = connection.of_client(handler)
            if conn is not None:
                yield conn

    @property
    def _open_listeners(self) -> int:
        """Listeners and fronts."""
        return len(self._listeners) + (self._udp.fronts if self._udp is not None else 0)

    def _connection_limit(self) -> int:
        """The limit for the present number of listeners."""
        flows = self.max_flows if self._udp is not None and self._udp.fronts else 0
        possible = descriptors.connection_limit(
            self._open_files, self._open_listeners, flows + self._resting
        )
        return min(possible, self._limits.max_connections or possible)

    def _share_files(self) -> None:
        """Listeners have come or gone: what they leave is for connections and flows."""
        self._gate.limit = self._connection_limit()
        if self._udp is not None:
            self._udp.share(self.max_flows, self._files_left, self._resting)

    def _need_file(self) -> None:
        """Raise OSError unless a descriptor is left for one more listener."""
        if not self._has_file():
            raise OSError(errno.EMFILE, "connections hold the files that listeners could have")

    def _has_file(self) -> bool:
        """Whether clients and listeners leave a descriptor for one more flow or listener."""
        return 2 * self._shared.connections + self.flows < self._files_left

    @property
    def _files_left(self) -> int:
        """The descriptors that listeners leave to connections and flows."""
        return descriptors.free(self._open_files) - self._open_listeners - self._resting

    @property
    def _resting(self) -> int:
        """How many sockets may rest between two flows."""
        if self._udp is None or not self._udp.fronts:
            return 0
        return descriptors.resting_limit(
            self._open_files, self._open_listeners, self._limits.max_connections, self.max_flows
        )

    def _udp_path(self) -> path.UdpPath:
        """The part for UDP, made when it is first needed."""
        if self._udp is None:
            assert self._udp_box is not None
            timeout = self._limits.udp_timeout
            self._udp = path.UdpPath(
                self._shared,
                self._udp_box,
                path.Settings(
                    limit=self.max_flows,
                    answered_seconds=timeout or table.ANSWERED_SECONDS,
                    unanswered_seconds=timeout or table.UNANSWERED_SECONDS,
                ),
                self._files_left,
                self._ephemeral_ports,
            )
        return self._udp

    def _on_unreachable(self, conn: connection.Connection, attempts: dial.Attempts) -> None:
        """Say why the first client of an episode was turned away, and count the others."""
        is_of_service = conn.target.name.service.is_of_service
        self._shared.episodes.note(
            episodes.UNREACHABLE if attempts or is_of_service else episodes.TURNED_AWAY,
            conn.target.text,
            lambda: {
                "client": conn.address,
                "attempts": [f"{backend}: {reason}" for backend, reason in attempts],
            },
        )


def _ephemeral_ports() -> range:
    """The ports the kernel gives to outgoing connections."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
        low, high = map(int, text.split())
    except (OSError, ValueError):
        return range(1024, 65536)
    return range(low, high + 1)


@contextlib.contextmanager
def _closed_on_error(opened: syscalls.StreamSocket | listener.Listener) -> Iterator[None]:
    """Close what an OSError in the block leaves without an owner."""
    try:
        yield
    except OSError:
        opened.close()
        raise
