"""TCPRoutes and UDPRoutes from manifests: real connections, by the weights of the routes."""

import collections
import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.ops.views import control_client
from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets
from tests.gateway import documents

FLAGS = ("--gateway", "--external-ip-cidrs", "10.0.0.0/8")
PORT = manifests.PORT
RESET = "reset"

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    """A proxy that follows a folder, in which each test has a file and a namespace of its own."""
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "conf.d").mkdir()
    control = ("--control", str(folder / "control"))
    with daemon.running(folder / "kproxy", folder / "conf.d", *FLAGS, *control) as made:
        yield made


@pytest.fixture
def pods() -> Iterator[list[sockets.Namer]]:
    """Servers of TCP called a, b and c."""
    addressed = [(manifests.fresh_ip(127), name) for name in "abc"]
    with sockets.namers(*addressed) as made:
        yield made


class Answerer:
    """A server of UDP that answers each datagram with its name. Owns a thread."""

    def __init__(self, address: str, name: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        found: daemon.Address = self._socket.getsockname()
        self.address = found
        self._name = name.encode()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", self.address)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            datagram, client = self._socket.recvfrom(1024)
            if datagram == b"end":
                return
            self._socket.sendto(self._name, client)


def service(
    name: str, *pods: daemon.Address, protocol: str = "TCP", **meta: str
) -> list[documents.Document]:
    """A headless Service at port 80, and its endpoints."""
    meta = {"name": name, **meta}
    spec = {"clusterIP": "None", "ports": [{"port": 80, "protocol": protocol}]}
    subsets = [
        {"addresses": [{"ip": ip}], "ports": [{"port": port, "protocol": protocol}]}
        for ip, port in pods
    ]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets},
    ]


class Edge:
    """A Gateway with one listener at an address of its own, in a file with all that is beside."""

    def __init__(self, proxy: daemon.Daemon, protocol: str = "TCP", **fields: Any) -> None:
        self.namespace = f"edge-{next(_numbers)}"
        self._path = proxy.ready_file.parent.parent / "conf.d" / f"{self.namespace}.yaml"
        ip = manifests.fresh_ip()
        self.address = (manifests.bound(ip), PORT)
        one = documents.listener("one", PORT, protocol, **fields)
        self.gateway = documents.gateway(one, addresses=(ip,))

    def write(self, *others: documents.Document | list[documents.Document]) -> None:
        """Write the Gateway and the others, in place of what was there."""
        flat = [self.gateway]
        for each in others:
            flat += each if isinstance(each, list) else [each]
        for each in flat:
            each["metadata"].setdefault("namespace", self.namespace)
        manifests.write(self._path, *flat)

    def reached(self, times: int, seconds: float = sockets.SECONDS) -> collections.Counter[str]:
        """Which pods so many connections reach; RESET counts those that are reset.

        Raises TimeoutError when a pod says nothing for so many seconds.
        """
        counted: collections.Counter[str] = collections.Counter()
        for _ in range(times):
            try:
                counted[sockets.ask(self.address, seconds)] += 1
            except ConnectionResetError:
                counted[RESET] += 1
        return counted

    def wait(self, *names: str) -> None:
        """Return once connections reach these pods, and no others."""

        def is_so() -> bool:
            with contextlib.suppress(OSError):
                return set(self.reached(12, 1.0)) == set(names)
            return False

        daemon.wait_until(is_so, f"{names} are reached")

    def wait_refused(self) -> None:
        """Return once connections are refused."""
        daemon.wait_until(lambda: sockets.is_refused(self.address), "refused")


def test_connections_are_shared_by_weight_and_what_has_none_is_reset(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    a, b, c = (pod.address for pod in pods)
    edge = Edge(proxy)
    route = documents.route(
        documents.backend("two", weight=60),
        documents.backend("one", weight=30),
        documents.backend("none", weight=10),
        documents.backend("idle", weight=0),
    )
    objects = [service("two", a, b), service("one", c), service("none"), service("idle", c)]
    edge.write(route, *objects)
    edge.wait("a", "b", "c", RESET)
    assert edge.reached(200) == {"a": 60, "b": 60, "c": 60, RESET: 20}


def test_a_changed_weight_counts_from_the_next_connection_on_and_open_ones_go_on(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    edge, new = Edge(proxy), pods[0]
    with sockets.backend(manifests.fresh_ip(127)) as old:
        services = [service("old", old.getsockname()), service("new", new.address)]

        def weigh(old_weight: int, new_weight: int) -> None:
            both = (
                documents.backend("old", weight=old_weight),
                documents.backend("new", weight=new_weight),
            )
            edge.write(documents.route(*both), *services)

        weigh(1, 0)
        with sockets.reaching(edge.address, old) as through:
            weigh(0, 1)
            edge.wait("a")
            through.check()
            weigh(0, 0)
            edge.wait_refused()
            through.check()


def test_rolled_endpoints_are_followed_and_without_any_clients_are_refused(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    a, b, c = (pod.address for pod in pods)
    edge, route = Edge(proxy), documents.route(documents.backend("web"))
    edge.write(route, service("web", a))
    edge.wait("a")
    edge.write(route, service("web", a, b))
    edge.wait("a", "b")
    edge.write(route, service("web", c))
    edge.wait("c")
    edge.write(route, service("web"))
    edge.wait_refused()
    edge.write(route, service("web", b))
    edge.wait("b")


def test_a_route_that_is_removed_closes_the_port_and_the_oldest_of_two_has_it(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    edge = Edge(proxy)
    old, new = (
        documents.route(documents.backend(name), name=name, creationTimestamp=when)
        for name, when in (("a", "2026-01-01T00:00:00Z"), ("b", "2026-02-01T00:00:00Z"))
    )
    services = [service(name, pod.address) for name, pod in zip("ab", pods, strict=False)]
    edge.write(new, *services)
    edge.wait("b")
    edge.write(new, old, *services)
    edge.wait("a")
    edge.write(new, *services)
    edge.wait("b")
    edge.write(*services)
    edge.wait_refused()


def test_a_backend_of_another_namespace_needs_a_grant(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    edge = Edge(proxy)
    other = f"{edge.namespace}-other"
    route = documents.route(documents.backend("far", namespace=other))
    far = service("far", pods[0].address, namespace=other)
    edge.write(route, far)
    edge.wait_refused()
    edge.write(route, far, documents.grant(other, edge.namespace))
    edge.wait("a")
    edge.write(route, far, documents.grant(other, edge.namespace, kind="UDPRoute"))
    edge.wait_refused()


def test_datagrams_are_answered_and_shared_by_weight(proxy: daemon.Daemon) -> None:
    edge = Edge(proxy, "UDP")
    with contextlib.ExitStack() as stack:
        pods = [Answerer(manifests.fresh_ip(127), name) for name in ("seven", "three")]
        for each in pods:
            stack.callback(each.close)
        route = documents.route(
            documents.backend("seven", weight=7),
            documents.backend("three", weight=3),
            documents.backend("idle", weight=0),
            kind="UDPRoute",
        )
        services = [
            service(name, pod.address, protocol="UDP")
            for name, pod in (("seven", pods[0]), ("three", pods[1]), ("idle", pods[1]))
        ]
        edge.write(route, *services)

        def answer() -> str:
            with sockets.datagrams(edge.address) as client:
                client.send(b"who?")
                return client.recv(100).decode()

        daemon.wait_until(lambda: not_refused(answer), "a datagram is answered")
        answered = collections.Counter(answer() for _ in range(50))
        assert answered == {"seven": 35, "three": 15}


def not_refused(answer: Callable[[], str]) -> str:
    """The answer; "" while the port is closed, or nothing is behind it."""
    with contextlib.suppress(ConnectionRefusedError, TimeoutError):
        return answer()
    return ""


def test_of_two_that_want_a_port_of_the_node_the_older_has_it(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    port = manifests.free_port("127.0.0.1")
    a, b, c = (pod.address for pod in pods)
    edge = Edge(proxy)

    def gateway(name: str, created: str) -> list[documents.Document]:
        one = documents.listener("one", port)
        parents = [{"name": name}]
        return [
            documents.gateway(one, name=name, creationTimestamp=created),
            documents.route(documents.backend(name), name=name, parents=parents),
        ]

    def node_port(created: str) -> documents.Document:
        made = manifests.service("web", manifests.fresh_ip(), PORT, type="NodePort")
        made["spec"]["ports"][0]["nodePort"] = port
        made["metadata"]["creationTimestamp"] = created
        return made

    def wait_answered(name: str) -> None:
        def is_so() -> bool:
            with contextlib.suppress(OSError):
                return sockets.ask(("127.0.0.1", port)) == name
            return False

        daemon.wait_until(is_so, f"{name} answers")

    older, younger = gateway("a", "2026-01-02T00:00:00Z"), gateway("b", "2026-01-03T00:00:00Z")
    objects = [older, younger, service("a", a), service("b", b)]
    web = manifests.endpoints("web", [c])
    edge.write(*objects)
    wait_answered("a")
    taken = "address is taken by another Service"
    proxy.wait_logged(taken, f"service={edge.namespace}/gateway/b:one")
    edge.write(*objects, node_port("2026-01-01T00:00:00Z"), web)
    wait_answered("c")
    proxy.wait_logged(taken, f"owner={edge.namespace}/web")
    edge.write(*objects, node_port("2026-01-04T00:00:00Z"), web)
    wait_answered("a")


def test_gateways_are_shown_and_services_are_not_confused_with_them(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    edge = Edge(proxy)
    edge.write(documents.route(documents.backend("web")), service("web", pods[0].address))
    edge.wait("a")
    control = proxy.ready_file.parent.parent / "control"
    (shown,) = control_client.fetch(control, "gateways", namespace=edge.namespace)
    assert (shown["name"], shown["listener"], shown["port"]) == ("edge", "one", PORT)
    assert shown["connections"]["total"] >= 12
    assert [each["state"] for each in shown["frontends"]] == ["bound"]
    again = control_client.fetch(control, "gateways", namespace=edge.namespace, name="edge")
    assert [each["listener"] for each in again] == ["one"]
    services = control_client.fetch(control, "services", namespace=edge.namespace)
    assert {each["name"] for each in services} == {"web"}
    assert control_client.fetch(control, "endpoints", namespace=edge.namespace) == []
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        edge.write(documents.route(documents.backend("web")), service("web", pod.getsockname()))
        with sockets.reaching(edge.address, pod):

            def open_ones() -> list[str]:
                found = control_client.fetch(control, "connections", namespace=edge.namespace)
                return [each["service"] for each in found]

            daemon.wait_until(lambda: open_ones() == ["gateway/edge"], "it alone is shown")


def test_routes_are_shown_with_what_is_wrong_with_them(
    proxy: daemon.Daemon, pods: list[sockets.Namer]
) -> None:
    edge = Edge(proxy)
    edge.write(
        documents.route(documents.backend("web", weight=9), documents.backend("gone")),
        documents.route(documents.backend("web"), name="lost", parents=[{"name": "none"}]),
        documents.route(documents.backend("web"), kind="UDPRoute", name="stray"),
        service("web", pods[0].address),
    )
    edge.wait("a", RESET)
    control = proxy.ready_file.parent.parent / "control"

    def rows() -> dict[str, tuple[Any, ...]]:
        found = control_client.fetch(control, "routes", namespace=edge.namespace)
        fields = ("accepted", "resolved", "detail")
        return {each["name"]: tuple(each[field] for field in fields) for each in found}

    gone = f"there is no Service {edge.namespace}/gone"
    daemon.wait_until(lambda: rows().get("split") == (True, False, gone), "split is judged")
    shown = rows()
    assert shown["lost"] == (False, False, f"there is no Gateway {edge.namespace}/none")
    accepted, resolved, detail = shown["stray"]
    assert (accepted, resolved) == (False, False)
    assert "no listener of Gateway" in detail
    assert f"Service {edge.namespace}/web has no UDP port 80" in detail
    (listener,) = control_client.fetch(control, "gateways", namespace=edge.namespace)
    assert (listener["attached_routes"], listener["problems"]) == (1, [])


@pytest.mark.extra
def test_without_the_switch_nothing_of_it_is_read(tmp_path: Path, run: conftest.Run) -> None:
    ip = manifests.fresh_ip()
    one = documents.listener("one", PORT)
    gateway = documents.gateway(one, addresses=(ip,))
    route = documents.route(documents.backend("web"))
    proxy = run(manifests.write(tmp_path / "edge.yaml", gateway, route))
    assert sockets.is_refused((manifests.bound(ip), PORT))
    assert proxy.wait_logged("Gateway default/edge: not a kind a proxy reads; skipped")
