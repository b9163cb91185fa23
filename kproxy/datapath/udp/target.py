"""Where the datagrams of a frontend go, and what is asked to choose it."""

from collections.abc import Sequence, Sized
from typing import Protocol

from kproxy import metrics
from kproxy.datapath import loads as counting
from kproxy.datapath.udp import endings, turned_away
from kproxy.model import addresses, names


class Picker(Protocol):
    """Chooses backends for one service port. The balancer satisfies it; it must not block."""

    def pick(self, client: str, now: float, /) -> addresses.SocketAddress | None:
        """The first choice for a new flow from `client`; None when there is no backend."""

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float, /
    ) -> addresses.SocketAddress | None:
        """Another choice after those in `tried` refused, untried ones first."""

    def may_keep(self, client: str, backend: addresses.SocketAddress, /) -> bool:
        """Whether a flow of `client` may stay with `backend` after something has changed."""


class RefusalBox(Protocol):
    """Which backends refuse datagrams. The balancer's penalty box satisfies it.

    A server of UDP cannot be probed: only its own protocol makes it answer. So a backend is on
    parole after its penalty, and the next flow is the probe.
    """

    @property
    def boxed(self) -> Sized:
        """The backends in the box: always the same collection, whose emptiness is cheap to see."""

    @property
    def paroled(self) -> Sized:
        """Backends that were let out and have not answered yet; as `boxed`."""

    def fail(self, backend: addresses.SocketAddress, now: float, /) -> bool:
        """A backend refused a datagram. True if this put it into the box."""

    def succeed(self, backend: addresses.SocketAddress, /) -> None:
        """A backend answered: it leaves the box, and its parole is over."""

    def due_probes(self, now: float, /) -> Sequence[addresses.SocketAddress]:
        """Backends whose penalty has run out."""

    def parole(self, backend: addresses.SocketAddress, /) -> None:
        """Let a backend out; the penalty for its next refusal is longer."""


class Terms(Protocol):
    """What holds for all fronts of a service port."""

    @property
    def loads(self) -> counting.Loads | None:
        """Counts the flows of each backend; None unless the strategy goes by that."""


class _NoTerms:
    loads: counting.Loads | None = None


class Target:
    """Where a front's flows go: a picker, and the counters of its service port."""

    __slots__ = ("counters", "name", "picker", "terms", "text", "turned_away")

    def __init__(
        self,
        name: names.ServicePortName,
        picker: Picker,
        counters: metrics.ServicePortCounters | None = None,
        terms: Terms | None = None,
    ) -> None:
        self.name = name
        self.text = str(name)
        """The name, as logs and facts show it."""
        self.picker = picker
        self.turned_away: turned_away.TurnedAway | None = None
        """Remembers the clients that the picker has turned away, while it does so to some."""
        self.terms = terms or _NoTerms()
        self.counters = counters or metrics.ServicePortCounters(endings.REASONS)
