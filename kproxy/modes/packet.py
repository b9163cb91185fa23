"""The first packet of a connection, and its way through the rules of a mode."""

from dataclasses import dataclass, replace
from enum import StrEnum

from kproxy.model import addresses


class Verdict(StrEnum):
    """What the client meets."""

    SERVED = "served"
    REFUSED = "refused"
    DROPPED = "dropped"
    NOT_FOR_A_SERVICE = "not-proxied"


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `marked`: it is to be masqueraded when it leaves."""

    source: str
    destination: addresses.SocketAddress
    protocol: str = "tcp"
    marked: bool = False

    def __str__(self) -> str:
        mark = ", marked for masquerading" if self.marked else ""
        return f"{self.source} → {self.destination}/{self.protocol}{mark}"


@dataclass(frozen=True, slots=True)
class Step:
    """A rule, or its counterpart in a mode without rules, and the packet after it.

    `chance` is the probability of this step after the one before.
    """

    where: str
    rule: str
    why: str
    packet: Packet
    chance: float = 1.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way that the packet may take, with its probability."""

    packet: Packet
    chance: float = 1.0
    steps: tuple[Step, ...] = ()
    verdict: Verdict = Verdict.NOT_FOR_A_SERVICE

    def met(self, where: str, rule: str, why: str, packet: Packet, chance: float = 1.0) -> "Way":
        """This way with one step more, taken with probability `chance`."""
        step = Step(where, rule, why, packet, chance)
        return replace(self, packet=packet, chance=self.chance * chance, steps=(*self.steps, step))

    def ended(self, verdict: Verdict) -> "Way":
        """This way, ended with what the client meets."""
        return replace(self, verdict=verdict)

    @property
    def endpoint(self) -> addresses.SocketAddress | None:
        """Where the connection goes, if it is served."""
        return self.packet.destination if self.verdict is Verdict.SERVED else None
