"""A client, a node and pods, each in a network namespace that has no name.

    client 192.0.2.10 ── 192.0.2.1 node 10.255.0.1 ── 10.255.0.2 pods, with every endpoint's address

A namespace lives as long as a descriptor of this process or a program in it: whatever ends this
process ends them too.
"""

import contextlib
import ctypes
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kproxy import errors
from kproxy.bench.lab import processes
from kproxy.model import addresses

CLIENT = "192.0.2.10"
NODE = "192.0.2.1"
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE = "/proc/thread-self/ns/net"


class Namespace:
    """A network namespace with its loopback up. Must be closed.

    Raises KproxyError when it cannot be made.
    """

    def __init__(self) -> None:
        before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _LIBC.unshare(_CLONE_NEWNET):
                reason = os.strerror(ctypes.get_errno())
                raise errors.KproxyError(
                    f"a network namespace cannot be made ({reason}): run it as root"
                )
            self._fd = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            _enter(before)
        finally:
            os.close(before)
        self.ip("link set lo up")

    def close(self) -> None:
        """Let go of it: it ends with the last program in it."""
        os.close(self._fd)

    @property
    def path(self) -> str:
        """A file that stands for it, for ip(8)."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread into it for a block: sockets and programs made there stay there."""
        before = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self._fd)
            yield
        finally:
            _enter(before)
            os.close(before)

    def run(self, program: str, package: str, *arguments: str, text: str = "") -> None:
        """Run a program in it, with `text` as its input. Raises KproxyError when it fails."""
        found = processes.find_program(program, package)
        with self.inside():
            done = subprocess.run(  # noqa: S603 (found by us, arguments made by us)
                [found, *arguments], input=text, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["it printed nothing"]
            raise errors.KproxyError(f"{program} {' '.join(arguments)} failed: {said[0]}")

    def ip(self, *lines: str) -> None:
        """Run these commands of ip(8) in it."""
        self.run("ip", "iproute2", "-batch", "-", text="".join(f"{line}\n" for line in lines))

    def set(self, **values: int) -> None:
        """Set values of /proc/sys/net/ipv4 in it, `__` for `/`."""
        with self.inside():
            for name, value in values.items():
                path = Path("/proc/sys/net/ipv4") / name.replace("__", "/")
                path.write_text(str(value))


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


@dataclass(frozen=True, slots=True)
class Place:
    """The three namespaces, and the servers behind the endpoints."""

    client: Namespace
    node: Namespace
    servers: "Servers"


class Servers:
    """A server on each endpoint, which says its own address. Owns a thread; must be closed."""

    def __init__(self, where: Namespace, endpoints: Iterable[addresses.SocketAddress]) -> None:
        self._where = where
        self._listening: dict[addresses.SocketAddress, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._near, self._far = socket.socketpair()
        self._selector.register(self._near, selectors.EVENT_READ)
        for each in endpoints:
            self.start(each)
        self._thread = threading.Thread(target=self._serve, name="endpoints")
        self._thread.start()

    def start(self, endpoint: addresses.SocketAddress) -> None:
        """Listen on an endpoint."""
        with self._where.inside():
            sock = socket.create_server(endpoint, backlog=512)
        sock.settimeout(0)
        self._listening[endpoint] = sock
        self._selector.register(sock, selectors.EVENT_READ, str(endpoint).encode())
        self._far.send(b".")

    def stop(self, endpoint: addresses.SocketAddress) -> None:
        """The pod is dead: its address refuses from now on."""
        sock = self._listening.pop(endpoint)
        self._selector.unregister(sock)
        sock.close()

    def close(self) -> None:
        """End the thread, and every server."""
        self._far.close()
        self._thread.join()
        for endpoint in list(self._listening):
            self.stop(endpoint)
        self._selector.close()
        self._near.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    if not self._near.recv(64):
                        return
                    continue
                with contextlib.suppress(OSError):
                    sock, _ = key.fileobj.accept()  # type: ignore[union-attr]  # a socket
                    with sock:
                        sock.sendall(key.data)


@contextlib.contextmanager
def make(virtual: Sequence[str], endpoints: Sequence[addresses.SocketAddress]) -> Iterator[Place]:
    """Make everything; `virtual` are the addresses of Services. Raises KproxyError."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(3):
            made.append(Namespace())
            stack.callback(made[-1].close)
        client, node, pods = made
        node.set(ip_forward=1, icmp_ratelimit=0)
        for each, device in ((client, "to-client"), (pods, "to-pods")):
            node.ip(f"link add name {device} type veth peer name eth0 netns {each.path}")
        client.ip(f"address add {CLIENT}/24 dev eth0", "link set eth0 up")
        client.ip(f"route add default via {NODE}")
        node.ip(f"address add {NODE}/24 dev to-client", "link set to-client up")
        node.ip("address add 10.255.0.1/30 dev to-pods", "link set to-pods up")
        pods.ip("address add 10.255.0.2/30 dev eth0", "link set eth0 up")
        pods.ip("route add default via 10.255.0.1")
        hosts = dict.fromkeys(each.address for each in endpoints)
        pods.ip(*(f"address add {host}/32 dev lo" for host in hosts))
        node.ip(*(f"route add {host}/32 via 10.255.0.2" for host in hosts))
        # What no rule takes leaves for a network where nothing answers.
        node.ip(*(f"route add {address}/32 dev to-client" for address in dict.fromkeys(virtual)))
        servers = Servers(pods, dict.fromkeys(endpoints))
        stack.callback(servers.close)
        yield Place(client, node, servers)
