"""A rule as data: what it tests, what it does, why it is there. Its text is iptables-save's.

That form is canonical: iptables-restore reads it, and loading and saving a ruleset leaves it as it
was. kube-proxy itself writes options in another order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from kproxy.modes.mode import Line

_RESOLUTION = 1 << 31
"""xt_statistic keeps a probability as a multiple of 2^-31."""


class Source(msgspec.Struct, frozen=True, gc=False):
    """The packet's source is, or is not, in a network."""

    network: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{'! ' if self.negated else ''}-s {self.network}"


class Destination(msgspec.Struct, frozen=True, gc=False):
    """The packet's destination is, or is not, in a network."""

    network: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{'! ' if self.negated else ''}-d {self.network}"


class Protocol(msgspec.Struct, frozen=True, gc=False):
    """The packet is of this protocol."""

    name: str

    def __str__(self) -> str:
        return f"-p {self.name}"


class Comment(msgspec.Struct, frozen=True, gc=False):
    """Always true: kube-proxy's own comment, which is a part of the rule."""

    text: str

    def __str__(self) -> str:
        return f'-m comment --comment "{self.text}"'


class Port(msgspec.Struct, frozen=True, gc=False):
    """The packet is of a protocol with ports, and for `number` if that is not 0."""

    protocol: str
    number: int = 0

    def __str__(self) -> str:
        return f"-m {self.protocol}" + (f" --dport {self.number}" if self.number else "")


class AddressType(msgspec.Struct, frozen=True, gc=False):
    """The source ("src") or destination ("dst") is, or is not, an address of this host."""

    side: str
    negated: bool = False

    def __str__(self) -> str:
        return f"-m addrtype {'! ' if self.negated else ''}--{self.side}-type LOCAL"


class NotBridged(msgspec.Struct, frozen=True, gc=False):
    """The packet did not come in over a bridge port, as from a container."""

    def __str__(self) -> str:
        return "-m physdev ! --physdev-is-in"


class Mark(msgspec.Struct, frozen=True, gc=False):
    """The packet has, or has not, the mark for masquerading."""

    negated: bool = False

    def __str__(self) -> str:
        return f"-m mark {'! ' if self.negated else ''}--mark 0x4000/0x4000"


class State(msgspec.Struct, frozen=True, gc=False):
    """The connection's state is, or is not, one of these."""

    states: str
    negated: bool = False
    module: str = "conntrack --ctstate"

    def __str__(self) -> str:
        module, _, option = self.module.partition(" ")
        return f"-m {module} {'! ' if self.negated else ''}{option} {self.states}"


class SeenLately(msgspec.Struct, frozen=True, gc=False):
    """The client is in the list `name`, and was put there within so many seconds."""

    name: str
    seconds: int
    mask: str

    def __str__(self) -> str:
        return (
            f"-m recent --rcheck --seconds {self.seconds} --reap --name {self.name} "
            f"--mask {self.mask} --rsource"
        )


class Remember(msgspec.Struct, frozen=True, gc=False):
    """Always true: puts the client into the list `name`, with the time."""

    name: str
    mask: str

    def __str__(self) -> str:
        return f"-m recent --set --name {self.name} --mask {self.mask} --rsource"


class OneOf(msgspec.Struct, frozen=True, gc=False):
    """True for one packet in `count`, by chance."""

    count: int

    @property
    def probability(self) -> float:
        """As the kernel keeps it: kube-proxy writes ten decimals."""
        return round(round(1 / self.count, 10) * _RESOLUTION) / _RESOLUTION

    def __str__(self) -> str:
        return f"-m statistic --mode random --probability {self.probability:.11f}"


Test: TypeAlias = (
    Source
    | Destination
    | Protocol
    | Comment
    | Port
    | AddressType
    | NotBridged
    | Mark
    | State
    | SeenLately
    | Remember
    | OneOf
)


class Jump(msgspec.Struct, frozen=True, gc=False):
    """Go on in another chain, or end: ACCEPT, DROP, RETURN and their like are chains too."""

    target: str

    def __str__(self) -> str:
        return f"-j {self.target}"


class Reject(msgspec.Struct, frozen=True, gc=False):
    """Refuse, with an ICMP error."""

    answer: str

    def __str__(self) -> str:
        return f"-j REJECT --reject-with {self.answer}"


class Translate(msgspec.Struct, frozen=True, gc=False):
    """Send the connection to another destination (DNAT)."""

    to: str

    def __str__(self) -> str:
        return f"-j DNAT --to-destination {self.to}"


class Redirect(msgspec.Struct, frozen=True, gc=False):
    """Send the connection to a port of this host."""

    port: int

    def __str__(self) -> str:
        return f"-j REDIRECT --to-ports {self.port}"


class SetMark(msgspec.Struct, frozen=True, gc=False):
    """Set the mark for masquerading, or take it away."""

    is_set: bool

    def __str__(self) -> str:
        return f"-j MARK --set-xmark 0x4000/{'0x4000' if self.is_set else '0x0'}"


class Masquerade(msgspec.Struct, frozen=True, gc=False):
    """Let the connection come from this host's own address."""

    def __str__(self) -> str:
        return "-j MASQUERADE --random-fully"


class Nothing(msgspec.Struct, frozen=True, gc=False):
    """No effect: the rule is there for its comment and its counter."""

    def __str__(self) -> str:
        return ""


Target: TypeAlias = Jump | Reject | Translate | Redirect | SetMark | Masquerade | Nothing


class Rule(msgspec.Struct, frozen=True, gc=False):
    """One rule of `chain`. `tests` are in the order in which they are written."""

    chain: str
    tests: tuple[Test, ...]
    target: Target
    why: str = ""

    def __str__(self) -> str:
        words = (f"-A {self.chain}", *map(str, self.tests), str(self.target))
        return " ".join(word for word in words if word)


@dataclass(slots=True)
class Table:
    """A table while it is made: its chains, each with its rules in order.

    `hooks` are the kernel's own chains. A chain that is only named is there, and empty.
    """

    name: str
    hooks: tuple[str, ...]
    chains: dict[str, list[Rule]] = field(default_factory=dict)

    def declare(self, *chains: str) -> None:
        """Have these chains."""
        for chain in chains:
            self.chains.setdefault(chain, [])

    def add(self, chain: str, *tests: Test, to: Target | str, why: str = "") -> None:
        """Append a rule; a text is the name of a chain to go on in."""
        target = Jump(to) if isinstance(to, str) else to
        self.chains.setdefault(chain, []).append(Rule(chain, tests, target, why))

    def rules(self) -> Iterator[Rule]:
        """All rules: those of the hooks first, then by chain."""
        for chain in (*self.hooks, *sorted(self.chains.keys() - set(self.hooks))):
            yield from self.chains.get(chain, ())

    def lines(self) -> Iterator[Line]:
        """As iptables-restore reads it."""
        yield Line(f"*{self.name}")
        yield from (Line(f":{hook} ACCEPT [0:0]") for hook in self.hooks)
        yield from (
            Line(f":{chain} - [0:0]") for chain in sorted(self.chains.keys() - set(self.hooks))
        )
        yield from (Line(str(each), each.why) for each in self.rules())
        yield Line("COMMIT")
