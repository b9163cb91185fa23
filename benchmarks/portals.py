"""What real ClusterIPs cost on the local portal: `python -m benchmarks.portals`. Needs root.

| figure | |
|---|---|
| listing | 10,000 Services of 2 ports, from listed to all connectable: seconds, listening sockets, memory |
| change | one Service added, changed, removed among them: the work of it, and until it is connectable |
| latency | a connection at 10,000 Services against one at 10: median |
| rates | three namespaces (client, node, pod): connections/s on the portal, against the same data path behind iptables REDIRECT, and against the kernel's own DNAT |

The first three run in a network namespace each, with the proxier, the portal and the data plane of
`kproxy run` in one process, and clients in the same. `rates` needs nginx, wrk and iptables.
"""  # noqa: E501  # a table

import argparse
import asyncio
import contextlib
import ctypes
import ipaddress
import multiprocessing
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from kproxy.model import addresses, names
from kproxy.model.kinds import endpoint_slice_kind, endpoints, services
from kproxy.plane import in_process
from kproxy.portal import budget, portal
from kproxy.portal.local import local
from kproxy.reconcile import proxier
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from kproxy.system import process

SERVICES = ipaddress.ip_network("10.96.0.0/16")
PORTS = {"http": 80, "https": 443}
ROUNDS = 5
SECONDS = 3
CONNECTIONS = 32
"""At once, for `rates`."""
CLIENT, NODE, NODE_INSIDE, POD = "192.0.2.2", "192.0.2.1", "198.51.100.1", "198.51.100.2"
CLUSTER_IP = "10.96.0.10"
NODE_PORT = 30080


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", default=list(FIGURES), metavar="FIGURE")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--no-bpf", action="store_true", help="the plain way, as far as files go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root, to make network namespaces")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    for name in options.figures:
        FIGURES[name](options)
    return 0


# In one process


class Node:
    """A node in a network namespace of its own: objects in, connections out."""

    def __init__(self, *, may_use_bpf: bool) -> None:
        self.store = store.Store()
        self.plane = in_process.InProcessPlane()
        self.portal = local.LocalPortal(
            portal.Settings(
                service_networks=(SERVICES,),
                may_use_bpf=may_use_bpf,
                node_ports=portal.NodePorts((ipaddress.ip_network("203.0.113.0/24"),)),
            )
        )
        self.portal.recover()
        for name, descriptor in self.portal.listeners.items():
            self.plane.share(name, descriptor)
        options = rules.Options(
            portal=self.portal, protocols=self.plane.protocols, bounds=rules.Bounds()
        )
        room = budget.Budget(self.plane.max_listeners)
        self.proxier = proxier.Proxier(self.store, self.plane, options, room=room)
        self.backend = backend()

    def put(self, number: int, *, endpoint: int = 0) -> None:
        """List a Service and its endpoint."""
        self.proxier.mark(self.store.apply(service(number)))
        self.proxier.mark(self.store.apply(sliced(number, self.backend.port + endpoint)))

    def remove(self, number: int) -> None:
        """It is deleted."""
        each = sliced(number, 0)
        self.proxier.mark(self.store.delete(each.kind, each.name))
        each_service = service(number)
        self.proxier.mark(self.store.delete(each_service.kind, each_service.name))

    def close(self) -> None:
        """Leave nothing."""
        self.plane.close()
        self.portal.close()


def named(number: int) -> names.NamespacedName:
    """Twenty Services in each namespace."""
    return names.NamespacedName(f"ns-{number // 20}", f"service-{number}")


def address_of(number: int) -> str:
    """The ClusterIP of a Service."""
    return str(SERVICES.network_address + 256 + number)


def service(number: int) -> services.Service:
    """A Service of two ports."""
    return services.Service(
        name=named(number),
        cluster_ip=address_of(number),
        type=services.ServiceType.CLUSTER_IP,
        ports=tuple(
            services.ServicePort(name, names.Protocol.TCP, port) for name, port in PORTS.items()
        ),
    )


def sliced(number: int, port: int) -> endpoints.EndpointsObject:
    """Its EndpointSlice: one endpoint, on this host."""
    one = endpoints.Endpoint(addresses.SocketAddress(BACKEND, port))
    name = named(number)
    return endpoints.EndpointsObject(
        names.NamespacedName(name.namespace, f"{name.name}-1"),
        name,
        endpoint_slice_kind.KIND.name,
        tuple(endpoints.EndpointPort(each, names.Protocol.TCP, (one,)) for each in PORTS),
    )


BACKEND = "198.18.0.1"


@dataclass(frozen=True, slots=True)
class Backend:
    """A thread that greets each client."""

    port: int


def backend() -> Backend:
    """Start one: it says a byte to each client."""
    subprocess.run(["ip", "address", "add", f"{BACKEND}/32", "dev", "lo"], check=False)
    listener = socket.create_server((BACKEND, 8080), backlog=4096)

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                client.send(b"x")

    pid = os.fork()  # a thread would share this process's interpreter lock
    if pid == 0:
        ctypes.CDLL(None).prctl(1, 9)  # it ends with its parent
        serve()
    listener.close()
    return Backend(8080)


def in_namespace(act: Callable[[argparse.Namespace], object], options: argparse.Namespace) -> None:
    """Run `act` in a process and a network namespace of its own."""

    def child() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
            raise OSError("cannot make a network namespace")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        process.prepare()
        act(options)

    made = multiprocessing.get_context("fork").Process(target=child)
    made.start()
    made.join()
    if made.exitcode:
        raise SystemExit(made.exitcode)


def running(act: Callable[[argparse.Namespace], object]) -> Callable[[argparse.Namespace], None]:
    """A figure that runs in a namespace of its own."""

    def run(options: argparse.Namespace) -> None:
        in_namespace(act, options)

    return run


def listing(options: argparse.Namespace) -> None:
    """From listed to all connectable."""

    async def measure() -> None:
        node = Node(may_use_bpf=not options.no_bpf)
        before = memory()
        for number in range(options.services):
            node.put(number)
        began, worked = time.perf_counter(), time.process_time()
        slowest = 0.0
        last = began
        for _ in node.proxier.sync_steps():
            now = time.perf_counter()
            slowest, last = max(slowest, now - last), now
        seconds, work = time.perf_counter() - began, time.process_time() - worked
        sample = random.sample(range(options.services), min(200, options.services))
        reached = 0
        for number in sample:
            reached += await asyncio.to_thread(greeted, address_of(number), 443)
        print(
            f"listing     {seconds:.2f} s ({work:.2f} s of work, longest step "
            f"{slowest * 1e3:.1f} ms) for {node.proxier.listening} frontends of "
            f"{options.services} Services; {listening()} listening sockets; "
            f"{memory():.0f} MB of memory at most ({before:.0f} before); "
            f"{reached} of {len(sample)} tried are connectable; {node.portal.description}"
        )
        shortages = dict(node.proxier.budget.shortages())
        if shortages:
            print(f"            without a listener: {shortages}")
        node.close()

    uvloop.run(measure())


def change(options: argparse.Namespace) -> None:
    """One Service added, changed and removed, when there are many."""

    async def measure() -> None:
        node = Node(may_use_bpf=not options.no_bpf)
        for number in range(options.services):
            node.put(number)
        node.proxier.sync()
        import gc  # noqa: PLC0415

        gc.enable()
        gc.collect()
        gc.freeze()
        work: dict[str, list[float]] = {"added": [], "changed": [], "removed": []}
        connectable = []

        def carried_out(what: str, act: Callable[[], None]) -> None:
            worked = time.process_time()
            act()
            node.proxier.sync()
            work[what].append((time.process_time() - worked) * 1e3)

        for number in range(options.services, options.services + 200):
            began = time.perf_counter()
            carried_out("added", lambda number=number: node.put(number))  # type: ignore[misc]
            if not await asyncio.to_thread(greeted, address_of(number), 80):
                raise SystemExit("an added Service is not connectable")
            connectable.append((time.perf_counter() - began) * 1e3)
            carried_out("changed", lambda number=number: node.put(number, endpoint=1))  # type: ignore[misc]
            carried_out("removed", lambda number=number: node.remove(number))  # type: ignore[misc]
        figures = ", ".join(
            f"{what} {statistics.median(each):.2f} (p99 {percentile(each, 99):.2f})"
            for what, each in work.items()
        )
        print(
            f"change      ms of work: {figures}; ms until connected: median "
            f"{statistics.median(connectable):.2f}, p99 {percentile(connectable, 99):.2f}"
        )
        node.close()

    uvloop.run(measure())


def latency(options: argparse.Namespace) -> None:
    """The time of a connection and its first byte, with few Services and with many."""
    medians: dict[int, list[float]] = {10: [], options.services: []}
    for _ in range(ROUNDS):
        for count, found in medians.items():
            receiver, sender = multiprocessing.Pipe(duplex=False)

            def act(_: argparse.Namespace, count: int = count) -> None:
                async def measure() -> None:
                    node = Node(may_use_bpf=not options.no_bpf)
                    for number in range(count):
                        node.put(number)
                    node.proxier.sync()
                    sender.send(await asyncio.to_thread(median_latency, count))  # noqa: B023
                    node.close()

                uvloop.run(measure())

            in_namespace(act, options)
            found.append(receiver.recv())
    few, many = (statistics.median(each) for each in medians.values())
    print(
        f"latency     {few * 1e6:.0f} us with 10 Services, {many * 1e6:.0f} us with "
        f"{options.services}: {many / few:.3f}"
    )


def median_latency(count: int) -> float:
    """Of 3,000 connections to Services at random."""
    found = []
    for _ in range(3000):
        address = address_of(random.randrange(count))
        began = time.perf_counter()
        greeted(address, 80)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def greeted(address: str, port: int) -> bool:
    """Whether a client is served."""
    try:
        with socket.create_connection((address, port), 10) as client:
            return client.recv(1) == b"x"
    except OSError:
        return False


def memory() -> float:
    """The most that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def listening() -> int:
    """Listening TCP sockets of this process, as the kernel says."""
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(str(entry.readlink()))
    return sum(
        row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in own
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    )


def percentile(found: list[float], percent: int) -> float:
    """Of some hundred figures."""
    return sorted(found)[min(len(found) * percent // 100, len(found) - 1)]


# In three namespaces


def rates(options: argparse.Namespace) -> None:
    """Connections a second through a node, in three ways."""
    for program in ("nginx", "wrk", "iptables"):
        if shutil.which(program) is None:
            print(f"rates       not measured: {program} is not installed")
            return
    rule = f"iptables -t nat -A PREROUTING -d {CLUSTER_IP} -p tcp --dport 80"
    ways: dict[str, list[str]] = {
        "local": [],
        "REDIRECT": [f"{rule} -j REDIRECT --to-ports {NODE_PORT}"],
        "DNAT": [
            f"{rule} -j DNAT --to-destination {POD}:80",
            "sysctl -qw net.ipv4.ip_forward=1",
        ],
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kproxy-portals-")))
        for way, commands in ways.items():
            stack.enter_context(cluster(way, commands, folder, no_bpf=options.no_bpf))
        for _ in range(ROUNDS):
            for way in ways:
                found[way].append(requests(way))
    medians = {way: statistics.median(each) for way, each in found.items()}
    ratios = {
        way: statistics.median(
            ours / theirs for ours, theirs in zip(found["local"], found[way], strict=True)
        )
        for way in ("REDIRECT", "DNAT")
    }
    print(
        f"rates       connections/s: local {medians['local']:.0f}, the same data path behind "
        f"REDIRECT {medians['REDIRECT']:.0f} ({ratios['REDIRECT']:.2f}), the kernel's DNAT "
        f"{medians['DNAT']:.0f} ({ratios['DNAT']:.2f})"
    )


def namespace(way: str, host: str) -> str:
    """Unique to this process."""
    return f"kp{os.getpid()}-{way}-{host}"


@contextlib.contextmanager
def cluster(way: str, commands: list[str], folder: Path, *, no_bpf: bool) -> Iterator[None]:
    """A client, a node and a pod with nginx; gone at the end."""
    client, node, pod = (namespace(way, host) for host in ("client", "node", "pod"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for each in (client, node, pod):
            run(f"ip netns add {each}")
            run(f"ip -n {each} link set lo up")
        link(client, CLIENT, node, NODE)
        link(pod, POD, node, NODE_INSIDE)
        run(f"ip -n {client} route add default via {NODE}")
        run(f"ip -n {pod} route add default via {NODE_INSIDE}")
        started.append(nginx(pod, folder / way))
        for command in commands:
            run(f"ip netns exec {node} {command}")
        if way != "DNAT":
            flags = ["--no-bpf"] if no_bpf or way == "REDIRECT" else []
            networks = "10.96.0.0/16" if way == "local" else "10.97.0.0/16"
            started.append(proxy(node, folder / way, networks, flags))
        yield
    finally:
        for program in started:
            program.terminate()
        for program in started:
            program.wait(10)
        for name in (client, node, pod):
            subprocess.run(["ip", "netns", "del", name], check=False)


def link(one: str, address: str, other: str, other_address: str) -> None:
    """Join two namespaces by a pair of devices."""
    name = f"v{random.randrange(16**6):06x}"
    run(f"ip -n {one} link add {name} type veth peer name {name} netns {other}")
    for host, where in ((one, address), (other, other_address)):
        run(f"ip -n {host} address add {where}/24 dev {name}")
        run(f"ip -n {host} link set {name} up")


def nginx(where: str, folder: Path) -> subprocess.Popen[bytes]:
    """A server that ends each connection after one small answer."""
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr crit;"
        "events { worker_connections 4096; } http { access_log off; keepalive_timeout 0;"
        "server { listen 80 backlog=4096; location / { return 200 ok; } } }"
    )
    command = ["ip", "netns", "exec", where, "nginx", "-e", "stderr", "-c", str(config)]
    return subprocess.Popen(command)


def proxy(where: str, folder: Path, networks: str, flags: list[str]) -> subprocess.Popen[bytes]:
    """kproxy, which serves the pod at a ClusterIP and at a node port."""
    cluster_ip = CLUSTER_IP if networks.startswith("10.96.") else "10.97.0.10"
    manifest, ready = folder / "web.yaml", folder / "ready.json"
    manifest.write_text(
        f"""\
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  type: NodePort
  clusterIP: {cluster_ip}
  ports: [{{port: 80, nodePort: {NODE_PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints: [{{addresses: [{POD}], conditions: {{ready: true}}}}]
"""
    )
    started = subprocess.Popen(
        [
            *("ip", "netns", "exec", where, sys.executable, "-m", "kproxy", "run"),
            *("--manifests", str(manifest), "--portal", "local"),
            *("--service-cluster-ip-range", networks, "--ready-file", str(ready)),
            *("--nodeport-addresses", "192.0.2.0/24", "--control", "", "--log-level", "warning"),
            *("--healthz-bind-address", "", "--metrics-bind-address", "", *flags),
        ]
    )
    end = time.monotonic() + 30
    while not ready.exists():
        if time.monotonic() > end or started.poll() is not None:
            raise SystemExit("kproxy did not start")
        threading.Event().wait(0.05)
    return started


def requests(way: str) -> float:
    """Connections a second that a client makes through the node, each for one request."""
    client = namespace(way, "client")
    done = subprocess.run(
        [
            *("ip", "netns", "exec", client, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s"),
            *("-H", "Connection: close", f"http://{CLUSTER_IP}/"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    (line,) = (each for each in done.stdout.splitlines() if each.startswith("Requests/sec"))
    return float(line.split()[1])


def run(command: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(command.split(), check=True)


FIGURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "listing": running(listing),
    "change": running(change),
    "latency": latency,
    "rates": rates,
}


if __name__ == "__main__":
    sys.exit(main())
