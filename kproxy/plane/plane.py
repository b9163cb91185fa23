"""What a data plane is: it obeys messages, and answers questions about itself with frozen data.

Nothing above this seam holds an object of a data plane, so that it may be in another process.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn, Protocol

from kproxy import turns
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding, names
from kproxy.plane import snapshots


class Part(enum.Flag):
    """What of a data plane is to be read."""

    TOTALS = 0
    """`Readable.totals`, which every refresh brings up to date."""
    PORTS = enum.auto()
    """`service_port` and `endpoint`."""
    BYTES = enum.auto()
    """In `service_port`, the bytes of connections that are still open."""
    AFFINITY = enum.auto()
    CONNECTIONS = enum.auto()


class Forwarder(Protocol):
    """Carries out what the proxier found to be different."""

    def subscribe(self, hear: Callable[[forwarding.Report], None], /) -> None:
        """Call `hear` with every report from now on, in `send` or later. For one listener."""

    def send(self, message: forwarding.Message, /) -> None:
        """Carry out one message, now or later, after all that were sent before.

        A data plane that has ended ignores it.
        """

    def send_steps(self, message: forwarding.SetBackends, /) -> Iterator[None]:
        """`send` for a message that may take long, in steps of less than a millisecond.

        All of them must be taken before the next message.
        """


class Readable(Protocol):
    """Says what happened in a data plane, and what it holds now.

    The answers are as old as the last `refresh` of their part, or newer. Each takes less than a
    millisecond, so that a caller that wants ten thousand of them can pause in between.
    """

    async def refresh(self, part: Part, shared: turns.Turns, /) -> None:
        """Bring the answers of `part` up to date; what is long is done in `shared` slices.

        Raises KproxyError when the data plane has ended.
        """

    def has_events(self) -> bool:
        """Whether connections wait for their turn on this thread: other work lets them pass.

        False for a data plane in another process. Takes a microsecond.
        """

    def totals(self) -> snapshots.Totals:
        """The data plane as a whole."""

    def service_port(self, name: names.ServicePortName, /) -> snapshots.ServicePort | None:
        """What happened on a service port; None if the data plane does not know it."""

    def endpoint(
        self, name: names.ServicePortName, backend: addresses.SocketAddress, /
    ) -> snapshots.Endpoint:
        """What is known of an endpoint, whether the service port is balanced over it or not."""

    def affinity(self, name: names.ServicePortName, limit: int, /) -> Iterable[snapshots.Binding]:
        """At most `limit` clients that are bound to an endpoint, for each scope, newest first."""

    def coming(self, name: names.ServicePortName, client: str, /) -> Sequence[snapshots.Coming]:
        """Where a connection of `client` would go now, without picking; () if that is not known."""

    def connections(
        self, is_asked_for: Callable[[names.ServicePortName], bool], /
    ) -> Iterable[data_path.ConnectionView | None]:
        """The open connections of the service ports so asked for; None is a step without one."""


class DataPlane(Forwarder, Readable, Protocol):
    """A whole data plane. Its maker must end it with `close`."""

    @property
    def protocols(self) -> frozenset[names.Protocol]:
        """The transport protocols whose frontends it can open."""

    @property
    def max_listeners(self) -> int:
        """Frontends that may be open at once, so that descriptors are left for everything else."""

    async def wait_ended(self) -> NoReturn:
        """Raise KproxyError once the data plane has ended without being asked to."""

    def share(self, name: str, descriptor: int, /) -> None:
        """Take a duplicate of a listening socket, for frontends that `listen_on` this name.

        Comes before the messages that name it. Raises OSError.
        """

    async def drain(self, grace: float, /) -> int:
        """Close every frontend and let connections finish for `grace` seconds.

        Frontends of UDP are closed when first answers that are due have come or taken too long.
        Returns how many were left and reset. Cancelling it leaves them as they are. Raises
        KproxyError when the data plane ends before that, by itself.
        """

    async def abort(self) -> int:
        """Reset every open connection; returns how many there were."""

    def close(self) -> None:
        """Reset what is left and give every descriptor back."""
