"""A client, a node and pods, each in a network namespace that has no name.

client 192.0.2.10 ── 192.0.2.1 node 10.255.0.1 ── 10.255.0.2 pods, with every endpoint's address
"""

import contextlib
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kproxy import errors
from kproxy.bench.lab import namespace, processes
from kproxy.model import addresses

CLIENT = "192.0.2.10"
NODE = "192.0.2.1"


class Namespace(namespace.Namespace):
    """A network namespace with its loopback up. Must be closed.

    Raises KproxyError when it cannot be made.
    """

    def __init__(self) -> None:
        try:
            super().__init__()
        except OSError as error:
            raise errors.KproxyError(
                f"a network namespace cannot be made ({error.strerror}): run it as root"
            ) from None
        self.ip("link set lo up")

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
        node.set(ipv4__ip_forward=1, ipv4__icmp_ratelimit=0)
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
