"""nftables mode: the table kube-proxy of the node's family, as kube-proxy 1.33 fills it.

The source is `pkg/proxy/nftables/proxier.go`. Where iptables walks a list, a verdict map finds the
chain of a destination at once, and one of an endpoint by a random number.
"""

import base64
import hashlib
import ipaddress
from collections.abc import Sequence

from kproxy.model import addresses
from kproxy.modes.mode import Line, Part
from kproxy.modes.world import Backend, Port, World

_TABLE = "kube-proxy"
_MARK = "0x4000"
_LONGEST_NAME = 240

_HOOKS = (
    ("filter-prerouting", "filter", "prerouting", -110),
    ("filter-input", "filter", "input", -110),
    ("filter-forward", "filter", "forward", -110),
    ("filter-output", "filter", "output", -110),
    ("filter-output-post-dnat", "filter", "output", -90),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
)
_JUMPS = (
    ("filter-input", "ct state new", "nodeport-endpoints-check"),
    ("filter-input", "ct state new", "service-endpoints-check"),
    ("filter-forward", "ct state new", "service-endpoints-check"),
    ("filter-output", "ct state new", "service-endpoints-check"),
    ("filter-prerouting", "ct state new", "firewall-check"),
    ("filter-output", "ct state new", "firewall-check"),
    ("nat-output", "", "services"),
    ("nat-prerouting", "", "services"),
    ("nat-postrouting", "", "masquerading"),
    ("filter-forward", "ct state new", "cluster-ips-check"),
    ("filter-output-post-dnat", "ct state new", "cluster-ips-check"),
)
_CHAINS = (
    "nodeport-endpoints-check",
    "service-endpoints-check",
    "firewall-check",
    "services",
    "masquerading",
    "cluster-ips-check",
    "mark-for-masquerade",
    "reject-chain",
)


class NftablesMode:
    """Satisfies `mode.Mode`."""

    name = "nftables"

    def render(self, seen: World) -> tuple[Part, ...]:
        """The table as `nft -f` reads it. An earlier one is replaced."""
        return (Part("nft -f -", tuple(_Table(seen).made())),)


class _Table:
    """The lines of one table while they are made."""

    def __init__(self, seen: World) -> None:
        self.seen = seen
        self.node = seen.node
        is_ipv4 = seen.node.family is addresses.Family.IPV4
        self.ip = "ip" if is_ipv4 else "ip6"
        self.type = "ipv4_addr" if is_ipv4 else "ipv6_addr"
        self.elsewhere = f"{self.ip} daddr != {'127.0.0.0/8' if is_ipv4 else '::1'}"
        self.lines: list[Line] = []
        self.rules: list[Line] = []
        self.elements: list[Line] = []
        self.keys: set[tuple[str, str]] = set()

    def made(self) -> list[Line]:
        """Everything, in an order in which each thing is there before it is used."""
        table = f"{self.ip} {_TABLE}"
        self.lines += [Line(f"add table {table}"), Line(f"delete table {table}")]
        self.lines.append(Line(f'add table {table} {{ comment "rules for kube-proxy" ; }}'))
        for name, kind, hook, priority in _HOOKS:
            self._add(f"chain {table} {name} {{ type {kind} hook {hook} priority {priority} ; }}")
        for name in _CHAINS:
            self._chain(name)
        self._add_containers()
        self._add_frame()
        for port in self.seen.ports:
            self._add_port(port)
        return self.lines + self.rules + self.elements

    def _add(self, text: str, why: str = "") -> None:
        self.lines.append(Line(f"add {text}", why))

    def _chain(self, name: str) -> None:
        self._add(f"chain {self.ip} {_TABLE} {name}")

    def _rule(self, chain: str, text: str, why: str = "", note: str = "") -> None:
        comment = f' comment "{note}"' if note else ""
        self.rules.append(Line(f"add rule {self.ip} {_TABLE} {chain} {text}{comment}", why))

    def _element(self, container: str, key: str, value: str = "", why: str = "") -> None:
        """An element of a set or a map. Of several Services that want one key the first has it."""
        if (container, key.partition(" comment ")[0]) in self.keys:
            return
        self.keys.add((container, key.partition(" comment ")[0]))
        text = f"{key} : {value}" if value else key
        self.elements.append(Line(f"add element {self.ip} {_TABLE} {container} {{ {text} }}", why))

    def _add_containers(self) -> None:
        destination = f"{self.type} . inet_proto . inet_service : verdict"
        port = "inet_proto . inet_service : verdict"
        for kind, name, what, comment in (
            ("set", "cluster-ips", self.type, "Active ClusterIPs"),
            (
                "map",
                "no-endpoint-services",
                destination,
                "vmap to drop or reject packets to services with no endpoints",
            ),
            (
                "map",
                "no-endpoint-nodeports",
                port,
                "vmap to drop or reject packets to service nodeports with no endpoints",
            ),
            (
                "map",
                "firewall-ips",
                destination,
                "destinations that are subject to LoadBalancerSourceRanges",
            ),
            (
                "map",
                "service-ips",
                destination,
                "ClusterIP, ExternalIP and LoadBalancer IP traffic",
            ),
            ("map", "service-nodeports", port, "NodePort traffic"),
        ):
            self._add(f'{kind} {self.ip} {_TABLE} {name} {{ type {what} ; comment "{comment}" ; }}')

    def _add_frame(self) -> None:
        """The rules that are there without any Service."""
        for chain, condition, to in _JUMPS:
            self._rule(chain, f"{condition} jump {to}".strip())
        self._rule(
            "mark-for-masquerade",
            f"mark set mark or {_MARK}",
            "What comes here is marked: it will leave with this node's own address as its source.",
        )
        self._rule(
            "masquerading", f"mark and {_MARK} == 0 return", "Without the mark nothing changes."
        )
        self._rule("masquerading", f"mark set mark xor {_MARK}", "The mark is taken away.")
        self._rule(
            "masquerading",
            "masquerade fully-random",
            "The source becomes this node's address, so that the answers come back through it.",
        )
        self._rule(
            "cluster-ips-check",
            f"{self.ip} daddr @cluster-ips reject",
            "A cluster IP that no service port has taken over is refused: it has no such port.",
            "Reject traffic to invalid ports of ClusterIPs",
        )
        self._rule("reject-chain", "reject")
        destination = f"{self.ip} daddr . meta l4proto . th dport"
        self._rule(
            "service-endpoints-check",
            f"{destination} vmap @no-endpoint-services",
            "An address of a service port without endpoints is refused or dropped.",
        )
        self._rule(
            "nodeport-endpoints-check",
            f"{self.elsewhere} meta l4proto . th dport vmap @no-endpoint-nodeports",
            "So is its node port.",
        )
        self._rule(
            "firewall-check",
            f"{destination} vmap @firewall-ips",
            "A load balancer's address lets in its source ranges only.",
        )
        self._rule(
            "services",
            f"{destination} vmap @service-ips",
            "The destination is looked up once, however many Services there are.",
        )
        self._rule(
            "services",
            f"fib daddr type local {self.elsewhere} "
            "meta l4proto . th dport vmap @service-nodeports",
            "An address of this node may be for a node port: any, as with --nodeport-addresses "
            "0.0.0.0/0; by default kube-proxy has the primary one alone, in a set nodeport-ips.",
        )

    def _add_port(self, port: Port) -> None:
        """Everything about one service port."""
        inside = port.here if port.internal_local else port.everywhere
        outside = port.here if port.external_local else port.everywhere
        self._element("cluster-ips", port.cluster_ip)
        at = f"{port.cluster_ip} . {port.protocol} . {port.number}"
        if inside:
            chain = _chain_name("local" if port.internal_local else "service", port)
            self._element("service-ips", at, f"goto {chain}", f"{port.text} is picked for.")
        else:
            self._turn_away("no-endpoint-services", at, port)
        if port.everywhere and port.is_external:
            self._capture_external(port)
        if not outside:
            for address in (*port.external_ips, *port.load_balancer_ips):
                place = f"{address} . {port.protocol} . {port.number}"
                self._turn_away("no-endpoint-services", place, port)
            if port.node_port:
                place = f"{port.protocol} . {port.node_port}"
                self._turn_away("no-endpoint-nodeports", place, port)
        if port.load_balancer_ips and port.source_ranges:
            self._add_firewall(port)
        self._add_chains(port, inside, outside)

    def _turn_away(self, container: str, place: str, port: Port) -> None:
        if port.everywhere:
            verdict, why = "drop", "No endpoint is on this node, and the policy is Local: dropped."
        else:
            verdict, why = "goto reject-chain", f"{port.text} has no endpoints: refused."
        self._element(container, f'{place} comment "{port.text}"', verdict, why)

    def _capture_external(self, port: Port) -> None:
        chain = _chain_name("external", port)
        for address in (*port.external_ips, *port.load_balancer_ips):
            place = f"{address} . {port.protocol} . {port.number}"
            self._element("service-ips", place, f"goto {chain}", f"{address} leads to {port.text}.")
        if port.node_port:
            self._element(
                "service-nodeports",
                f"{port.protocol} . {port.node_port}",
                f"goto {chain}",
                f"Node port {port.node_port} leads to {port.text}.",
            )

    def _add_firewall(self, port: Port) -> None:
        chain = _chain_name("firewall", port)
        self._chain(chain)
        node = ipaddress.ip_address(self.node.address)
        admitted = list(port.source_ranges)
        if any(node in ipaddress.ip_network(each) for each in port.source_ranges):
            admitted += port.load_balancer_ips
        self._rule(
            chain,
            f"{self.ip} saddr != {{ {', '.join(dict.fromkeys(admitted))} }} drop",
            f"Clients from elsewhere are dropped: loadBalancerSourceRanges of {port.text}.",
        )
        for address in port.load_balancer_ips:
            place = f"{address} . {port.protocol} . {port.number}"
            self._element("firewall-ips", place, f"goto {chain}")

    def _add_chains(
        self, port: Port, inside: Sequence[Backend], outside: Sequence[Backend]
    ) -> None:
        """The chains of a service port, and those of its endpoints."""
        used: dict[Backend, None] = {}
        chosen: dict[str, Sequence[Backend]] = {}
        service, local = _chain_name("service", port), _chain_name("local", port)
        for chain, backends, is_used in (
            (service, port.everywhere, not port.internal_local or port.is_external),
            (local, port.here, port.internal_local or (port.external_local and port.is_external)),
        ):
            if backends and is_used:
                self._chain(chain)
                chosen[chain] = backends
                used.update(dict.fromkeys(backends))
        for backend in used:
            self._add_endpoint(port, backend)
        if inside and self.node.cluster_cidr is not None:
            self._rule(
                local if port.internal_local else service,
                f"{self.ip} daddr {port.cluster_ip} {port.protocol} dport {port.number} "
                f"{self.ip} saddr != {self.node.cluster_cidr} jump mark-for-masquerade",
                "A client that is no pod is masqueraded: the answer may take another way back.",
            )
        if port.everywhere and port.is_external:
            self._add_external(port, service, local if port.external_local else service, outside)
        for chain, offered in chosen.items():
            self._choose(chain, port, offered)

    def _add_external(
        self, port: Port, everywhere: str, policy: str, outside: Sequence[Backend]
    ) -> None:
        chain = _chain_name("external", port)
        self._chain(chain)
        if not port.external_local:
            self._rule(
                chain,
                "jump mark-for-masquerade",
                "The endpoint may be on another node, so the client is masqueraded.",
            )
        else:
            if self.node.cluster_cidr is not None:
                self._rule(
                    chain,
                    f"{self.ip} saddr {self.node.cluster_cidr} goto {everywhere}",
                    "A pod is sent to any endpoint, as through the cluster IP.",
                    "short-circuit pod traffic",
                )
            self._rule(
                chain,
                "fib saddr type local jump mark-for-masquerade",
                "A client on this node is masqueraded,",
                "masquerade local traffic",
            )
            self._rule(
                chain,
                f"fib saddr type local goto {everywhere}",
                "and is sent to any endpoint.",
                "short-circuit local traffic",
            )
        if outside:
            self._rule(chain, f"goto {policy}", "Then an endpoint is picked.")

    def _choose(self, chain: str, port: Port, backends: Sequence[Backend]) -> None:
        """Rules that pick an endpoint: the one the client had, or one by chance."""
        if port.affinity_seconds is not None:
            for backend in backends:
                self._rule(
                    chain,
                    f"{self.ip} saddr @{_endpoint_name('affinity', port, backend)} "
                    f"goto {_endpoint_name('endpoint', port, backend)}",
                    f"A client that was sent to {backend.address} lately goes there again.",
                )
        choices = ", ".join(
            f"{at} : goto {_endpoint_name('endpoint', port, backend)}"
            for at, backend in enumerate(backends)
        )
        self._rule(
            chain,
            f"numgen random mod {len(backends)} vmap {{ {choices} }}",
            f"One of {len(backends)} by chance, all with the same probability.",
        )

    def _add_endpoint(self, port: Port, backend: Backend) -> None:
        chain = _endpoint_name("endpoint", port, backend)
        self._chain(chain)
        self._rule(
            chain,
            f"{self.ip} saddr {backend.address.address} jump mark-for-masquerade",
            "A pod that has reached itself through the Service is masqueraded.",
        )
        if port.affinity_seconds is not None:
            name = _endpoint_name("affinity", port, backend)
            self._add(
                f"set {self.ip} {_TABLE} {name} {{ type {self.type} ; flags dynamic,timeout ; "
                f"timeout {port.affinity_seconds}s ; }}"
            )
            self._rule(chain, f"update @{name} {{ {self.ip} saddr }}", "The client is remembered.")
        self._rule(
            chain,
            f"meta l4proto {port.protocol} dnat to {backend.address}",
            f"The destination becomes {backend.address}.",
        )


def _chain_name(kind: str, port: Port) -> str:
    return f"{kind}-{_hashed(_port_path(port))}"


def _endpoint_name(kind: str, port: Port, backend: Backend) -> str:
    place = backend.address.address.replace(":", ".")
    return f"{kind}-{_hashed(f'{_port_path(port)}__{place}/{backend.address.port}')}"


def _port_path(port: Port) -> str:
    name = port.name
    return f"{name.service.namespace}/{name.service.name}/{port.protocol}/{name.port}"


def _hashed(path: str) -> str:
    """A path with a hash of itself in front, which keeps it unique when it is cut."""
    letters = base64.b32encode(hashlib.sha256(path.encode()).digest()[:5]).decode()
    name = f"{letters}-{path}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
