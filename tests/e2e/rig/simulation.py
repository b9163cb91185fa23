"""A simulated cluster in a thread, a proxy beside it in a process, and the official client.

The yardsticks are those of Kubernetes' own end-to-end tests (`test/e2e/network`): a Service is up
when every backend has answered, within 50 requests for each; affinity holds when 15 answers in a
row are the same.
"""

import asyncio
import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes import dynamic

from kproxy.demo import stage
from kproxy.model.names import Protocol
from kproxy.ops.views import control_client
from kproxy.simulator import cluster
from kproxy.simulator import ranges as address_ranges
from tests.e2e.rig import daemon, manifests, sockets

Address = daemon.Address
Object = dict[str, Any]

PORT = stage.free_port()
"""What pods and Services listen on."""

HOST = "127.0.0.1"
"""Where requests from the node itself come from."""

HOST6 = "::1"
"""The same over IPv6."""

_POLL_SECONDS = 1.0
"""For one of many requests, of which some may be lost while something changes."""
_FAILURES = (OSError, http.client.HTTPException)


class Api:
    """One namespace, by way of the official client. Objects go in and come out as plain data."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def create(self, kind: str, name: str, body: Object) -> Object:
        """Create an object."""
        resource = self._resource(kind)
        identity = {"apiVersion": resource.group_version, "kind": kind}
        named = {**body, **identity, "metadata": {**body.get("metadata", {}), "name": name}}
        return _plain(resource.create(named, self.namespace))

    def get(self, kind: str, name: str) -> Object:
        """An object as it is now."""
        return _plain(self._resource(kind).get(name, self.namespace))

    def list(self, kind: str, selector: str = "") -> list[Object]:
        """The objects whose labels match."""
        found = self._resource(kind).get(namespace=self.namespace, label_selector=selector)
        items: list[Object] = _plain(found)["items"]
        return items

    def patch(self, kind: str, name: str, body: Object) -> Object:
        """Apply a JSON merge patch."""
        content_type = "application/merge-patch+json"
        resource = self._resource(kind)
        return _plain(resource.patch(body, name, self.namespace, content_type=content_type))

    def patch_status(self, kind: str, name: str, status: Object) -> Object:
        """Apply a JSON merge patch to an object's status."""
        content_type = "application/merge-patch+json"
        resource = self._resource(kind).subresources["status"]
        body = {"status": status}
        return _plain(resource.patch(body, name, self.namespace, content_type=content_type))

    def delete(self, kind: str, name: str) -> None:
        """Delete an object."""
        self._resource(kind).delete(name, self.namespace)

    def _resource(self, kind: str) -> Any:
        return self._client.resources.get(api_version=_GROUPS.get(kind, "v1"), kind=kind)


_GROUPS = {
    "Deployment": "apps/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Ingress": "networking.k8s.io/v1",
    **dict.fromkeys(
        ("GatewayClass", "Gateway", "TCPRoute", "UDPRoute", "ReferenceGrant"),
        "gateway.networking.k8s.io/v1",
    ),
}
"""The versions of kinds that are not in the core group."""


def _plain(answer: Any) -> Object:
    plain: Object = answer.to_dict()
    return plain


EXTERNAL_IPS = "192.0.0.0/8"
"""External IPs that the proxy serves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Portal:
    """A portal of the proxy, and the addresses that it is tried with.

    With `services` the cluster is dual-stack, and IPv6 pods are in `pods`.
    """

    name: str
    flags: Sequence[str] = ()
    services: str = ""
    pods: str = ""


LOOPBACK = Portal("loopback")
_SERVICES, _PODS = "10.96.0.0/16,fd00:10:96::/112", "fd00:10:245::/48"
_LOCAL = ("--portal", "local", "--service-cluster-ip-range", _SERVICES)
LOCAL = Portal("local", _LOCAL, _SERVICES, _PODS)
"""The fast way of the local portal."""
LOCAL_WITHOUT_BPF = Portal("local without BPF", (*_LOCAL, "--no-bpf"), _SERVICES, _PODS)
"""The plain way."""


class Simulation:
    """A cluster and the proxy of its node, both of which may be restarted. See `simulation`."""

    def __init__(
        self,
        folder: Path,
        running: cluster.Cluster,
        loop: asyncio.AbstractEventLoop,
        portal: Portal = LOOPBACK,
    ) -> None:
        self.portal = portal
        self._folder = folder
        self._cluster = running
        self._loop = loop
        self._running = contextlib.ExitStack()
        self._proxy: daemon.Daemon | None = None
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(running.kubeconfig))
        self.control = folder / "kproxy.sock"
        self.healthz, self.metrics = (f"{HOST}:{manifests.free_port(HOST)}" for _ in range(2))
        configured = kubernetes.config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]
        discovered = str(folder / "discovery")  # the client's own would stay in /tmp
        self._client = dynamic.DynamicClient(configured, cache_file=discovered)  # type: ignore[no-untyped-call]

    @property
    def clients_are_near(self) -> bool:
        """Whether clients on this host count as clients on the node, which they are.

        With the loopback portal they stand for clients outside.
        """
        return self.portal.name != LOOPBACK.name

    def api(self, namespace: str) -> Api:
        """A namespace of the cluster."""
        return Api(self._client, namespace)

    @property
    def authority(self) -> str:
        """What to trust the API server by, in PEM."""
        entry = self._cluster.kubeconfig["clusters"][0]["cluster"]
        return base64.b64decode(entry["certificate-authority-data"]).decode()

    def start_proxy(self, node: str) -> None:
        """Start `kproxy run` as the proxy of a node."""
        who = ("--hostname-override", node, "--external-ip-cidrs", EXTERNAL_IPS)
        flags = (*who, *self.portal.flags, "--control", str(self.control))
        outside = ("--healthz-bind-address", self.healthz, "--metrics-bind-address", self.metrics)
        self._proxy = self._running.enter_context(
            daemon.running(
                self._folder / "kproxy", self.kubeconfig, *flags, *outside, source="--kubeconfig"
            )
        )

    def stop_proxy(self) -> None:
        """End it; it has to end well."""
        with self._running:
            assert self._proxy is not None
            assert self._proxy.stop() == 0, self._proxy.log()
            assert "Traceback" not in self._proxy.log()

    def log(self) -> str:
        """What the proxy has logged."""
        assert self._proxy is not None
        return self._proxy.log()

    def stop_api(self) -> None:
        """Cut clients of the API server off; controllers and pods go on."""
        self._do(self._cluster.server.stop())

    def start_api(self) -> None:
        """Let clients come back to the same port."""
        self._do(self._cluster.server.start())

    def wait_state(self, api: Api, name: str, state: str, endpoints: int) -> None:
        """Return when the proxy says that this is so of all frontends of a Service, and that it
        has so many endpoints."""

        def is_so() -> bool:
            views = control_client.fetch(self.control, "services", namespace=api.namespace)
            return any(
                view["name"] == name
                and len(view["endpoints"]) == endpoints
                and all(frontend["state"] == state for frontend in view["frontends"])
                for view in views
            )

        daemon.wait_until(is_so, f"{name} is {state} with {endpoints} endpoints")

    def is_bound(self, api: Api, name: str) -> bool:
        """Whether the proxy remembers a client of the Service, for affinity."""
        return bool(
            control_client.fetch(self.control, "affinity", namespace=api.namespace, name=name)
        )

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(daemon.DEADLINE)


@contextlib.contextmanager
def simulation(
    folder: Path, ranges: address_ranges.Ranges, node: str, portal: Portal = LOOPBACK
) -> Iterator[Simulation]:
    """A cluster with these addresses, or the portal's own, and beside it the proxy of a node."""
    options = cluster.Options(
        service_cidr=portal.services or ranges.services,
        pod_cidr=f"{ranges.pods},{portal.pods}" if portal.pods else ranges.pods,
        load_balancer_cidr=ranges.load_balancers,
    )
    with _made_local(portal.pods), simulated(options) as (running, loop):
        made = Simulation(folder, running, loop, portal)
        made.start_proxy(node)
        try:
            yield made
        finally:
            made.stop_proxy()


@contextlib.contextmanager
def _made_local(network: str) -> Iterator[None]:
    """Make the addresses of an IPv6 network this host's own for a block; root alone can."""
    if not network:
        yield
        return
    route = ("local", network, "dev", "lo")
    subprocess.run(["ip", "-6", "route", "add", *route], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "-6", "route", "del", *route], check=True)


@contextlib.contextmanager
def simulated(
    options: cluster.Options,
) -> Iterator[tuple[cluster.Cluster, asyncio.AbstractEventLoop]]:
    """A cluster that runs in a thread, on that event loop."""
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    made = cluster.Cluster(options)

    async def run() -> None:
        async with made:
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(daemon.DEADLINE)
        yield made, loop
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(daemon.DEADLINE)
        loop.close()


def fetch(
    address: Address, path: str = "/", source: str = HOST, seconds: float = sockets.SECONDS
) -> str:
    """What a pod answers to a request on a connection of its own. Raises OSError."""
    connection = http.client.HTTPConnection(*address, timeout=seconds, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode()


def who(
    address: Address,
    source: str = "",
    protocol: Protocol = Protocol.TCP,
    seconds: float = sockets.SECONDS,
) -> str:
    """The name of the pod that answers, which it does within so many seconds. Raises OSError."""
    source = source or (HOST6 if ":" in address[0] else HOST)
    if protocol is Protocol.UDP:
        return _who_by_udp(address, source, seconds)
    first = fetch(address, source=source, seconds=seconds).partition("\n")[0]
    return first.removeprefix("pod: ")


def _who_by_udp(address: Address, source: str, seconds: float) -> str:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        client.bind((source, 0))
        client.connect(address)
        client.send(b"who are you?")
        return client.recv(1024).decode().strip()


def wait_up(
    address: Address,
    names: Collection[str],
    source: str = "",
    protocol: Protocol = Protocol.TCP,
) -> None:
    """Return when every one of `names` has answered, in 50 requests for each of them."""

    def is_up() -> bool:
        seen: set[str] = set()
        for _ in range(50 * len(names)):
            with contextlib.suppress(*_FAILURES):
                seen.add(who(address, source, protocol, _POLL_SECONDS))
            if seen >= set(names):
                return True
        return False

    daemon.wait_until(is_up, f"{sorted(names)} answer at {address} over {protocol}")


def wait_down(address: Address, protocol: Protocol = Protocol.TCP) -> None:
    """Return when connections, or datagrams, are refused."""

    def is_down() -> bool:
        if protocol is Protocol.TCP:
            return sockets.is_refused(address)
        try:
            who(address, protocol=protocol, seconds=_POLL_SECONDS)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return False

    daemon.wait_until(is_down, f"{address} refuses {protocol}")


def wait_only(address: Address, names: Collection[str], protocol: Protocol = Protocol.TCP) -> None:
    """Return when ten times as many requests as there are `names` were answered by just these."""

    def are_alone() -> bool:
        try:
            seen = {
                who(address, protocol=protocol, seconds=_POLL_SECONDS)
                for _ in range(10 * len(names))
            }
            return seen == set(names)
        except _FAILURES:
            return False

    daemon.wait_until(are_alone, f"only {sorted(names)} answer at {address}")


def has_affinity(address: Address, protocol: Protocol = Protocol.TCP) -> bool:
    """Whether 15 answers in a row are the same."""
    return len({who(address, protocol=protocol) for _ in range(15)}) == 1


_node_ports = itertools.cycle(range(30020, 30086))
"""Those of the range that an API server hands out last, but for the first, which examples have."""


def free_node_port() -> int:
    """A node port that no Service gets unasked, and nothing has. Each call gives another one."""
    while True:
        number = next(_node_ports)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind((HOST, number))
            return number
