"""What all connections of one data path share."""

from typing import TYPE_CHECKING

from kproxy import events, metrics
from kproxy.datapath import episodes, poller, splice, syscalls
from kproxy.datapath.tcp.accept import loops

if TYPE_CHECKING:
    from collections.abc import Callable


class Shared:
    """The state that all connections of one data path share."""

    __slots__ = (
        "connections",
        "counters",
        "episodes",
        "feed",
        "kernel",
        "on_room",
        "own_dials",
        "pipes",
        "poller",
    )

    def __init__(
        self, kernel: syscalls.Kernel, event_poller: poller.Poller, pipes: splice.PipePool
    ) -> None:
        self.kernel = kernel
        self.poller = event_poller
        self.pipes = pipes
        self.counters = metrics.DataPathCounters()
        self.episodes = episodes.Episodes()
        self.own_dials = loops.OwnDials(event_poller, self.episodes)
        self.connections = 0
        """Connections open now, dialling ones included."""
        self.feed: events.Feed | None = None
        """Where facts about connections go; None without a subscription."""
        self.on_room: Callable[[], None] | None = None
        """Called when a connection has ended, if a listener waits for room."""
