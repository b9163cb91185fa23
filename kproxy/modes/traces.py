"""The way of one connection through each mode, and its end in each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kproxy.modes import decisions, userspace
from kproxy.modes.iptables import iptables_mode, trace
from kproxy.modes.packet import Packet, Verdict, Way
from kproxy.modes.world import World

ON_DEAD = {
    "userspace": "the next is tried",
    "iptables": "fails: 1 of n",
    "ipvs": "fails: every n-th",
    "nftables": "fails: 1 of n",
}
"""What a client meets whose endpoint does not answer, by mode."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Every way that a connection may take in a mode, with what the pod sees as its client."""

    mode: str
    ways: tuple[Way, ...]

    @property
    def verdicts(self) -> frozenset[Verdict]:
        """What the client may meet."""
        return frozenset(way.verdict for way in self.ways)


def traces(seen: World, packet: Packet, around: trace.Surroundings) -> Iterator[Trace]:
    """The way of `packet` through all modes."""
    user_tables = userspace.UserspaceMode().tables(seen)
    led = trace.ways(user_tables, packet, around)
    yield Trace("userspace", tuple(way for each in led for way in _proxied(seen, packet, each)))
    tables = iptables_mode.tables(seen)
    yield Trace("iptables", tuple(trace.ways(tables, packet, around)))
    yield Trace("ipvs", tuple(_decided(seen, packet, around, _IPVS)))
    yield Trace("nftables", tuple(_decided(seen, packet, around, _NFTABLES)))


def _proxied(seen: World, packet: Packet, way: Way) -> Iterator[Way]:
    """What kube-proxy's userspace mode does with a connection that the rules redirect to it."""
    if way.verdict is not Verdict.SERVED:
        yield way
        return
    found = decisions.find(seen, packet, lambda _: True)
    if found is None:
        yield way
        return
    port, _ = found
    if not port.everywhere:
        accepted = way.met(
            "kube-proxy",
            "accept, then close",
            f"{port.text} has no endpoints: kube-proxy accepts, and closes at once.",
            way.packet,
        )
        yield accepted.ended(Verdict.REFUSED)
        return
    count = len(port.everywhere)
    for backend in port.everywhere:
        arrived = decisions.target(packet, backend, seen.node.address)
        yield way.met(
            "kube-proxy",
            f"dial {backend.address}",
            f"kube-proxy dials its {count} endpoints in turn, and relays the bytes.",
            arrived,
            1 / count,
        ).ended(Verdict.SERVED)


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of one mode: its tables or tools, and the counterparts of rules."""

    mode: str
    lookup: tuple[str, str]
    refuse: tuple[str, str]
    drop: tuple[str, str]
    masquerade: tuple[str, str]
    choose: Callable[[int], tuple[str, str]]


_NFTABLES = _Words(
    mode="nftables",
    lookup=("nat services", "ip daddr . meta l4proto . th dport vmap @service-ips"),
    refuse=("filter service-endpoints-check", "vmap @no-endpoint-services : goto reject-chain"),
    drop=("filter firewall-check", "vmap @firewall-ips or @no-endpoint-services : drop"),
    masquerade=("nat mark-for-masquerade", "mark set mark or 0x4000, then masquerade"),
    choose=lambda count: ("nat service chain", f"numgen random mod {count} vmap {{ … }}, dnat"),
)
_IPVS = _Words(
    mode="ipvs",
    lookup=("kube-ipvs0", "the address is on the dummy device, and is a virtual server"),
    refuse=("ipvs", "no real server: ICMP port unreachable"),
    drop=("iptables by ipset", "KUBE-LOAD-BALANCER-SOURCE-CIDR, or no real server here"),
    masquerade=("iptables by ipset", "KUBE-MARK-MASQ, then MASQUERADE"),
    choose=lambda count: ("ipvs", f"scheduler rr over {count} real servers"),
)


def _decided(
    seen: World, packet: Packet, around: trace.Surroundings, words: _Words
) -> Iterator[Way]:
    """The ways through a mode that looks up a destination in a map instead of walking rules."""
    way = Way(packet)
    found = decisions.find(seen, packet, around.is_own)
    if found is None:
        yield way
        return
    port, entry = found
    decided = decisions.decide(port, entry, packet, seen.node, around.is_own, words.mode)
    way = way.met(*words.lookup, f"{packet.destination} is a {entry.value} of {port.text}.", packet)
    if decided.verdict is not Verdict.SERVED:
        step = words.refuse if decided.verdict is Verdict.REFUSED else words.drop
        yield way.met(*step, f"{decided.why}.", packet).ended(decided.verdict)
        return
    count = len(decided.backends)
    for backend in decided.backends:
        source = decisions.seen_by(decided, backend, packet, seen.node)
        arrived = decisions.target(packet, backend, source)
        taken = way.met(
            *words.choose(count),
            f"The destination becomes {backend.address}: 1 of {count}.",
            decisions.target(packet, backend, packet.source),
            1 / count,
        )
        if source != packet.source:
            why = decided.why if decided.is_masqueraded else "the pod has reached itself"
            taken = taken.met(*words.masquerade, f"The source becomes the node: {why}.", arrived)
        yield taken.ended(Verdict.SERVED)
