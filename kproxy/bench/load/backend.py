"""The backend behind every proxy: answers small requests, and sources and sinks streams.

It costs less than any proxy before it. One process is one level-triggered epoll loop over raw
sockets; several share their ports (SO_REUSEPORT). A connection whose request has arrived with the
handshake is answered, and closed if it asked for that, without ever being registered.

`python -m kproxy.bench.load.backend` is such a process: it reads a `messages.Backend`,
prints "ready", answers every further line with a `messages.Served`, and ends with its stdin.
"""

import contextlib
import heapq
import io
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.load import headroom, http1, messages, streams

_BACKLOG = 4096
_ACCEPTS = 32  # at once, before the others have a turn
_READ = 65536
_ANSWER_TIMEOUT = 10.0
_LOOK_EVERY = 0.5


class _Port:
    """A listener, its ready-made answers, and its counters."""

    __slots__ = ("accepted", "answer", "closing_answer", "delay", "listener", "number", "open")

    def __init__(self, spec: messages.Listen) -> None:
        self.listener = listen(spec.address)
        self.listener.setblocking(False)  # noqa: FBT003 (the socket's own)
        self.number = spec.address.port
        self.answer = http1.answer(self.number)
        self.closing_answer = http1.answer(self.number, closes=True)
        self.delay = spec.delay
        self.accepted = 0
        self.open = 0


class _Client:
    """A connection that waits for (the rest of) a request."""

    __slots__ = ("begun", "port", "socket")

    def __init__(self, client: socket.socket, port: _Port) -> None:
        self.socket = client
        self.port = port
        self.begun = b""


class Server:
    """The loop. `run` lasts until its stdin ends."""

    def __init__(self, spec: messages.Backend) -> None:
        """Listen. Raises OSError when an address is not available."""
        self._poll = headroom.Poll()
        self._ports: dict[int, _Port] = {}
        self._clients: dict[int, _Client] = {}
        self._due: list[tuple[float, int, _Client, bytes, bool]] = []
        self._requests = 0
        for each in spec.listen:
            port = _Port(each)
            self._ports[port.listener.fileno()] = port
            self._poll.epoll.register(port.listener, select.EPOLLIN)

    def run(self, commands: int, answers: int) -> None:
        """Serve, and answer each line that comes at the descriptor `commands` on `answers`."""
        self._poll.epoll.register(commands, select.EPOLLIN)
        while True:
            for fd, _ in self._poll.events(self._patience()):
                client = self._clients.get(fd)
                if client is not None:
                    self._read(client)
                elif fd in self._ports:
                    self._accept(self._ports[fd])
                elif not (lines := os.read(commands, _READ)):
                    return
                else:
                    report = msgspec.json.encode(self.served()) + b"\n"
                    os.write(answers, report * lines.count(b"\n"))
            self._answer_due()

    def served(self) -> messages.Served:
        """The counters up to now."""
        ports = self._ports.values()
        return messages.Served(
            self._poll.elapsed,
            self._poll.waited,
            self._requests,
            {port.number: port.accepted for port in ports},
            {port.number: port.open for port in ports},
        )

    def _patience(self) -> float | None:
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None

    def _accept(self, port: _Port) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, _ = port.listener.accept()
            except OSError:  # the queue is empty, or the client has gone
                return
            accepted.setblocking(False)  # noqa: FBT003 (the socket's own)
            port.accepted += 1
            port.open += 1
            client = _Client(accepted, port)
            if self._read(client, registered=False):
                self._clients[accepted.fileno()] = client
                self._poll.epoll.register(accepted, select.EPOLLIN)

    def _read(self, client: _Client, *, registered: bool = True) -> bool:
        """Answer what has arrived. Returns whether the connection is still open."""
        try:
            received = client.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            received = b""
        if not received:
            self._close(client, registered=registered)
            return False
        received = client.begun + received
        count = received.count(http1.END)
        client.begun = b"" if received.endswith(http1.END) else received.rpartition(http1.END)[2]
        if not count:
            client.begun = received
            return True
        self._requests += count
        closes = b"Connection: close" in received
        content = client.port.closing_answer if closes else client.port.answer * count
        if client.port.delay:
            when = time.monotonic() + client.port.delay
            heapq.heappush(self._due, (when, self._requests, client, content, closes))
            return True
        return self._send(client, content, closes=closes, registered=registered)

    def _send(self, client: _Client, content: bytes, *, closes: bool, registered: bool) -> bool:
        """Send a small answer; a peer whose buffer is full gets none."""
        try:
            is_sent = client.socket.send(content) == len(content)
        except OSError:
            is_sent = False
        if closes or not is_sent:
            self._close(client, registered=registered)
            return False
        return True

    def _answer_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, client, content, closes = heapq.heappop(self._due)
            if client.socket.fileno() >= 0:
                self._send(client, content, closes=closes, registered=True)

    def _close(self, client: _Client, *, registered: bool) -> None:
        if registered:
            del self._clients[client.socket.fileno()]
        client.socket.close()
        client.port.open -= 1


def listen(address: network.Address) -> socket.socket:
    """A listener that other processes of this user may share. The caller closes it."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{address}: {error.strerror}") from error
    return listener


class Backends:
    """Running backend processes that share their ports. Made by `start`."""

    def __init__(self, children: list[processes.Process]) -> None:
        self._children = children

    def served(self) -> messages.Served:
        """The sum of what all of them have done; `waited` is that of the busiest.

        Raises KproxyError when one has ended.
        """
        answers = [child.ask(b"", _ANSWER_TIMEOUT) for child in self._children]
        each = [msgspec.json.decode(answer, type=messages.Served) for answer in answers]
        return messages.Served(
            max(one.elapsed for one in each),
            min(one.waited for one in each),
            sum(one.requests for one in each),
            _sums([one.accepted for one in each]),
            _sums([one.open for one in each]),
        )

    def watch(self) -> None:
        """Wait until interrupted. Raises KproxyError when one of them ends."""
        while True:
            for child in self._children:
                child.check()
            time.sleep(_LOOK_EVERY)


@contextlib.contextmanager
def start(
    spec: messages.Backend, count: int, folder: Path, wrapper: tuple[str, ...] = ()
) -> Iterator[Backends]:
    """`count` backend processes until the context ends; `wrapper` is what runs their command.

    Raises KproxyError when an address is taken.
    """
    if not wrapper:  # in a namespace of the benchmark nothing else listens
        for address in (*(each.address for each in spec.listen), spec.bulk):
            if address is not None:
                _check_free(address)  # SO_REUSEPORT would share it with a backend that is there
    with contextlib.ExitStack() as stack:
        argv = [*wrapper, sys.executable, "-m", "kproxy.bench.load.backend"]
        children = [
            stack.enter_context(processes.start("the backend", argv, folder, interactive=True))
            for _ in range(count)
        ]
        for child in children:
            child.ask(msgspec.json.encode(spec), _ANSWER_TIMEOUT)
        yield Backends(children)


def _check_free(address: network.Address) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise errors.KproxyError(
                f"the backend cannot listen on {address}: {os.strerror(error.errno or 0)}; "
                "choose another address, or end what uses it"
            ) from error


def _sums(counters: list[dict[int, int]]) -> dict[int, int]:
    return {key: sum(each[key] for each in counters) for key in counters[0]}


def main() -> int:
    """One backend process; 1 and a sentence on stderr when it cannot listen."""
    commands = io.FileIO(sys.stdin.fileno(), closefd=False)  # unbuffered: `run` reads the rest
    spec = msgspec.json.decode(commands.readline(), type=messages.Backend)
    try:
        server = Server(spec)
        if spec.bulk is not None:
            listener = listen(spec.bulk)
            threading.Thread(target=streams.serve, args=(listener,), daemon=True).start()
    except OSError as error:
        print(f"cannot listen on {error.strerror}", file=sys.stderr)
        return 1
    os.write(sys.stdout.fileno(), b"ready\n")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(commands.fileno(), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
