"""Where a connection goes in each mode: the rules, interpreted, against what kube-proxy decides."""

import dataclasses
import math
from collections import defaultdict

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.model import addresses
from kproxy.modes import decisions, traces, world
from kproxy.modes.iptables import iptables_mode, trace
from kproxy.modes.packet import Packet, Verdict, Way
from tests.modes import worlds

V1_33 = world.Release.V1_33
NODE = "10.0.0.10"
AROUND = trace.Surroundings(own=(NODE,), outgoing=NODE)
POD, ELSEWHERE, HERE = "10.244.7.7", "192.0.2.7", NODE


def endpoints(ways: tuple[Way, ...]) -> dict[str, float]:
    """The probability of each endpoint."""
    counted: dict[str, float] = defaultdict(float)
    for way in ways:
        if way.endpoint is not None:
            counted[str(way.endpoint)] += way.chance
    return dict(counted)


def traced(source: str, to: str, release: world.Release = V1_33) -> dict[str, traces.Trace]:
    """By mode, for the recorded objects."""
    target = addresses.parse_socket_address(to)
    assert target is not None
    packet = Packet(source, target)
    return {each.mode: each for each in traces.traces(worlds.recorded(release), packet, AROUND)}


@pytest.mark.parametrize("mode", ["userspace", "iptables", "ipvs", "nftables"])
def test_the_endpoints_of_a_cluster_ip_have_equal_chances_in_every_mode(mode: str) -> None:
    found = traced(POD, "10.96.10.3:80")[mode]
    assert endpoints(found.ways) == {"10.244.0.4:8080": 0.5, "10.244.0.5:8080": 0.5}


@pytest.mark.parametrize(
    ("source", "to", "verdict"),
    [
        pytest.param(ELSEWHERE, "203.0.113.7:80", Verdict.DROPPED, id="outside the source ranges"),
        pytest.param("198.51.100.4", "203.0.113.7:80", Verdict.SERVED, id="inside them"),
        pytest.param(ELSEWHERE, f"{NODE}:30002", Verdict.SERVED, id="a local endpoint"),
        pytest.param(ELSEWHERE, "10.96.10.14:80", Verdict.REFUSED, id="no endpoints"),
        pytest.param(ELSEWHERE, "10.96.99.99:80", Verdict.NOT_FOR_A_SERVICE, id="no Service"),
    ],
)
def test_the_modes_that_are_in_use_meet_a_client_alike(
    source: str, to: str, verdict: Verdict
) -> None:
    found = traced(source, to)
    for mode in ("iptables", "ipvs", "nftables"):
        assert found[mode].verdicts == {verdict}, mode


@pytest.mark.parametrize(
    ("source", "sees"),
    [
        pytest.param(POD, {POD}, id="a pod is seen as it is"),
        pytest.param(ELSEWHERE, {NODE}, id="a client from elsewhere is masqueraded"),
        pytest.param("10.244.0.4", {NODE, "10.244.0.4"}, id="a pod may reach itself"),
    ],
)
def test_what_the_pod_sees(source: str, sees: set[str]) -> None:
    found = traced(source, "10.96.10.3:80")
    for mode in ("iptables", "ipvs", "nftables"):
        assert {way.packet.source for way in found[mode].ways} == sees, mode
    assert {way.packet.source for way in found["userspace"].ways} == {NODE}


def test_a_bound_client_has_one_way() -> None:
    around = dataclasses.replace(AROUND, bound={"KUBE-SEP-X674A2BHPBXET5LL": 10.0})
    tables = iptables_mode.tables(worlds.recorded(V1_33))
    packet = Packet(POD, addresses.SocketAddress("10.96.10.3", 80))
    assert endpoints(tuple(trace.ways(tables, packet, around))) == {"10.244.0.5:8080": 1.0}


@st.composite
def meetings(draw: st.DrawFn) -> tuple[world.World, Packet]:
    """Some service ports, and a packet that is for one of them, by any of its addresses."""
    ports = draw(st.lists(worlds.ports(), min_size=1, max_size=3, unique_by=_name))
    ports = [port for port in ports if _is_apart(port, ports)]
    hypothesis.assume(ports)
    port = draw(st.sampled_from(ports))
    places = [(each, port.number) for each in (port.cluster_ip, *port.external_ips)]
    places += [(each, port.number) for each in port.load_balancer_ips]
    if port.node_port:
        places.append((NODE, port.node_port))
    sources = [POD, ELSEWHERE, HERE, *(backend.address.address for backend in port.everywhere)]
    sources += [network.split("/")[0] for network in port.source_ranges]
    to = addresses.SocketAddress(*draw(st.sampled_from(places)))
    return world.World(worlds.NODE, tuple(ports)), Packet(
        draw(st.sampled_from(sources)), to, port.protocol
    )


def _name(port: world.Port) -> object:
    return port.name


def _is_apart(port: world.Port, ports: list[world.Port]) -> bool:
    """No address in common with another one, no special address, no node port of an other."""
    mine = [port.cluster_ip, *port.external_ips, *port.load_balancer_ips]
    others = [
        address
        for each in ports
        if each is not port
        for address in (each.cluster_ip, *each.external_ips, *each.load_balancer_ips)
    ]
    node_ports = [each.node_port for each in ports if each.node_port]
    return (
        len(set(mine)) == len(mine)
        and not set(mine) & set(others)
        and len(set(node_ports)) == len(node_ports)
        and NODE not in mine
        and not any(address.startswith("127.") for address in mine)
    )


def _is_unguarded(entry: decisions.Entry, packet: Packet) -> bool:
    """What iptables mode leaves out: OUTPUT does not lead to KUBE-EXTERNAL-SERVICES, so that the
    node's own packet to an external address without endpoints leaves the node."""
    is_external = entry in {decisions.Entry.EXTERNAL_IP, decisions.Entry.LOAD_BALANCER}
    return is_external and packet.source == HERE


@hypothesis.given(meetings())
def test_the_rules_do_what_kube_proxy_decides(meeting: tuple[world.World, Packet]) -> None:
    seen, packet = meeting
    found = decisions.find(seen, packet, AROUND.is_own)
    assert found is not None
    decided = decisions.decide(*found, packet, seen.node, AROUND.is_own, "iptables")
    ways = tuple(trace.ways(iptables_mode.tables(seen), packet, AROUND))
    assert math.isclose(sum(way.chance for way in ways), 1)
    verdict = decided.verdict
    if verdict is Verdict.REFUSED and _is_unguarded(found[1], packet):
        verdict = Verdict.NOT_FOR_A_SERVICE
    assert {way.verdict for way in ways} == {verdict}
    expected = {str(each.address): 1 / len(decided.backends) for each in decided.backends}
    assert endpoints(ways) == pytest.approx(expected)
    for way in ways:
        for backend in decided.backends:
            if way.endpoint == backend.address:
                sees = decisions.seen_by(decided, backend, packet, seen.node)
                assert way.packet.source == sees
