"""Follow a packet through rules: an interpreter of the matches and targets that kube-proxy uses.

A rule that matches with a probability divides a way in two, each with its probability. The result
is every way that the packet may take.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kproxy.model import addresses
from kproxy.modes.iptables import shared
from kproxy.modes.iptables.rule import (
    AddressType,
    Comment,
    Destination,
    Jump,
    Mark,
    Masquerade,
    NotBridged,
    Nothing,
    OneOf,
    Port,
    Protocol,
    Redirect,
    Reject,
    Remember,
    Rule,
    SeenLately,
    SetMark,
    Source,
    State,
    Table,
    Target,
    Test,
    Translate,
)
from kproxy.modes.packet import Packet, Verdict, Way


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rules test besides the packet.

    `own` are addresses of the node; 127/8 and ::1 always are. `outgoing` is the one that it
    masquerades with. `bound` says how many seconds ago a
    client was sent to an endpoint, by the name of the list; an absent one never was. `bridged`: the
    packet comes from a container over a bridge of this node.
    """

    own: Collection[str] = ()
    outgoing: str = "127.0.0.1"
    bound: Mapping[str, float] = field(default_factory=dict)
    bridged: bool = False

    def is_own(self, address: str) -> bool:
        """Whether an address is one of the node's."""
        return address in self.own or ipaddress.ip_address(address).is_loopback


def ways(tables: tuple[Table, Table], packet: Packet, around: Surroundings) -> Iterator[Way]:
    """Every way that the packet may take through the filter and the nat table, and its end."""
    return _Walk(tables, around).ways(packet)


_ENDS = frozenset({"ACCEPT", "DROP", "RETURN"})


class _Walk:
    """The interpreter, for one set of rules."""

    def __init__(self, tables: tuple[Table, Table], around: Surroundings) -> None:
        self._tables = {table.name: table for table in tables}
        self._around = around

    def ways(self, packet: Packet) -> Iterator[Way]:
        """All ways, in netfilter's order: nat at the packet's entry, filter, nat at its exit."""
        is_ours = self._around.is_own(packet.source)
        entry = "OUTPUT" if is_ours else "PREROUTING"
        for way, verdict in self._chain("nat", entry, Way(packet)):
            if verdict is Verdict.DROPPED:
                yield way.ended(verdict)
                continue
            is_sent_on = verdict is Verdict.SERVED
            yield from self._filtered(way, is_sent_on=is_sent_on, is_ours=is_ours)

    def _filtered(self, way: Way, *, is_sent_on: bool, is_ours: bool) -> Iterator[Way]:
        """Through the filter table: a packet from this node to itself passes OUTPUT and INPUT."""
        is_for_us = self._around.is_own(way.packet.destination.address)
        hooks = ["OUTPUT"] if is_ours else []
        hooks += ["INPUT"] if is_for_us else []
        end = Verdict.SERVED if is_sent_on else Verdict.NOT_FOR_A_SERVICE
        for passed, verdict in self._hooks(hooks or ["FORWARD"], way):
            if verdict is not None and verdict is not Verdict.SERVED:
                yield passed.ended(verdict)
            elif is_for_us and not is_ours:
                yield passed.ended(end)
            else:
                for left, _ in self._chain("nat", "POSTROUTING", passed):
                    yield left.ended(end)

    def _hooks(self, hooks: Sequence[str], way: Way) -> Iterator[tuple[Way, Verdict | None]]:
        """Through chains of the filter table, one after the other, until one gives a verdict."""
        first, *others = hooks
        for passed, verdict in self._chain("filter", first, way):
            if others and verdict in (None, Verdict.SERVED):
                yield from self._hooks(others, passed)
            else:
                yield passed, verdict

    def _chain(
        self, table: str, chain: str, way: Way, start: int = 0
    ) -> Iterator[tuple[Way, Verdict | None]]:
        """The ways out of a chain, from its rule `start` on; without a verdict they go on behind
        the jump that led to it."""
        rules = self._tables[table].chains.get(chain, [])
        for place, rule in enumerate(rules[start:], start):
            chance = self._chance(rule, way.packet)
            if not chance:
                continue
            met = self._met(table, rule, way, chance)
            match rule.target:
                case SetMark() | Nothing():
                    way = met
                    continue
                case Jump(target) if target not in _ENDS:
                    for out, verdict in self._called(table, target, met):
                        if verdict is None:
                            yield from self._chain(table, chain, out, place + 1)
                        else:
                            yield out, verdict
                case target:
                    yield met, _verdict(target)
            if chance == 1:
                return
            way = replace(way, chance=way.chance * (1 - chance))
        yield way, None

    def _called(self, table: str, chain: str, way: Way) -> Iterator[tuple[Way, Verdict | None]]:
        if chain == shared.MARK_DROP:
            return iter([(way, Verdict.DROPPED)])  # by a rule of the kubelet's
        return self._chain(table, chain, way)

    def _met(self, table: str, rule: Rule, way: Way, chance: float) -> Way:
        """The way behind a rule that is true for its packet."""
        packet = way.packet
        match rule.target:
            case SetMark(is_set):
                packet = replace(packet, marked=is_set)
            case Translate(to):
                packet = replace(packet, destination=_parsed(to))
            case Redirect(port):
                at = addresses.SocketAddress(self._around.outgoing, port)
                packet = replace(packet, destination=at)
            case Masquerade():
                packet = replace(packet, source=self._around.outgoing)
        return way.met(f"{table} {rule.chain}", str(rule), rule.why, packet, chance)

    def _chance(self, rule: Rule, packet: Packet) -> float:
        """With what probability a rule is true for the packet."""
        chance = 1.0
        for test in rule.tests:
            if isinstance(test, OneOf):
                chance *= 1 / test.count
            elif not self._is_true(test, packet):
                return 0.0
        return chance

    def _is_true(self, test: Test, packet: Packet) -> bool:
        match test:
            case Source(network, negated):
                return _is_in(packet.source, network) is not negated
            case Destination(network, negated):
                return _is_in(packet.destination.address, network) is not negated
            case Protocol(name):
                return packet.protocol == name
            case Port(_, number):
                return not number or packet.destination.port == number
            case AddressType(side, negated):
                address = packet.source if side == "src" else packet.destination.address
                return self._around.is_own(address) is not negated
            case NotBridged():
                return not self._around.bridged
            case Mark(negated):
                return packet.marked is not negated
            case State(states, negated):
                return ("NEW" in states) is not negated
            case SeenLately(name, seconds):
                return self._around.bound.get(name, float("inf")) <= seconds
            case Comment() | Remember() | OneOf():
                return True


def _verdict(target: Target) -> Verdict | None:
    match target:
        case Reject():
            return Verdict.REFUSED
        case Jump("DROP"):
            return Verdict.DROPPED
        case Translate() | Redirect() | Masquerade() | Jump("ACCEPT"):
            return Verdict.SERVED
        case _:
            return None


def _is_in(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def _parsed(text: str) -> addresses.SocketAddress:
    address, _, port = text.rpartition(":")
    return addresses.SocketAddress(address.strip("[]"), int(port))
