"""ipvs mode: virtual servers in the kernel's load balancer, as kube-proxy 1.33 makes them.

The source is `pkg/proxy/ipvs/proxier.go` and `ipset.go`. Kubernetes deprecated this mode with 1.35:
nftables mode is faster and has fewer parts. ipvs mode has three, each for a tool:

- every address of a Service is put on the dummy device kube-ipvs0, so that the kernel accepts
  packets for it;
- sets of addresses, by which a few iptables rules masquerade and drop;
- the virtual servers themselves.
"""

from collections.abc import Iterator, Sequence

from kproxy.model import addresses
from kproxy.modes.mode import Line, Part
from kproxy.modes.world import Backend, Port, World

_DEVICE = "kube-ipvs0"


class IpvsMode:
    """Satisfies `mode.Mode`."""

    name = "ipvs"

    def render(self, seen: World) -> tuple[Part, ...]:
        """The three parts; the virtual servers come first."""
        return (
            Part("ipvsadm-restore", tuple(_servers(seen))),
            Part("ipset restore", tuple(_sets(seen))),
            Part("ip -batch -", tuple(_device(seen))),
        )


def _servers(seen: World) -> Iterator[Line]:
    """Virtual servers and their endpoints, as `ipvsadm --save --numeric` prints them."""
    for port in seen.ports:
        inside = port.here if port.internal_local else port.everywhere
        outside = port.here if port.external_local else port.everywhere
        for address, number, backends, what in (
            (port.cluster_ip, port.number, inside, "cluster IP"),
            *((each, port.number, outside, "external IP") for each in port.external_ips),
            *((each, port.number, outside, "load balancer") for each in port.load_balancer_ips),
            *(
                ((seen.node.address, port.node_port, outside, "node port"),)
                if port.node_port and addresses.family(seen.node.address) is seen.node.family
                else ()
            ),
        ):
            yield from _server(port, addresses.SocketAddress(address, number), backends, what)


def _server(
    port: Port, at: addresses.SocketAddress, backends: Sequence[Backend], what: str
) -> Iterator[Line]:
    flag = {"tcp": "-t", "udp": "-u"}.get(port.protocol, "--sctp-service")
    sticky, why = "", f"{at}, {what} of {port.text}: its endpoints in turn."
    if port.affinity_seconds is not None:
        mask = " -M 128" if ":" in at.address else ""
        sticky = f" -p {port.affinity_seconds}{mask}"
        why = f"{why[:-1]}, and a client stays with its own for {port.affinity_seconds} s."
    if not backends:
        why = f"{at}, {what} of {port.text}, which has no endpoint for it: refused."
    yield Line(f"-A {flag} {at} -s rr{sticky}", why)
    for backend in backends:
        yield Line(f"-a {flag} {at} -r {backend.address} -m -w 1")


def _device(seen: World) -> Iterator[Line]:
    """The dummy device, and the addresses on it."""
    length = 128 if seen.node.family is addresses.Family.IPV6 else 32
    yield Line(
        f"link add {_DEVICE} type dummy",
        "Addresses on this device are the node's own, so that packets for them come in.",
    )
    held = (
        address
        for port in seen.ports
        for address in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips)
    )
    for address in dict.fromkeys(held):
        yield Line(f"addr add {address}/{length} dev {_DEVICE}")


def _sets(seen: World) -> Iterator[Line]:
    """The sets that the iptables rules of this mode look things up in."""
    family = "inet6" if seen.node.family is addresses.Family.IPV6 else "inet"
    prefix = "KUBE-6-" if family == "inet6" else "KUBE-"
    for name, kind, why in _KINDS:
        bounds = (
            "range 0-65535"
            if kind.startswith("bitmap")
            else f"family {family} hashsize 1024 maxelem 65536"
        )
        yield Line(f"create {prefix}{name} {kind} {bounds}", why)
    entries = (entry for port in seen.ports for entry in _entries(port))
    for name, entry in dict.fromkeys(entries):
        yield Line(f"add {prefix}{name} {entry}")


_KINDS = (
    ("LOOP-BACK", "hash:ip,port,ip", "Pods that reach themselves through a Service."),
    ("CLUSTER-IP", "hash:ip,port", "Cluster IPs: clients that are no pods are masqueraded."),
    ("EXTERNAL-IP", "hash:ip,port", "External IPs: their clients are masqueraded."),
    ("EXTERNAL-IP-LOCAL", "hash:ip,port", "External IPs with the Local policy."),
    ("LOAD-BALANCER", "hash:ip,port", "Load balancers' addresses."),
    ("LOAD-BALANCER-FW", "hash:ip,port", "Load balancers' addresses with source ranges."),
    ("LOAD-BALANCER-LOCAL", "hash:ip,port", "Load balancers' addresses with the Local policy."),
    ("LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net", "Clients that a load balancer admits."),
    ("NODE-PORT-TCP", "bitmap:port", "Node ports: their clients are masqueraded."),
    ("NODE-PORT-LOCAL-TCP", "bitmap:port", "Node ports with the Local policy."),
    ("NODE-PORT-UDP", "bitmap:port", "The same for UDP."),
    ("NODE-PORT-LOCAL-UDP", "bitmap:port", ""),
    ("HEALTH-CHECK-NODE-PORT", "bitmap:port", "Health check ports are let in."),
)


def _entries(port: Port) -> Iterator[tuple[str, str]]:
    """The entries of one service port: the set, and what is in it."""
    place = f"{port.protocol}:{port.number}"
    yield "CLUSTER-IP", f"{port.cluster_ip},{place}"
    for address in port.external_ips:
        yield f"EXTERNAL-IP{'-LOCAL' * port.external_local}", f"{address},{place}"
    for address in port.load_balancer_ips:
        yield "LOAD-BALANCER", f"{address},{place}"
        if port.external_local:
            yield "LOAD-BALANCER-LOCAL", f"{address},{place}"
        for network in port.source_ranges:
            yield "LOAD-BALANCER-FW", f"{address},{place}"
            yield "LOAD-BALANCER-SOURCE-CIDR", f"{address},{place},{network}"
    if port.node_port and port.protocol in {"tcp", "udp"}:
        protocol = port.protocol.upper()
        yield f"NODE-PORT-{protocol}", str(port.node_port)
        if port.external_local:
            yield f"NODE-PORT-LOCAL-{protocol}", str(port.node_port)
    if port.health_check_port:
        yield "HEALTH-CHECK-NODE-PORT", str(port.health_check_port)
    for backend in port.everywhere:
        if backend.is_local:
            address, number = backend.address
            yield "LOOP-BACK", f"{address},{port.protocol}:{number},{address}"
