"""What the rules of all releases have in common."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kproxy.model import addresses
from kproxy.modes.iptables import names
from kproxy.modes.iptables.rule import (
    AddressType,
    Comment,
    Destination,
    Jump,
    Mark,
    Masquerade,
    OneOf,
    Port,
    Protocol,
    Reject,
    Remember,
    SeenLately,
    SetMark,
    Source,
    State,
    Table,
    Target,
    Test,
    Translate,
)
from kproxy.modes.mode import Part
from kproxy.modes.world import Backend, World
from kproxy.modes.world import Port as ServicePort

MARK_MASQ = "KUBE-MARK-MASQ"
MARK_DROP = "KUBE-MARK-DROP"
SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODEPORTS = "KUBE-NODEPORTS"
POSTROUTING = "KUBE-POSTROUTING"
FORWARD = "KUBE-FORWARD"
FIREWALL = "KUBE-PROXY-FIREWALL"

NAT_HOOKS = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
FILTER_HOOKS = ("INPUT", "FORWARD", "OUTPUT")


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between iptables and ip6tables."""

    length: int
    mask: str
    refusal: str

    def host(self, address: str) -> str:
        """One address as a network."""
        return f"{address}/{self.length}"


FAMILIES = {
    addresses.Family.IPV4: Family(32, "255.255.255.255", "icmp-port-unreachable"),
    addresses.Family.IPV6: Family(
        128, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "icmp6-port-unreachable"
    ),
}


def to_address(port: ServicePort, network: str, note: str) -> tuple[Test, ...]:
    """Tests for packets to one of a service port's addresses."""
    return (
        Destination(network),
        Protocol(port.protocol),
        Comment(f"{port.text} {note}"),
        Port(port.protocol, port.number),
    )


def to_node_port(port: ServicePort) -> tuple[Test, ...]:
    """Tests for packets to a service port's node port."""
    return Protocol(port.protocol), Comment(port.text), Port(port.protocol, port.node_port)


def _add_masquerading(nat: Table, *, is_old: bool = False) -> None:
    """The chains that mark connections, and masquerade those that are marked."""
    nat.add(
        MARK_MASQ,
        to=SetMark(is_set=True),
        why="What comes here is marked: it will leave with this node's own address as its source.",
    )
    note = Comment("kubernetes service traffic requiring SNAT")
    why = "The source becomes this node's address, so that the answers come back through it."
    if is_old:
        nat.add(POSTROUTING, note, Mark(), to=Masquerade(), why=why)
        return
    nat.add(POSTROUTING, Mark(negated=True), to="RETURN", why="Without the mark nothing changes.")
    nat.add(
        POSTROUTING,
        to=SetMark(is_set=False),
        why="The mark is taken away, so that a second passage does not masquerade again.",
    )
    nat.add(POSTROUTING, note, to=Masquerade(), why=why)


class Balancing:
    """Writes chains that pick an endpoint. `is_commented`: whether their rules have comments."""

    def __init__(self, nat: Table, family: Family, *, is_commented: bool) -> None:
        self._nat = nat
        self._family = family
        self._is_commented = is_commented

    def add_stickiness(
        self,
        chain: str,
        port: ServicePort,
        backends: Sequence[Backend],
        note: Callable[[int], tuple[Test, ...]],
    ) -> None:
        """Rules that send a client back to the endpoint it had, within the affinity window."""
        if port.affinity_seconds is None:
            return
        for at, backend in enumerate(backends):
            endpoint = names.of_endpoint(port, backend)
            self._nat.add(
                chain,
                *note(at),
                SeenLately(endpoint, port.affinity_seconds, self._family.mask),
                to=endpoint,
                why=(
                    f"A client that was sent to {backend.address} within the last "
                    f"{port.affinity_seconds} s goes there again."
                ),
            )

    def add_choice(
        self,
        chain: str,
        port: ServicePort,
        backends: Sequence[Backend],
        note: Callable[[int], tuple[Test, ...]],
    ) -> None:
        """Rules that pick one of the endpoints by chance, all with the same probability."""
        for at, backend in enumerate(backends):
            left = len(backends) - at
            share = "the only endpoint" if len(backends) == 1 else f"1 of {len(backends)} endpoints"
            self._nat.add(
                chain,
                *note(at),
                *((OneOf(left),) if left > 1 else ()),
                to=names.of_endpoint(port, backend),
                why=f"To {backend.address}: {share}, with a chance of 1 in {left} here.",
            )

    def notes(self, port: ServicePort) -> tuple[Test, ...]:
        """The comment of rules within a service port's chains, if they have any."""
        return (Comment(port.text),) if self._is_commented else ()

    def add_endpoint(self, port: ServicePort, backend: Backend) -> None:
        """The chain of one endpoint."""
        chain, notes = names.of_endpoint(port, backend), self.notes(port)
        self._nat.add(
            chain,
            Source(self._family.host(backend.address.address)),
            *notes,
            to=MARK_MASQ,
            why=(
                f"The pod {backend.address.address} has reached itself through the Service: it is "
                "masqueraded, because it ignores answers from its own address."
            ),
        )
        remember: tuple[Test, ...] = ()
        if port.affinity_seconds is not None:
            remember = (Remember(chain, self._family.mask),)
        self._nat.add(
            chain,
            Protocol(port.protocol),
            *notes,
            *remember,
            Port(port.protocol),
            to=Translate(str(backend.address)),
            why=f"The destination becomes {backend.address}"
            + (", and the client is remembered." if remember else "."),
        )


class Rules:
    """The two tables, and the rules that every release writes alike."""

    def __init__(self, seen: World, *, is_commented: bool = True) -> None:
        self.seen = seen
        self.node = seen.node
        self.family = FAMILIES[seen.node.family]
        self.filter = Table("filter", FILTER_HOOKS)
        self.nat = Table("nat", NAT_HOOKS)
        self.balancing = Balancing(self.nat, self.family, is_commented=is_commented)

    def forward(self) -> None:
        """The beginning of KUBE-FORWARD: what is let through."""
        self.filter.add(
            FORWARD,
            State("INVALID"),
            to="DROP",
            why="Packets that belong to no connection would be answered with a reset.",
        )
        self.filter.add(
            FORWARD,
            Comment("kubernetes forwarding rules"),
            Mark(),
            to="ACCEPT",
            why="A connection that was marked for masquerading is of a Service.",
        )

    def capture(self, *, is_old: bool = False) -> None:
        """The jumps from the hooks of the nat table, and the chains that masquerade."""
        portals = Comment("kubernetes service portals")
        self.nat.add("PREROUTING", portals, to=SERVICES, why="What comes in may be for a Service.")
        self.nat.add("OUTPUT", portals, to=SERVICES, why="So may what this node itself sends.")
        self.nat.add(
            "POSTROUTING",
            Comment("kubernetes postrouting rules"),
            to=POSTROUTING,
            why="What leaves may have to be masqueraded.",
        )
        _add_masquerading(self.nat, is_old=is_old)

    def capture_node_ports(self, *tests: Test) -> None:
        """The last rule of KUBE-SERVICES; `tests` come first in it."""
        self.nat.add(
            SERVICES,
            *tests,
            Comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain"),
            AddressType("dst"),
            to=NODEPORTS,
            why="What is for an address of this node may be for a node port.",
        )

    def turn_away_inside(self, port: ServicePort) -> None:
        """Refuse, or drop, what is for the cluster IP."""
        to, note, why = self._turning_away(port)
        tests = to_address(port, self.family.host(port.cluster_ip), note)
        self.filter.add(SERVICES, *tests, to=to, why=why)

    def turn_away_outside(self, port: ServicePort) -> None:
        """Refuse, or drop, what is for any other address and for the node port."""
        to, note, why = self._turning_away(port)
        for address in (*port.external_ips, *port.load_balancer_ips):
            tests = to_address(port, self.family.host(address), note)
            self.filter.add(EXTERNAL_SERVICES, *tests, to=to, why=why)
        if port.node_port:
            self.filter.add(
                EXTERNAL_SERVICES,
                Protocol(port.protocol),
                Comment(f"{port.text} {note}"),
                AddressType("dst"),
                Port(port.protocol, port.node_port),
                to=to,
                why=why,
            )

    def _turning_away(self, port: ServicePort) -> tuple[Target, str, str]:
        if port.everywhere:
            why = f"No endpoint of {port.text} is on this node, and its policy is Local: dropped."
            return Jump("DROP"), "has no local endpoints", why
        why = f"{port.text} has no endpoints: the client gets an ICMP error, and fails at once."
        return Reject(self.family.refusal), "has no endpoints", why


def part(tables: Iterable[Table], family: addresses.Family) -> Part:
    """Tables as the text that iptables-restore, or ip6tables-restore, reads."""
    loader = "iptables-restore" if family is addresses.Family.IPV4 else "ip6tables-restore"
    return Part(loader, tuple(line for table in tables for line in table.lines()))
