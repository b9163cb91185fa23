"""A `recording.RecordingPlane` in another process: the reconcile suites run on it unchanged.

One process holds them all, each at the other end of a socketpair of its own. Nothing but `wire`
frames goes over that. `pytest --plane process` puts it in place, see `installed`.
"""

import contextlib
import functools
import os
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator, MutableSet
from typing import Any

import pytest

from kproxy.model import forwarding, names
from kproxy.plane import snapshots, wire
from kproxy.reconcile import proxier
from tests.reconcile import recording

BUSY, FREE = "another process", ""
"""The owner in a `Bar`, which here says whether an address is held by another process."""

_TOTALS = snapshots.Totals(
    connections=0, max_connections=0, flows=0, max_flows=1, penalized=0, counters={}
)


class _Busy(MutableSet[forwarding.PortalAddress]):
    """The addresses held by another process, known at both ends."""

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._held: set[forwarding.PortalAddress] = set()

    def __contains__(self, address: object) -> bool:
        return address in self._held

    def __iter__(self) -> Iterator[forwarding.PortalAddress]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def add(self, value: forwarding.PortalAddress) -> None:
        self._held.add(value)
        self._send(forwarding.Bar(value.socket_address, BUSY))

    def discard(self, value: forwarding.PortalAddress) -> None:
        self._held.discard(value)
        self._send(forwarding.Bar(value.socket_address, FREE))


class RemoteRecordingPlane:
    """As `recording.RecordingPlane`. Reports come in `settle`, long after `send`."""

    def __init__(self) -> None:
        self._sock, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_host(), [b"+"], [theirs.fileno()])
        self._frames = wire.Frames()
        self._reports: list[forwarding.Report] = []
        self._answers: list[Any] = []
        self._hear: recording.Hear = lambda _: None
        self._busy = _Busy(self._send)
        self.messages: list[forwarding.Message] = []

    def __del__(self) -> None:
        self._sock.close()

    def subscribe(self, hear: recording.Hear) -> None:
        """Reports come in `settle`."""
        self._hear = hear

    def send(self, message: forwarding.Message) -> None:
        """Send it, and record that."""
        self.messages.append(message)
        self._send(message)

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """`send`, in one step."""
        self.send(message)
        yield

    def drain(self) -> list[forwarding.Message]:
        """The messages since the last call."""
        messages, self.messages = self.messages, []
        return messages

    @property
    def busy(self) -> MutableSet[forwarding.PortalAddress]:
        """Addresses that another process holds."""
        return self._busy

    @busy.setter
    def busy(self, wanted: Iterable[forwarding.PortalAddress]) -> None:
        self._busy.clear()
        self._busy |= set(wanted)

    @property
    def open(self) -> dict[forwarding.PortalAddress, forwarding.OpenFrontend]:
        """What is open, as the other process says."""
        found = self._look()
        return {each.address: each for each in found if isinstance(each, forwarding.OpenFrontend)}

    @property
    def backends(self) -> dict[names.ServicePortName, forwarding.SetBackends]:
        """The backends in force, as the other process says."""
        found = self._look()
        return {each.name: each for each in found if isinstance(each, forwarding.SetBackends)}

    def settle(self) -> bool:
        """Hand on every report to what was sent so far; whether there were any."""
        self._look()
        reports, self._reports = self._reports, []
        for each in reports:
            self._hear(each)
        return bool(reports)

    def _look(self) -> list[Any]:
        """What is in force, after all that was sent."""
        self._send(wire.Look(0, 0))
        while not any(isinstance(each, wire.Looked) for each in self._answers):
            self._read()
        answers, self._answers = self._answers, []
        return answers

    def _send(self, message: Any) -> None:
        unsent = memoryview(wire.encode(message))
        while unsent:
            # The other end may be waiting for us to read.
            with selectors.DefaultSelector() as ready:
                ready.register(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
                ((_, possible),) = ready.select()
            if possible & selectors.EVENT_READ:
                self._read()
            if possible & selectors.EVENT_WRITE:
                unsent = unsent[self._sock.send(unsent, socket.MSG_DONTWAIT) :]

    def _read(self) -> None:
        data = self._sock.recv(1 << 16)
        assert data, "the other process has ended"
        for message in self._frames.feed(data):
            match message:
                case forwarding.Opened() | forwarding.OpenFailed():
                    self._reports.append(message)
                case wire.Refused(reason):
                    raise AssertionError(reason)
                case _:
                    self._answers.append(message)


@functools.cache
def _host() -> socket.socket:
    """The way to the process that holds the planes; it ends when this one does."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _serve(control: socket.socket) -> None:
    """Hold a plane for each socket that comes."""
    plane_class = _LOCAL
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ, None)
        while True:
            for key, _ in ready.select():
                if key.data is None:
                    data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
                    if not data:
                        return
                    sock = socket.socket(fileno=descriptors[0])
                    ready.register(sock, selectors.EVENT_READ, _Held(sock, plane_class()))
                elif not key.data.obey():
                    ready.unregister(key.fileobj)
                    key.data.sock.close()


_LOCAL = recording.RecordingPlane


class _Held:
    """A plane and the way to its maker."""

    def __init__(self, sock: socket.socket, plane: recording.RecordingPlane) -> None:
        self.sock = sock
        self._plane = plane
        self._frames = wire.Frames()
        plane.subscribe(self._send)

    def obey(self) -> bool:
        """Do what has come; False at the end."""
        with contextlib.suppress(ConnectionError):
            data = self.sock.recv(1 << 16)
            for message in self._frames.feed(data):
                self._obey(message)
            return bool(data)
        return False

    def _obey(self, message: Any) -> None:
        plane = self._plane
        match message:
            case wire.Look():
                for each in (*plane.open.values(), *plane.backends.values()):
                    self._send(each)
                self._send(wire.Looked(0, _TOTALS))
            case forwarding.Bar(address, owner):
                change = plane.busy.add if owner == BUSY else plane.busy.discard
                change(forwarding.PortalAddress(*address))
            case _:
                try:
                    plane.send(message)
                except AssertionError as error:
                    self._send(wire.Refused(str(error)))
                plane.drain()

    def _send(self, message: Any) -> None:
        self.sock.sendall(wire.encode(message))


def installed(patch: pytest.MonkeyPatch) -> None:
    """Let tests that record do so in another process, and every sync wait for the answers."""
    patch.setattr(recording, "RecordingPlane", RemoteRecordingPlane)
    sync_steps = proxier.Proxier.sync_steps
    for name in ("sync_steps", "resync_steps"):
        patch.setattr(proxier.Proxier, name, _settling(getattr(proxier.Proxier, name), sync_steps))


def _settling(
    steps: Callable[..., proxier.Steps], again: Callable[..., proxier.Steps]
) -> Callable[..., proxier.Steps]:
    """`steps`, followed by the syncs that the answers ask for."""

    def settled(self: proxier.Proxier, *args: Any, **kwargs: Any) -> proxier.Steps:
        changed = yield from steps(self, *args, **kwargs)
        plane = self._plane
        while isinstance(plane, RemoteRecordingPlane) and plane.settle():
            changed = sorted({*changed, *(yield from again(self))})
        return changed

    return settled
