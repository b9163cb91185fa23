"""Try a Service in a real kernel: the rules of a mode, and kproxy beside them.

Each in turn is put into the node, and the same clients connect: how connections spread, whether
affinity holds, what a dead pod costs, what clients meet without endpoints, and what the first
packet costs as the number of Services grows.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kproxy import errors
from kproxy.bench.lab import machine, processes
from kproxy.bench.report import arithmetic, results
from kproxy.bench.trial import clients, place
from kproxy.model import addresses, names
from kproxy.modes import mode as modes
from kproxy.modes import world

CONNECTIONS = 1000
SIZES = (10, 1000, 10_000)
_COST_CONNECTIONS = 100
_READY_SECONDS = 60.0
_LOADERS = {"iptables": ("iptables-restore", "iptables"), "nftables": ("nft", "nftables")}
KPROXY = "kproxy"


@dataclass(frozen=True, slots=True)
class Subject:
    """What forwards: rules, or kproxy. `put` has it in the node for a block."""

    name: str
    put: Callable[[place.Place, world.World], contextlib.AbstractContextManager[None]]


def subjects(mode: modes.Mode) -> tuple[Subject, Subject]:
    """The rules of a mode, and kproxy. Raises ConfigError for a mode that cannot be tried."""
    if mode.name not in _LOADERS:
        raise errors.ConfigError(
            f"--apply-in-namespace: {mode.name} mode cannot be tried; --as iptables and "
            "--as nftables can"
        )

    @contextlib.contextmanager
    def put_rules(at: place.Place, seen: world.World) -> Iterator[None]:
        text = "".join(f"{line}\n" for line in mode.render(seen)[0].text(comments=False))
        program, package = _LOADERS[mode.name]
        arguments = ("-f", "-") if program == "nft" else ()
        at.node.run(program, package, *arguments, text=text)
        try:
            yield
        finally:
            at.node.run("nft", "nftables", "flush", "ruleset")

    return Subject(mode.name, put_rules), Subject(KPROXY, _put_kproxy)


def run(
    seen: world.World,
    mode: modes.Mode,
    *,
    sizes: Sequence[int] = SIZES,
    connections: int = CONNECTIONS,
    on_step: Callable[[str], None] = lambda _: None,
) -> results.Report:
    """Try the first service port of `seen`. Raises KproxyError; nothing is left of it."""
    port = dataclasses.replace(seen.ports[0], node_port=0)
    if port.name.protocol is not names.Protocol.TCP:
        raise errors.ConfigError("--apply-in-namespace tries TCP ports")
    started, began = datetime.now(UTC).astimezone(), time.monotonic()
    backends = [backend.address for backend in port.everywhere]
    virtual = [port.cluster_ip, "10.99.0.1"]
    tried = subjects(mode)
    node = dataclasses.replace(seen.node, address=place.NODE)
    with processes.interruptible(), place.make(virtual, backends) as at:
        met: dict[str, list[clients.Met]] = {}
        costs: dict[str, list[tuple[int, clients.Met]]] = {}
        for subject in tried:
            on_step(f"{subject.name}: {connections} connections")
            met[subject.name] = _behaviour(at, subject, world.World(node, (port,)), connections)
            for size in sizes if backends else ():
                on_step(f"{subject.name}: the first packet at {size} Services")
                many = world.World(node, (*_fillers(size - 1, port), port))
                with subject.put(at, many):
                    target = addresses.SocketAddress(port.cluster_ip, port.number)
                    found = clients.meet(at, target, _COST_CONNECTIONS)
                costs.setdefault(subject.name, []).append((size, found))
    return results.Report(
        started.isoformat(timespec="seconds"),
        round(time.monotonic() - began, 1),
        tuple(sys.argv),
        machine.this_machine({}),
        tuple(_scenarios(port, met, costs)),
    )


def _behaviour(
    at: place.Place, subject: Subject, seen: world.World, connections: int
) -> list[clients.Met]:
    """What clients meet: with all endpoints, with one of them dead, and without any."""
    (port,) = seen.ports
    target = addresses.SocketAddress(port.cluster_ip, port.number)
    found = []
    with subject.put(at, seen):
        found.append(clients.meet(at, target, connections if port.everywhere else 1))
        if len(port.everywhere) > 1:
            dead = port.everywhere[0].address
            at.servers.stop(dead)
            found.append(clients.meet(at, target, connections // 5))
            at.servers.start(dead)
    if port.everywhere:
        empty = dataclasses.replace(port, everywhere=(), here=())
        with subject.put(at, world.World(seen.node, (empty,))):
            found.append(clients.meet(at, target, 3))
    return found


def _fillers(count: int, like: world.Port) -> Iterator[world.Port]:
    """Other Services, each with one endpoint, that nothing connects to."""
    for number in range(count):
        high, low = divmod(number, 250)
        name = names.ServicePortName(names.NamespacedName("filler", f"svc-{number}"), "http")
        backend = world.Backend(addresses.SocketAddress(f"10.254.{high}.{low + 1}", 8080))
        yield dataclasses.replace(
            like,
            name=name,
            text=f"filler/svc-{number}:http",
            cluster_ip=f"10.98.{high}.{low + 1}",
            number=80,
            external_ips=(),
            load_balancer_ips=(),
            health_check_port=0,
            affinity_seconds=None,
            everywhere=(backend,),
            here=(),
        )


def _scenarios(
    port: world.Port,
    met: dict[str, list[clients.Met]],
    costs: dict[str, list[tuple[int, clients.Met]]],
) -> Iterator[results.Scenario]:
    """The figures, in the bench's shape."""
    first = {name: found[0] for name, found in met.items()}
    figures = [
        _figure("failed", "connections that no endpoint served", "connections", {
            name: float(found.failed) for name, found in first.items()
        }),
        _figure("largest_share", "the largest share of an endpoint", "%", {
            name: 100 * max(found.outcomes.values()) / found.outcomes.total()
            for name, found in first.items()
        }),
    ]  # fmt: skip
    notes = [f"{port.text}, {len(port.everywhere)} endpoints, from one client"]
    for name, found in first.items():
        counts = [found.outcomes[str(backend.address)] for backend in port.everywhere]
        notes.append(f"{name}: {_spread(counts, port, found)}")
    yield results.Scenario("spread", "how connections spread", tuple(figures), (), (), tuple(notes))
    if len(port.everywhere) > 1:
        yield results.Scenario(
            "dead",
            "one endpoint is dead",
            (
                _figure("failed", "connections that failed", "%", {
                    name: 100 * found[1].failed / found[1].outcomes.total()
                    for name, found in met.items()
                }),
            ),
        )  # fmt: skip
    if port.everywhere:
        last = {name: found[-1].outcomes.most_common(1)[0][0] for name, found in met.items()}
        notes = [f"{name}: {outcome}" for name, outcome in last.items()]
        yield results.Scenario("empty", "no endpoint is left", (), (), (), tuple(notes))
    if costs:
        yield results.Scenario("cost", "what the first packet costs", (), (), (_curve(costs),))


def _spread(counts: Sequence[int], port: world.Port, found: clients.Met) -> str:
    """A sentence on how connections were spread over the endpoints."""
    if not port.everywhere:
        return found.outcomes.most_common(1)[0][0]
    if port.affinity_seconds is not None:
        used = sum(count > 0 for count in counts)
        return f"session affinity: {found.outcomes.total()} connections went to {used} endpoint(s)"
    if len(counts) < 2 or not sum(counts):
        return f"{sum(counts)} connections served"
    test = arithmetic.chi_square(counts)
    shares = ", ".join(map(str, counts))
    return f"{shares}: chi-square {test.statistic:.2f}, p = {test.p_value:.3f}"


def _figure(name: str, title: str, unit: str, values: dict[str, float]) -> results.Figure:
    series = tuple(results.Series(subject, (value,)) for subject, value in values.items())
    return results.Figure(name, title, unit, "lower", series)


def _curve(costs: dict[str, list[tuple[int, clients.Met]]]) -> results.Curve:
    """The median time of a handshake, by the number of Services."""
    series = tuple(
        results.CurveSeries(
            subject,
            tuple(
                results.Point(float(size), (1e6 * arithmetic.percentile(found.seconds, 50),))
                for size, found in sized
                if found.seconds
            ),
        )
        for subject, sized in costs.items()
    )
    return results.Curve("handshake", "median handshake", "Services", "µs", "lower", series)


@contextlib.contextmanager
def _put_kproxy(at: place.Place, seen: world.World) -> Iterator[None]:
    """kproxy serves the same objects from the node, at their real addresses."""
    with tempfile.TemporaryDirectory() as folder:
        objects, ready = Path(folder) / "objects.json", Path(folder) / "ready.json"
        items = [each for port in seen.ports for each in _objects(port)]
        objects.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        command = [
            *(sys.executable, "-m", "kproxy", "run", "--portal", "local"),
            *("--manifests", str(objects), "--ready-file", str(ready)),
            *("--healthz-bind-address", "", "--metrics-bind-address", ""),
            *("--control", str(Path(folder) / "control"), "--hostname-override", "node"),
        ]
        with at.node.inside(), (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip
        try:
            _await(process, ready, Path(folder) / "log")
            yield
        finally:
            process.terminate()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> None:
    end = time.monotonic() + _READY_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            last = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise errors.KproxyError(f"kproxy did not start in the namespace: {last[-1]}")
        time.sleep(0.02)


def _objects(port: world.Port) -> Iterator[dict[str, object]]:
    """A Service and an EndpointSlice that stand for a service port."""
    namespace, name = port.name.service
    spec: dict[str, object] = {
        "clusterIP": port.cluster_ip,
        "ports": [{"name": port.name.port, "port": port.number}],
    }
    if port.affinity_seconds is not None:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": port.affinity_seconds}}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    by_number: dict[int, list[str]] = {}
    for backend in port.everywhere:
        by_number.setdefault(backend.address.port, []).append(backend.address.address)
    for number, hosts in by_number.items():
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-{number}",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": port.name.port, "port": number}],
            "endpoints": [{"addresses": [host]} for host in hosts],
        }
