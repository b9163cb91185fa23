"""userspace mode of kube-proxy 1.20: rules that redirect every address to a port of kube-proxy.

The source is `pkg/proxy/userspace/proxier.go`. Each service port has a proxy port, which the kernel
picked. Traffic from containers is redirected there, traffic of the node itself is sent to the
node's address. Whether there are endpoints makes no difference to the rules.
"""

import hashlib
from collections.abc import Iterable, Mapping

from kproxy.model import addresses, names
from kproxy.modes.iptables import rule, shared
from kproxy.modes.iptables.rule import (
    AddressType,
    Comment,
    NotBridged,
    Port,
    Protocol,
    Redirect,
    State,
    Table,
    Test,
    Translate,
)
from kproxy.modes.mode import Part
from kproxy.modes.world import Port as ServicePort
from kproxy.modes.world import World

_CONTAINER_PORTALS = "KUBE-PORTALS-CONTAINER"
_HOST_PORTALS = "KUBE-PORTALS-HOST"
_CONTAINER_NODEPORTS = "KUBE-NODEPORT-CONTAINER"
_HOST_NODEPORTS = "KUBE-NODEPORT-HOST"
_NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"
_EPHEMERAL = range(32768, 61000)


class UserspaceMode:
    """Satisfies `mode.Mode`.

    `proxy_ports` are the known ports on which kube-proxy listens; the others are made up, always
    the same for one name.
    """

    name = "userspace"

    def __init__(self, proxy_ports: Mapping[names.ServicePortName, int] | None = None) -> None:
        self._proxy_ports = proxy_ports or {}

    def render(self, seen: World) -> tuple[Part, ...]:
        """The rules, as iptables-save would show them."""
        return (shared.part(self.tables(seen), seen.node.family),)

    def tables(self, seen: World) -> tuple[Table, Table]:
        """The filter and the nat table."""
        filter_table = Table("filter", shared.FILTER_HOOKS)
        nat = Table("nat", shared.NAT_HOOKS)
        _frame(filter_table, nat)
        ports = {**made_up((port.name for port in seen.ports), _EPHEMERAL), **self._proxy_ports}
        for port in seen.ports:
            _lead(nat, filter_table, port, ports[port.name], seen)
        return filter_table, nat


def made_up(
    wanted: Iterable[names.ServicePortName], room: range
) -> dict[names.ServicePortName, int]:
    """A port for each name: by its hash, or the next that is free."""
    taken: dict[int, names.ServicePortName] = {}
    made: dict[names.ServicePortName, int] = {}
    for name in wanted:
        digest = hashlib.sha256(f"{name}/{name.protocol}".encode()).digest()
        first = int.from_bytes(digest[:8], "big") % len(room)
        for step in range(len(room)):
            port = room[(first + step) % len(room)]
            if port not in taken:
                taken[port] = name
                made[name] = port
                break
        else:
            made[name] = room[first]  # more service ports than ports: kube-proxy fails here too
    return made


def _frame(filter_table: Table, nat: Table) -> None:
    """The chains, and the rules that send packets to them."""
    nat.declare(_CONTAINER_PORTALS, _HOST_PORTALS, _CONTAINER_NODEPORTS, _HOST_NODEPORTS)
    filter_table.declare(_NON_LOCAL)
    for hook, portals, node_ports, whose in (
        ("PREROUTING", _CONTAINER_PORTALS, _CONTAINER_NODEPORTS, "What containers and others send"),
        ("OUTPUT", _HOST_PORTALS, _HOST_NODEPORTS, "What this node itself sends"),
    ):
        nat.add(
            hook,
            Comment("handle ClusterIPs; NOTE: this must be before the NodePort rules"),
            to=portals,
            why=f"{whose} may be for a Service.",
        )
        nat.add(
            hook,
            AddressType("dst"),
            Comment("handle service NodePorts; NOTE: this must be the last rule in the chain"),
            to=node_ports,
            why=f"{whose} to an address of this node may be for a node port.",
        )
    filter_table.add(
        "INPUT",
        Comment("Ensure that non-local NodePort traffic can flow"),
        to=_NON_LOCAL,
        why="Traffic of node ports is let in.",
    )


def _lead(nat: Table, filter_table: Table, port: ServicePort, proxy_port: int, seen: World) -> None:
    """Redirect the addresses of a service port to its proxy port."""
    family = shared.FAMILIES[seen.node.family]
    node = addresses.SocketAddress(seen.node.address, proxy_port)
    here, there = Redirect(proxy_port), Translate(str(node))

    def at(address: str) -> tuple[Test, ...]:
        return (
            rule.Destination(family.host(address)),
            Protocol(port.protocol),
            Comment(port.text),
            Port(port.protocol, port.number),
        )

    for address in (port.cluster_ip, *port.load_balancer_ips):
        why = (
            f"{addresses.SocketAddress(address, port.number)} is {port.text}: "
            f"kube-proxy takes the connection at {node}."
        )
        nat.add(_CONTAINER_PORTALS, *at(address), to=here, why=why)
        nat.add(_HOST_PORTALS, *at(address), to=there, why=why)
    for address in port.external_ips:
        why = f"{address} is an external IP of {port.text}:"
        nat.add(
            _CONTAINER_PORTALS,
            *at(address),
            NotBridged(),
            to=here,
            why=f"{why} clients from outside this node are led to kube-proxy.",
        )
        for chain, to in ((_CONTAINER_PORTALS, here), (_HOST_PORTALS, there)):
            nat.add(
                chain,
                *at(address),
                AddressType("dst"),
                to=to,
                why=f"{why} so are all clients, if the address is one of the node's own.",
            )
    if port.node_port:
        tests = shared.to_node_port(port)
        why = f"Node port {port.node_port} is {port.text}: kube-proxy takes the connection."
        nat.add(_CONTAINER_NODEPORTS, *tests, to=here, why=why)
        nat.add(_HOST_NODEPORTS, *tests, to=there, why=why)
        filter_table.add(
            _NON_LOCAL,
            Protocol(port.protocol),
            Comment(port.text),
            Port(port.protocol, proxy_port),
            State("NEW", module="state --state"),
            to="ACCEPT",
            why=f"The proxy port of {port.text} is let in.",
        )
