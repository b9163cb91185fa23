"""UDP frontends of the data plane of this process, over real sockets on loopback."""

import random
from collections.abc import AsyncIterator

import pytest

from kproxy import turns
from kproxy.model import addresses, forwarding, names
from kproxy.plane import in_process, plane
from tests.datapath.rig import harness
from tests.datapath.udp import rig

SERVICE = names.NamespacedName("default", "dns")
DNS = names.ServicePortName(SERVICE, "dns", names.Protocol.UDP)
DNS_TCP = names.ServicePortName(SERVICE, "dns-tcp")
SCOPE, FAMILY = forwarding.Scope, addresses.Family
KINDS = forwarding.FrontendKind
FRONTEND = forwarding.Frontend(KINDS.CLUSTER_IP, "10.0.9.1", 53, protocol=names.Protocol.UDP)
LOCAL = forwarding.Frontend(
    KINDS.EXTERNAL_IP, "203.0.113.1", 53, SCOPE.LOCAL, protocol=names.Protocol.UDP
)


class Stage:
    """A data plane, what it reported, and the servers and clients of a test."""

    def __init__(self) -> None:
        self.plane = in_process.InProcessPlane(rng=random.Random(1))
        self.reports: list[forwarding.Report] = []
        self.plane.subscribe(self.reports.append)
        self.peers: list[rig.Peer] = []

    def server(self, host: str = "127.0.0.1", port: int = 0) -> rig.Server:
        self.peers.append(made := rig.Server(host, port))
        return made

    def client(self, host: str = "127.0.0.1") -> rig.Peer:
        self.peers.append(made := rig.Peer(host))
        return made

    def balance(
        self,
        *servers: rig.Peer | addresses.SocketAddress,
        local: tuple[rig.Peer, ...] = (),
        affinity: int | None = None,
        family: addresses.Family = FAMILY.IPV4,
        name: names.ServicePortName = DNS,
    ) -> None:
        pools = {SCOPE.CLUSTER: servers, SCOPE.LOCAL: local}
        self.plane.send(
            forwarding.SetBackends(
                name,
                forwarding.Policy(affinity_seconds=affinity),
                tuple(
                    forwarding.Pool(scope, family, tuple(rig.places(each)))
                    for scope, each in pools.items()
                    if each
                ),
            )
        )

    def open(
        self,
        frontend: forwarding.Frontend = FRONTEND,
        host: str = "127.82.0.1",
        *,
        name: names.ServicePortName = DNS,
        admitted: forwarding.Admission = None,
    ) -> forwarding.PortalAddress:
        at = addresses.SocketAddress(host, free_port(host))
        address = forwarding.PortalAddress(*at, frontend.protocol)
        self.plane.send(forwarding.OpenFrontend(name, frontend, address, at, admitted))
        return address

    async def refresh(self) -> None:
        await self.plane.refresh(plane.Part.PORTS | plane.Part.BYTES, turns.Turns())

    def close(self) -> None:
        self.plane.close()
        for peer in self.peers:
            peer.close()


def free_port(host: str) -> int:
    probe = rig.Peer(host)
    probe.close()
    return probe.address.port


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    made.close()


async def test_a_udp_frontend_is_opened_reported_and_closed(stage: Stage) -> None:
    server, client = stage.server(), stage.client()
    assert names.Protocol.UDP in stage.plane.protocols
    stage.balance(server)
    address = stage.open()
    assert stage.reports == [forwarding.Opened(address)]
    assert await client.ask(b"x", address.socket_address) == b"%d x" % server.address.port

    stage.plane.send(forwarding.CloseFrontend(address))
    client.sock.connect(address.socket_address)
    client.sock.send(b"y")
    with pytest.raises(ConnectionRefusedError):
        await client.receive()
    stage.plane.send(forwarding.Forget(DNS))
    assert stage.plane.service_port(DNS) is None


async def test_a_taken_port_is_reported(stage: Stage) -> None:
    stage.balance(stage.server())
    taken = stage.server("127.82.0.9")
    address = forwarding.PortalAddress(*taken.address, names.Protocol.UDP)
    stage.plane.send(forwarding.OpenFrontend(DNS, FRONTEND, address, taken.address))
    assert stage.reports == [forwarding.OpenFailed(address, "Address already in use")]


async def test_what_happened_is_counted_for_the_service_port_and_in_all(stage: Stage) -> None:
    server = stage.server()
    stage.balance(server)
    address = stage.open()
    for _ in range(2):
        await stage.client().ask(b"123", address.socket_address)
    await stage.refresh()
    happened = stage.plane.service_port(DNS)
    assert happened is not None
    assert (happened.active, happened.accepted, happened.reached) == (2, 2, 2)
    assert (happened.bytes_from_clients, happened.ended) == (6, {})
    endpoint = stage.plane.endpoint(DNS, server.address)
    assert (endpoint.total, endpoint.active, endpoint.is_used) == (2, 2, True)
    totals = stage.plane.totals()
    assert (totals.flows, totals.connections) == (2, 0)
    assert totals.max_flows >= 16
    assert totals.counters["datagrams"] == 4
    shown = list(filter(None, stage.plane.connections(lambda name: name == DNS)))
    assert [view.frontend for view in shown] == [address.socket_address] * 2


async def test_refusals_of_udp_say_nothing_of_tcp_at_the_same_place(stage: Stage) -> None:
    server = stage.server()
    dead = addresses.SocketAddress("127.0.0.3", free_port("127.0.0.3"))
    stage.balance(dead, server)
    stage.balance(dead, server, name=DNS_TCP)
    address = stage.open()
    for _ in range(2):
        await stage.client().ask(b"x", address.socket_address)
    assert stage.plane.endpoint(DNS, dead).penalized_until is not None
    assert not stage.plane.endpoint(DNS, dead).is_used
    assert stage.plane.endpoint(DNS, dead).dial_failures == 1
    assert stage.plane.endpoint(DNS_TCP, dead).penalized_until is None
    assert stage.plane.totals().penalized == 1


async def test_affinity_is_by_the_clients_address(stage: Stage) -> None:
    stage.balance(stage.server(), stage.server(), affinity=60)
    address = stage.open()
    for host in ("127.0.0.1", "127.0.0.2"):
        met = {await stage.client(host).ask(b"", address.socket_address) for _ in range(4)}
        assert len(met) == 1
    clients = {each.client for each in stage.plane.affinity(DNS, 10)}
    assert clients == {"127.0.0.1", "127.0.0.2"}


async def test_the_local_policy_and_near_clients(stage: Stage) -> None:
    far, here = stage.server(), stage.server()
    stage.balance(far, here, local=(here,))
    address = stage.open(LOCAL)
    for _ in range(3):
        await stage.client().ask(b"x", address.socket_address)
    assert (len(far.taken), len(here.taken)) == (0, 3)
    stage.plane.send(forwarding.SetNear(("127.0.0.2/32",)))
    for _ in range(4):
        await stage.client("127.0.0.2").ask(b"x", address.socket_address)
    assert len(far.taken) == 2


async def test_a_flow_that_is_near_no_longer_goes_to_a_local_endpoint(stage: Stage) -> None:
    far, here = stage.server(), stage.server()
    stage.balance(far, here, local=(here,))
    stage.plane.send(forwarding.SetNear(("127.0.0.0/8",)))
    address = stage.open(LOCAL)
    clients = [stage.client() for _ in range(2)]
    for client in clients:
        await client.ask(b"x", address.socket_address)
    assert (len(far.taken), len(here.taken)) == (1, 1)
    stage.plane.send(forwarding.SetNear(()))
    for client in clients:
        await client.ask(b"y", address.socket_address)
    assert here.taken[-2:] == [b"y", b"y"]


async def test_a_dropping_frontend_is_silent_until_it_admits(stage: Stage) -> None:
    server, client = stage.server(), stage.client()
    stage.balance(server)
    address = stage.open(admitted=())
    await client.send(b"dropped", address.socket_address)

    def is_dropped() -> bool:
        seen = stage.plane.service_port(DNS)
        return seen is not None and seen.listen_drops == 1

    await harness.until(is_dropped, "it is dropped")
    stage.plane.send(forwarding.Admit(address, None))
    assert (await client.ask(b"x", address.socket_address)).endswith(b" x")
    assert server.taken == [b"x"]


async def test_ipv6_is_served_by_endpoints_of_ipv6(stage: Stage) -> None:
    server, client = stage.server("::1"), stage.client("::1")
    stage.balance(server, family=FAMILY.IPV6)
    frontend = forwarding.Frontend(
        KINDS.CLUSTER_IP, "fd00::1", 53, protocol=names.Protocol.UDP, family=FAMILY.IPV6
    )
    address = stage.open(frontend, "::1")
    assert (await client.ask(b"x", address.socket_address)).endswith(b" x")
    (view,) = filter(None, stage.plane.connections())
    assert (view.client, view.backend) == ("::1", server.address)


async def test_an_endpoint_that_is_a_udp_frontend_gets_nothing(stage: Stage) -> None:
    server, client = stage.server(), stage.client()
    stage.balance(server)
    address = stage.open()
    loop = names.ServicePortName(SERVICE, "loop", names.Protocol.UDP)
    stage.balance(address.socket_address, name=loop)
    looping = stage.open(host="127.82.0.3", name=loop)
    assert stage.plane.endpoint(loop, address.socket_address).own_address_of == "default/dns:dns"
    assert stage.plane.endpoint(DNS_TCP, address.socket_address).own_address_of is None
    await client.send(b"x", looping.socket_address)
    await harness.until(
        lambda: stage.plane.totals().counters["datagrams_lost"] == 1, "it is not passed on"
    )
    assert server.taken == []


async def test_a_drain_ends_flows_at_once(stage: Stage) -> None:
    stage.balance(stage.server())
    address = stage.open()
    await stage.client().ask(b"x", address.socket_address)
    assert await stage.plane.drain(30.0) == 0
    assert stage.plane.totals().flows == 0
