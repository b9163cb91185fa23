"""Rules in a real kernel, and what the interpreter says of them: many clients, many Services."""

import contextlib
import dataclasses
import random
from collections import Counter
from collections.abc import Iterator
from concurrent import futures

import pytest

from kproxy.balancer import balancer, penalty
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import services
from kproxy.modes import decisions, nftables, world
from kproxy.modes.iptables import iptables_mode, trace
from kproxy.modes.packet import Packet, Verdict
from tests.e2e.rig import namespaces, pods
from tests.modes import worlds

pytestmark = [pytest.mark.extra, namespaces.needs_root, namespaces.needs_programs]

PAIRS = 200
SERVICES = 24
DRAWS = 1000
CRITICAL = 25.9
"""Chi-square with three degrees of freedom is above this once in a hundred thousand times, and once
in ten billion times twice in a row."""

NODE = world.Node(
    name="node-a", address=namespaces.NODE_A.v4, cluster_cidr="10.244.0.0/16", release=worlds.V1_33
)
ENDPOINTS = {
    addresses.SocketAddress(namespaces.POD_A.v4, 8081): True,
    addresses.SocketAddress(namespaces.POD_A.v4, 8082): True,
    addresses.SocketAddress(namespaces.POD_B.v4, 8083): False,
    addresses.SocketAddress(namespaces.POD_B.v4, 8084): False,
}
"""Whether each is on the node."""


@pytest.fixture(scope="module")
def network() -> Iterator[namespaces.Network]:
    """Servers behind all endpoints, and ways to every virtual address through node-a."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(namespaces.network())
        for address, port in ENDPOINTS:
            place = made.pod_a if address == namespaces.POD_A.v4 else made.pod_b
            pod = pods.Pod(place, f"{address}:{port}", port)
            stack.callback(pod.close)
        made.client.ip(f"route add 10.96.0.0/16 via {namespaces.NODE_A.v4}")
        made.node_a.set(ipv4__icmp_ratelimit=0)  # every refusal is to arrive
        made.node_a.ip("route add 10.96.0.0/16 dev eth0", "route add 203.0.113.0/25 dev eth0")
        yield made


@contextlib.contextmanager
def loaded(network: namespaces.Network, mode: str, seen: world.World) -> Iterator[None]:
    """The node has the rules of a mode, and has none of them afterwards."""
    if mode == "nftables":
        network.node_a.run("nft", "-f", "-", text=worlds.text(nftables.NftablesMode(), seen))
    else:
        rules = worlds.text(iptables_mode.IptablesMode(), seen)
        network.node_a.run("iptables-restore", text=rules)
    try:
        yield
    finally:
        network.node_a.run("nft", "flush", "ruleset")


def some_services(rng: random.Random) -> world.World:
    """Services with every mixture of addresses, policies and endpoints."""
    ports = []
    for number in range(SERVICES):
        chosen = rng.sample(sorted(ENDPOINTS), rng.randrange(len(ENDPOINTS) + 1))
        everywhere = tuple(world.Backend(each, ENDPOINTS[each]) for each in sorted(chosen))
        name = names.ServicePortName(names.NamespacedName("some", f"svc-{number}"), "http")
        ports.append(
            world.Port(
                name=name,
                text=world.written_name(name, NODE.release),
                cluster_ip=f"10.96.0.{number + 1}",
                number=80,
                node_port=rng.choice((0, 30000 + number)),
                external_ips=rng.choice(((), (f"203.0.113.{number + 1}",))),
                load_balancer_ips=rng.choice(((), (f"203.0.113.{number + 61}",))),
                source_ranges=rng.choice(((), ("192.0.2.0/26",), ("198.51.100.0/24",))),
                internal_local=rng.random() < 0.3,
                external_local=rng.random() < 0.5,
                everywhere=everywhere,
                here=tuple(backend for backend in everywhere if backend.is_local),
            )
        )
    return world.World(NODE, tuple(ports))


def places(port: world.Port) -> list[tuple[str, int]]:
    """Where a service port can be reached."""
    virtual = (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
    found = [(address, port.number) for address in virtual]
    return found + ([(NODE.address, port.node_port)] if port.node_port else [])


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_kernel_agrees_with_the_interpreter(network: namespaces.Network, mode: str) -> None:
    rng = random.Random(14)
    seen = some_services(rng)
    around = trace.Surroundings(own=(NODE.address, "10.244.1.1"), outgoing=NODE.address)
    clients = {
        namespaces.CLIENT.v4: network.client,
        namespaces.STRANGER.v4: network.client,
        namespaces.NODE_A.v4: network.node_a,
        namespaces.POD_A.v4: network.pod_a,
    }
    pairs: list[tuple[str, addresses.SocketAddress]] = []
    while len(pairs) < PAIRS:
        source, place = rng.choice(sorted(clients)), rng.choice(places(rng.choice(seen.ports)))
        pairs.append((source, addresses.SocketAddress(*place)))

    def expected(source: str, to: addresses.SocketAddress) -> set[str]:
        packet = Packet(source, to)
        if mode == "iptables":
            tables = iptables_mode.tables(seen)
            return {_met(way.verdict, way.endpoint) for way in trace.ways(tables, packet, around)}
        found = decisions.find(seen, packet, around.is_own)
        assert found is not None
        decided = decisions.decide(*found, packet, NODE, around.is_own, "nftables")
        if decided.verdict is not Verdict.SERVED:
            return {_met(decided.verdict, None)}
        return {_met(Verdict.SERVED, backend.address) for backend in decided.backends}

    def met(pair: tuple[str, addresses.SocketAddress]) -> str:
        source, to = pair
        found = pods.meet(clients[source], to, source=source, patience=2.5)
        if found == pods.SILENCE and found not in expected(source, to):
            # On a busy machine an answer may take longer; what is dropped stays so.
            found = pods.meet(clients[source], to, source=source, patience=30.0)
        return found

    with loaded(network, mode, seen), futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(met, pairs))
    wrong = [
        (source, str(to), real, expected(source, to))
        for (source, to), real in zip(pairs, found, strict=True)
        if real not in expected(source, to)
    ]
    assert wrong == [], "\n".join(map(str, wrong))
    assert {*found} >= {pods.REFUSED, pods.SILENCE, *map(str, ENDPOINTS)}, "every outcome is tried"


def _met(verdict: Verdict, endpoint: addresses.SocketAddress | None) -> str:
    """In the words of `pods.meet`."""
    if verdict is Verdict.SERVED:
        return str(endpoint)
    # What is for no Service goes out to the network, where nothing has the address.
    return pods.REFUSED if verdict is Verdict.REFUSED else pods.SILENCE


def test_real_rules_and_our_random_strategy_spread_alike(network: namespaces.Network) -> None:
    plain = worlds.plain(1)
    backends = tuple(world.Backend(each, is_local) for each, is_local in ENDPOINTS.items())
    port = dataclasses.replace(plain, cluster_ip="10.96.7.7", everywhere=backends)
    at = addresses.SocketAddress(port.cluster_ip, port.number)
    ours = balancer.ServicePortBalancer(
        forwarding.Policy(services.Strategy.RANDOM),
        penalty.PenaltyBox(lambda _: False),
        random.Random(14),
    )
    ours.update(list(ENDPOINTS))

    def statistic() -> float:
        """Pearson's for the 2 x 4 table of two samples from one distribution, if they are."""
        with futures.ThreadPoolExecutor(8) as pool:
            real = Counter(pool.map(lambda _: pods.meet(network.client, at), range(DRAWS)))
        drawn = Counter(str(ours.pick("192.0.2.10", 0.0)) for _ in range(DRAWS))
        assert real.keys() == drawn.keys() == set(map(str, ENDPOINTS))
        return sum((real[each] - drawn[each]) ** 2 / (real[each] + drawn[each]) for each in drawn)

    with loaded(network, "iptables", world.World(NODE, (port,))):
        # The kernel's random numbers have no seed that a test could give.
        assert min(statistic() for _ in range(2)) < CRITICAL
