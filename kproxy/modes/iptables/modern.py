"""iptables rules as kube-proxy 1.33 writes them (`pkg/proxy/iptables/proxier.go`).

External addresses of a service port lead to its KUBE-EXT chain, the Local policies to a KUBE-SVL
chain of the node's endpoints. Packets are dropped in the filter table, where no other rule
can accept them first.
"""

import ipaddress

from kproxy.model import addresses
from kproxy.modes.iptables import names, shared
from kproxy.modes.iptables.rule import (
    AddressType,
    Comment,
    Destination,
    Nothing,
    Port,
    Protocol,
    Source,
    State,
    Table,
)
from kproxy.modes.world import Backend, World
from kproxy.modes.world import Port as ServicePort

_KUBELET = "KUBE-FIREWALL"


def tables(seen: World) -> tuple[Table, Table]:
    """The filter and the nat table."""
    return _Rules(seen).made()


class _Rules(shared.Rules):
    def made(self) -> tuple[Table, Table]:
        self._frame_filter()
        self._frame_nat()
        for port in self.seen.ports:
            self._add(port)
        if self.node.family is addresses.Family.IPV4:
            self.capture_node_ports()
        else:
            self.capture_node_ports(Destination("::1/128", negated=True))
        return self.filter, self.nat

    def _frame_filter(self) -> None:
        table, new = self.filter, State("NEW")
        portals = Comment("kubernetes service portals")
        external = Comment("kubernetes externally-visible service portals")
        firewall = Comment("kubernetes load balancer firewall")
        forwarding = Comment("kubernetes forwarding rules")
        table.declare(
            shared.SERVICES,
            shared.EXTERNAL_SERVICES,
            shared.FORWARD,
            shared.NODEPORTS,
            shared.FIREWALL,
            _KUBELET,
        )
        health = Comment("kubernetes health check service ports")
        refusing = "New connections may be for a Service without endpoints."
        for hook in shared.FILTER_HOOKS:
            table.add(
                hook,
                new,
                firewall,
                to=shared.FIREWALL,
                why="New connections may be for a load balancer that does not let them in.",
            )
            if hook == "FORWARD":
                table.add(
                    hook,
                    forwarding,
                    to=shared.FORWARD,
                    why="Traffic of Services passes, whatever else the host forwards.",
                )
            if hook != "INPUT":
                table.add(hook, new, portals, to=shared.SERVICES, why=refusing)
            if hook == "INPUT":
                table.add(hook, health, to=shared.NODEPORTS, why="Health check ports are let in.")
            if hook != "OUTPUT":
                table.add(hook, new, external, to=shared.EXTERNAL_SERVICES, why=refusing)
            if hook != "FORWARD":
                table.add(hook, to=_KUBELET, why="The kubelet has the same chain.")
        if self.node.family is addresses.Family.IPV4:
            table.add(
                _KUBELET,
                Source("127.0.0.0/8", negated=True),
                Destination("127.0.0.0/8"),
                Comment("block incoming localnet connections"),
                State("RELATED,ESTABLISHED,DNAT", negated=True),
                to="DROP",
                why=(
                    "Node ports on 127.0.0.1 need route_localnet, which would let other hosts "
                    "reach this one's loopback (CVE-2020-8558)."
                ),
            )
        self.forward()
        table.add(
            shared.FORWARD,
            Comment("kubernetes forwarding conntrack rule"),
            State("RELATED,ESTABLISHED"),
            to="ACCEPT",
            why="What belongs to an accepted connection passes.",
        )

    def _frame_nat(self) -> None:
        self.nat.declare(shared.NODEPORTS, shared.SERVICES)
        self.capture()

    def _add(self, port: ServicePort) -> None:
        """Everything about one service port."""
        inside = port.here if port.internal_local else port.everywhere
        outside = port.here if port.external_local else port.everywhere
        if inside:
            self._capture_cluster_ip(port)
        else:
            self.turn_away_inside(port)
        if port.everywhere and port.is_external:
            self._capture_external(port)
            self._add_external_chain(port, outside)
        if not outside:
            self.turn_away_outside(port)
        if port.health_check_port:
            self.filter.add(
                shared.NODEPORTS,
                Protocol("tcp"),
                Comment(f"{port.text} health check node port"),
                Port("tcp", port.health_check_port),
                to="ACCEPT",
                why="The load balancer asks here whether the node has endpoints.",
            )
        self._add_choices(port)

    def _add_choices(self, port: ServicePort) -> None:
        """The chains that pick an endpoint, and those of the endpoints."""
        used: dict[Backend, None] = {}
        is_used_everywhere = not port.internal_local or port.is_external
        for backends, prefix, is_used in (
            (port.everywhere, "KUBE-SVC-", is_used_everywhere),
            (port.here, "KUBE-SVL-", port.internal_local or self._is_external_local(port)),
        ):
            if not backends or not is_used:
                continue
            chain = names.of_port(prefix, port)
            arrows = {
                at: (Comment(f"{port.text} -> {backend.address}"),)
                for at, backend in enumerate(backends)
            }
            self.balancing.add_stickiness(chain, port, backends, arrows.__getitem__)
            self.balancing.add_choice(chain, port, backends, arrows.__getitem__)
            used.update(dict.fromkeys(backends))
        for backend in sorted(used, key=lambda each: each.address):
            self.balancing.add_endpoint(port, backend)

    def _is_external_local(self, port: ServicePort) -> bool:
        return port.external_local and port.is_external

    def _capture_cluster_ip(self, port: ServicePort) -> None:
        chain = names.of_port("KUBE-SVL-" if port.internal_local else "KUBE-SVC-", port)
        tests = shared.to_address(port, self.family.host(port.cluster_ip), "cluster IP")
        self.nat.add(
            shared.SERVICES,
            *tests,
            to=chain,
            why=f"{addresses.SocketAddress(port.cluster_ip, port.number)} is {port.text}: "
            "an endpoint is picked.",
        )
        if self.node.cluster_cidr is not None:
            self.nat.add(
                chain,
                Source(self.node.cluster_cidr, negated=True),
                *tests,
                to=shared.MARK_MASQ,
                why="A client that is no pod is masqueraded: the answer may take another way back.",
            )

    def _capture_external(self, port: ServicePort) -> None:
        """Every external address leads to the KUBE-EXT chain, a load balancer's past its ranges."""
        chain = names.of_port("KUBE-EXT-", port)
        for address in port.external_ips:
            self.nat.add(
                shared.SERVICES,
                *shared.to_address(port, self.family.host(address), "external IP"),
                to=chain,
                why=f"{address} is an external IP of {port.text}.",
            )
        balancer = names.of_port("KUBE-FW-", port) if port.source_ranges else chain
        for address in port.load_balancer_ips:
            self.nat.add(
                shared.SERVICES,
                *shared.to_address(port, self.family.host(address), "loadbalancer IP"),
                to=balancer,
                why=f"{address} is a load balancer of {port.text}.",
            )
        if port.source_ranges and port.load_balancer_ips:
            self._add_firewall(port, chain)
        if port.node_port:
            self.nat.add(
                shared.NODEPORTS,
                *shared.to_node_port(port),
                to=chain,
                why=f"Node port {port.node_port} is {port.text}.",
            )

    def _add_firewall(self, port: ServicePort, external: str) -> None:
        """Which clients may use the load balancer's addresses."""
        chain, note = names.of_port("KUBE-FW-", port), Comment(f"{port.text} loadbalancer IP")
        node = ipaddress.ip_address(self.node.address)
        admitted = list(port.source_ranges)
        if any(node in ipaddress.ip_network(each) for each in port.source_ranges):
            admitted += map(self.family.host, port.load_balancer_ips)
        for network in admitted:
            self.nat.add(
                chain, Source(network), note, to=external, why=f"Clients from {network} are let in."
            )
        self.nat.add(
            chain,
            Comment(f"other traffic to {port.text} will be dropped by {shared.FIREWALL}"),
            to=Nothing(),
            why="Every other client keeps its destination, and so meets the next rule:",
        )
        for address in port.load_balancer_ips:
            self.filter.add(
                shared.FIREWALL,
                *shared.to_address(
                    port, self.family.host(address), f"traffic not accepted by {chain}"
                ),
                to="DROP",
                why="What is still for the load balancer's address was not let in: it is dropped.",
            )

    def _add_external_chain(self, port: ServicePort, outside: tuple[Backend, ...]) -> None:
        chain, everywhere = names.of_port("KUBE-EXT-", port), names.of_port("KUBE-SVC-", port)
        add = self.nat.add
        if not port.external_local:
            add(
                chain,
                Comment(f"masquerade traffic for {port.text} external destinations"),
                to=shared.MARK_MASQ,
                why="The endpoint may be on another node, so the client is masqueraded.",
            )
            add(chain, to=everywhere, why="Then an endpoint is picked.")
            return
        if self.node.cluster_cidr is not None:
            add(
                chain,
                Source(self.node.cluster_cidr),
                Comment(f"pod traffic for {port.text} external destinations"),
                to=everywhere,
                why="A pod is sent to any endpoint, as through the cluster IP.",
            )
        add(
            chain,
            Comment(f"masquerade LOCAL traffic for {port.text} external destinations"),
            AddressType("src"),
            to=shared.MARK_MASQ,
            why="A client on this node is masqueraded,",
        )
        add(
            chain,
            Comment(f"route LOCAL traffic for {port.text} external destinations"),
            AddressType("src"),
            to=everywhere,
            why="and is sent to any endpoint.",
        )
        if outside:
            add(
                chain,
                to=names.of_port("KUBE-SVL-", port),
                why="Every other client is sent to an endpoint of this node, unmasked.",
            )
