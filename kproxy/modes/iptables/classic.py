"""iptables rules as kube-proxy 1.12 to 1.20 writes them.

The source of the rules is `pkg/proxy/iptables/proxier.go` of these releases. They know no internal
traffic policy, and their external Local policy has a chain KUBE-XLB. 1.12 has no comments within
the chains of a service port, and no rules for clients on the node in KUBE-XLB.
"""

import ipaddress

from kproxy.model import addresses
from kproxy.modes.iptables import names, shared
from kproxy.modes.iptables.rule import (
    AddressType,
    Comment,
    NotBridged,
    Source,
    State,
    Table,
)
from kproxy.modes.world import Port as ServicePort
from kproxy.modes.world import Release, World

_CANARY = "KUBE-PROXY-CANARY"


def tables(seen: World) -> tuple[Table, Table]:
    """The filter and the nat table."""
    return _Rules(seen).made()


class _Rules(shared.Rules):
    def __init__(self, seen: World) -> None:
        self.is_old = seen.node.release is Release.V1_12
        super().__init__(seen, is_commented=not self.is_old)

    def made(self) -> tuple[Table, Table]:
        self._frame_filter()
        self._frame_nat()
        for port in self.seen.ports:
            if port.everywhere:
                self._serve(port)
            else:
                self.turn_away_inside(port)
                self.turn_away_outside(port)
        self.capture_node_ports()
        return self.filter, self.nat

    def _frame_filter(self) -> None:
        table, new = self.filter, State("NEW")
        portals = Comment("kubernetes service portals")
        external = Comment("kubernetes externally-visible service portals")
        table.declare(shared.SERVICES, shared.EXTERNAL_SERVICES, shared.FORWARD)
        if not self.is_old:
            table.declare(_CANARY)
        why = "New connections may be for a Service without endpoints, which refuses them."
        forwarding = Comment("kubernetes forwarding rules")
        table.add("INPUT", new, external, to=shared.EXTERNAL_SERVICES, why=why)
        table.add(
            "FORWARD",
            forwarding,
            to=shared.FORWARD,
            why="Traffic of Services passes, whatever else the host forwards.",
        )
        table.add("FORWARD", new, portals, to=shared.SERVICES, why=why)
        if not self.is_old:
            table.add("FORWARD", new, external, to=shared.EXTERNAL_SERVICES, why=why)
        table.add("OUTPUT", new, portals, to=shared.SERVICES, why=why)
        self.forward()
        for side in ("source", "destination"):
            table.add(
                shared.FORWARD,
                Comment(f"kubernetes forwarding conntrack pod {side} rule"),
                State("RELATED,ESTABLISHED"),
                to="ACCEPT",
                why="What belongs to an accepted connection passes.",
            )

    def _frame_nat(self) -> None:
        self.nat.declare(shared.MARK_DROP, shared.NODEPORTS, shared.SERVICES)
        if not self.is_old:
            self.nat.declare(_CANARY)
        self.capture(is_old=self.is_old)

    def _serve(self, port: ServicePort) -> None:
        """Rules of a service port with endpoints."""
        chain = names.of_port("KUBE-SVC-", port)
        self._capture_cluster_ip(port, chain)
        for address in port.external_ips:
            self._capture_external_ip(port, address, chain)
        external = self._external_chain(port) if self._is_local(port) else chain
        for address in port.load_balancer_ips:
            self._capture_load_balancer(port, address, external)
        if port.load_balancer_ips:
            self._add_firewall(port, external)
        if port.node_port:
            self._capture_node_port(port, external)
        notes = self.balancing.notes(port)
        self.balancing.add_stickiness(chain, port, port.everywhere, lambda _: notes)
        self.balancing.add_choice(chain, port, port.everywhere, lambda _: notes)
        for backend in port.everywhere:
            self.balancing.add_endpoint(port, backend)

    def _is_local(self, port: ServicePort) -> bool:
        """Whether the Local policy is in force: in these releases not for external IPs alone."""
        return port.external_local and bool(port.node_port or port.load_balancer_ips)

    def _capture_cluster_ip(self, port: ServicePort, chain: str) -> None:
        tests = shared.to_address(port, self.family.host(port.cluster_ip), "cluster IP")
        if self.node.cluster_cidr is not None:
            self.nat.add(
                shared.SERVICES,
                Source(self.node.cluster_cidr, negated=True),
                *tests,
                to=shared.MARK_MASQ,
                why="A client that is no pod is masqueraded: the answer may take another way back.",
            )
        self.nat.add(
            shared.SERVICES,
            *tests,
            to=chain,
            why=f"{addresses.SocketAddress(port.cluster_ip, port.number)} is {port.text}: "
            "an endpoint is picked.",
        )

    def _capture_external_ip(self, port: ServicePort, address: str, chain: str) -> None:
        tests = shared.to_address(port, self.family.host(address), "external IP")
        self.nat.add(
            shared.SERVICES,
            *tests,
            to=shared.MARK_MASQ,
            why=f"{address} is an external IP of {port.text}: its clients are masqueraded.",
        )
        self.nat.add(
            shared.SERVICES,
            *tests,
            NotBridged(),
            AddressType("src", negated=True),
            to=chain,
            why="A client from outside this node is sent to an endpoint.",
        )
        self.nat.add(
            shared.SERVICES,
            *tests,
            AddressType("dst"),
            to=chain,
            why="So is a client on this node, if the address is one of the node's own.",
        )

    def _capture_load_balancer(self, port: ServicePort, address: str, _: str) -> None:
        self.nat.add(
            shared.SERVICES,
            *shared.to_address(port, self.family.host(address), "loadbalancer IP"),
            to=names.of_port("KUBE-FW-", port),
            why=f"{address} is a load balancer of {port.text}: its source ranges decide.",
        )

    def _add_firewall(self, port: ServicePort, to: str) -> None:
        """Which clients may use the load balancer's addresses."""
        chain, note = names.of_port("KUBE-FW-", port), Comment(f"{port.text} loadbalancer IP")
        for address in port.load_balancer_ips:
            if not self._is_local(port):
                self.nat.add(
                    chain,
                    note,
                    to=shared.MARK_MASQ,
                    why="The endpoint may be on another node, so the client is masqueraded.",
                )
            if not port.source_ranges:
                self.nat.add(chain, note, to=to, why="Every client is let in.")
            for network in self._admitted(port, address):
                self.nat.add(
                    chain, Source(network), note, to=to, why=f"Clients from {network} are let in."
                )
            self.nat.add(
                chain,
                note,
                to=shared.MARK_DROP,
                why="Every other client is dropped: it gets no answer.",
            )

    def _admitted(self, port: ServicePort, address: str) -> list[str]:
        """The source ranges; with one that holds this node, the load balancer's address too,
        which is the source of what the node itself sends there."""
        node = ipaddress.ip_address(self.node.address)
        admitted = list(port.source_ranges)
        if any(node in ipaddress.ip_network(each) for each in port.source_ranges):
            admitted.append(self.family.host(address))
        return admitted

    def _capture_node_port(self, port: ServicePort, to: str) -> None:
        tests = shared.to_node_port(port)
        if self._is_local(port):
            self.nat.add(
                shared.NODEPORTS,
                Source("127.0.0.0/8" if self.family.length == 32 else "::1/128"),
                *tests,
                to=shared.MARK_MASQ,
                why="A client on this node's loopback is masqueraded: pods cannot answer 127/8.",
            )
        else:
            self.nat.add(
                shared.NODEPORTS,
                *tests,
                to=shared.MARK_MASQ,
                why="The endpoint may be on another node, so the client is masqueraded.",
            )
        self.nat.add(
            shared.NODEPORTS,
            *tests,
            to=to,
            why=f"Node port {port.node_port} is {port.text}.",
        )

    def _external_chain(self, port: ServicePort) -> str:
        """The chain of the external Local policy: endpoints of this node, clients unmasked."""
        chain, everywhere = names.of_port("KUBE-XLB-", port), names.of_port("KUBE-SVC-", port)
        add = self.nat.add
        if self.node.cluster_cidr is not None:
            add(
                chain,
                Source(self.node.cluster_cidr),
                Comment("Redirect pods trying to reach external loadbalancer VIP to clusterIP"),
                to=everywhere,
                why="A pod is sent to any endpoint, as through the cluster IP.",
            )
        if not self.is_old:
            add(
                chain,
                Comment(f"masquerade LOCAL traffic for {port.text} LB IP"),
                AddressType("src"),
                to=shared.MARK_MASQ,
                why="A client on this node is masqueraded,",
            )
            add(
                chain,
                Comment(f"route LOCAL traffic for {port.text} LB IP to service chain"),
                AddressType("src"),
                to=everywhere,
                why="and is sent to any endpoint.",
            )
        here = [backend for backend in port.everywhere if backend.is_local]
        if not here:
            add(
                chain,
                Comment(f"{port.text} has no local endpoints"),
                to=shared.MARK_DROP,
                why="No endpoint is on this node: every other client is dropped.",
            )
            return chain
        self.balancing.add_stickiness(chain, port, here, lambda _: (Comment(port.text),))
        self.balancing.add_choice(
            chain, port, here, lambda at: (Comment(f"Balancing rule {at} for {port.text}"),)
        )
        return chain
