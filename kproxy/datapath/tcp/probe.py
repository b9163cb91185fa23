"""Probe boxed backends in the background, so that no client pays for finding out.

A backend that failed a dial leaves the penalty box only by completing a handshake with a probe,
within the first rung of the dial ladder: one that is merely slower than that would otherwise
go in and out of the box at its clients' cost. The probed server sees a connection that opens
and closes without a byte.
"""

import _socket
import asyncio
import errno

from kproxy.datapath import poller, syscalls
from kproxy.datapath.tcp import dial, dial_failures, sharing
from kproxy.model import addresses

_RETRY_SECONDS = 1.0
"""Wait before probing again when descriptors or memory had run out here."""


class Probe:
    """One probe dial. Owns its socket."""

    __slots__ = ("_prober", "backend", "deadline", "fd", "sock")

    def __init__(
        self,
        prober: "Prober",
        backend: addresses.SocketAddress,
        sock: syscalls.StreamSocket,
        deadline: float,
    ) -> None:
        self._prober = prober
        self.backend = backend
        self.sock = sock
        self.fd = sock.fileno()
        self.deadline = deadline

    def on_events(self, mask: int) -> None:
        """The handshake is over, one way or the other."""
        failed = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if failed or mask & poller.WRITABLE:
            succeeded = not failed and not dial_failures.met_itself(self.sock, self.backend)
            self._prober.settle(self, succeeded=succeeded)

    def on_bug(self) -> None:
        """An exception escaped: the probe counts as failed."""
        self._prober.settle(self, succeeded=False)


class Prober:
    """Runs the probes of one data path. Owns their sockets and one timer."""

    def __init__(self, shared: sharing.Shared, box: dial.PenaltyBox) -> None:
        self._kernel = shared.kernel
        self._poller = shared.poller
        self._box = box
        self._probes: set[Probe] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._is_closed = False

    def close(self) -> None:
        """Stop probing and drop the probes under way."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for probe in self._probes:
            self._poller.close_later(probe.fd, probe.sock)
        self._probes.clear()

    def schedule(self) -> None:
        """Wake up when the next probe is due or the next one under way times out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._box.next_due()
        moments = [probe.deadline for probe in self._probes]
        if due is not None:
            moments.append(max(due, self._not_before))
        if moments and not self._is_closed:
            delay = max(min(moments) - self._poller.now, 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def settle(self, probe: Probe, *, succeeded: bool) -> None:
        """A probe has its answer: report it to the box, drop the socket."""
        if probe not in self._probes:
            return
        self._probes.discard(probe)
        self._poller.close_later(probe.fd, probe.sock)
        self._report(probe.backend, succeeded=succeeded)
        self.schedule()

    def _report(self, backend: addresses.SocketAddress, *, succeeded: bool) -> None:
        if succeeded:
            self._box.succeed(backend)
        elif backend in self._box.boxed:  # else a client has found it well since the probe began
            self._box.fail(backend, self._poller.now)

    def _wake(self) -> None:
        self._timer = None
        self._poller.turn()
        now = self._poller.now
        for probe in [probe for probe in self._probes if probe.deadline <= now]:
            self.settle(probe, succeeded=False)
        if now >= self._not_before:
            for backend in self._box.due_probes(now):
                self._start(backend, now)
        self.schedule()

    def _start(self, backend: addresses.SocketAddress, now: float) -> None:
        """Dial. A failure for lack of resources on this host does not count against the backend."""
        sock = None
        try:
            sock = self._kernel.stream_socket(backend)
            code = sock.connect_ex(backend)
            if code in {0, errno.EINPROGRESS}:
                probe = Probe(self, backend, sock, now + dial.LADDER[0])
                self._poller.register(probe.fd, probe, poller.RELAY_BOTH)
                self._probes.add(probe)
                self._box.probe_started(backend)
                return
        except OSError as error:
            code = error.errno or 0
        if sock is not None:
            sock.close()
        if dial_failures.is_our_own_fault(code):
            self._not_before = now + _RETRY_SECONDS
        else:
            self._box.probe_started(backend)
            self._report(backend, succeeded=False)
