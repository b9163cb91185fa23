"""What kube-proxy 1.33 decides for a connection, in any mode: the endpoints, and masquerading.

iptables, ipvs and nftables express the same decisions in different words
(`pkg/proxy/topology.go`, `CategorizeEndpoints`, and the three proxiers).
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kproxy.model import addresses
from kproxy.modes.packet import Packet, Verdict
from kproxy.modes.world import Backend, Node, Port, World


class Entry(StrEnum):
    """The sort of a Service's address that a connection is for."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "load balancer"
    NODE_PORT = "node port"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a mode does with a connection to a service port, and a clause that says why.

    `is_masqueraded` says whether the pod sees the node as its client.
    """

    verdict: Verdict
    why: str
    backends: tuple[Backend, ...] = ()
    is_masqueraded: bool = False


def find(seen: World, packet: Packet, is_own: Callable[[str], bool]) -> tuple[Port, Entry] | None:
    """The service port that a packet is for, and by which sort of address."""
    address, number = packet.destination
    for port in seen.ports:
        if port.protocol != packet.protocol:
            continue
        if number == port.number:
            for entry, held in (
                (Entry.CLUSTER_IP, (port.cluster_ip,)),
                (Entry.EXTERNAL_IP, port.external_ips),
                (Entry.LOAD_BALANCER, port.load_balancer_ips),
            ):
                if address in held:
                    return port, entry
        if port.node_port == number and is_own(address):
            return port, Entry.NODE_PORT
    return None


def decide(
    port: Port,
    entry: Entry,
    packet: Packet,
    node: Node,
    is_own: Callable[[str], bool],
    mode: str,
) -> Decision:
    """What becomes of a connection to `port` in `mode`.

    Modes differ in two cases. Without endpoints iptables mode has no rules for source ranges, so
    all clients are refused. nftables mode drops what only the Local policy excludes, before it
    checks whether the client is on this node.
    """
    source = packet.source
    if not port.everywhere and mode == "iptables":
        return Decision(Verdict.REFUSED, f"{port.text} has no endpoints")
    if entry is Entry.LOAD_BALANCER and not is_let_in(port, packet, node):
        ranges = ", ".join(port.source_ranges)
        return Decision(Verdict.DROPPED, f"{source} is in none of the source ranges {ranges}")
    if not port.everywhere:
        return Decision(Verdict.REFUSED, f"{port.text} has no endpoints")
    is_pod = node.cluster_cidr is not None and _is_in(source, node.cluster_cidr)
    if entry is Entry.CLUSTER_IP:
        chosen = port.here if port.internal_local else port.everywhere
        is_masqueraded = node.cluster_cidr is not None and not is_pod
        why = "it is no pod" if is_masqueraded else "its source is kept"
    elif not port.external_local:
        chosen, is_masqueraded = port.everywhere, True
        why = "the endpoint may be on another node"
    elif is_pod:
        chosen, is_masqueraded, why = port.everywhere, False, "a pod reaches every endpoint"
    elif is_own(source) and not port.here and mode == "nftables":
        return Decision(Verdict.DROPPED, f"{port.text} has no endpoint on this node")
    elif is_own(source):
        chosen, is_masqueraded = port.everywhere, True
        why = "a client on this node reaches every endpoint"
    else:
        chosen, is_masqueraded, why = port.here, False, "its source is kept"
    if not chosen:
        return Decision(Verdict.DROPPED, f"{port.text} has no endpoint on this node")
    return Decision(Verdict.SERVED, why, chosen, is_masqueraded)


def is_let_in(port: Port, packet: Packet, node: Node) -> bool:
    """Whether the source ranges of a load balancer admit a client.

    A range that contains the node also admits connections from the load balancer's own address,
    which is the source of the node's connections to it.
    """
    if not port.source_ranges or any(_is_in(packet.source, each) for each in port.source_ranges):
        return True
    holds_node = any(_is_in(node.address, each) for each in port.source_ranges)
    return holds_node and packet.source in port.load_balancer_ips


def _is_in(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def seen_by(decision: Decision, backend: Backend, packet: Packet, node: Node) -> str:
    """The client's address as the pod sees it; a pod that reaches itself is masqueraded too."""
    is_itself = packet.source == backend.address.address
    return node.address if decision.is_masqueraded or is_itself else packet.source


def target(packet: Packet, backend: Backend, source: str) -> Packet:
    """The packet as it arrives at an endpoint."""
    return Packet(source, addresses.SocketAddress(*backend.address), packet.protocol)
