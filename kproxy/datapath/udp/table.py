"""All flows of one data path: how many there may be, which one goes for a newer one, and when.

A flow has no end that could be seen: it is over when nothing has moved for a while. The flows of a
front stand in order of use, those that were answered apart from those that were not, since the
latter are given less time; so what has expired is always at the head of one of two queues.

The table is bounded, and a new flow of a full table takes the place of an old one: the least
recently used of its own front, if that has its fair share or more, else of a front that has more.
So a flood of clients of one Service ends its own flows, and not another's.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from kproxy.datapath.udp import endings, flow, loops

if TYPE_CHECKING:
    from kproxy.datapath.udp import front

ANSWERED_SECONDS = 30.0
UNANSWERED_SECONDS = 10.0
"""How long a flow lives without a datagram, after its first answer and before."""
_AT_ONCE = 128
"""Flows ended in one go: some 0.5 ms."""


class Table:
    """The flows of one data path, by front. They belong to their fronts, which end them.

    `limit` is how many there may be, `files` how many descriptors are left for them and for
    connections, which take two each. `on_first` is called when there is a flow and there was none.
    """

    def __init__(
        self,
        limit: int,
        files: int,
        *,
        answered_seconds: float = ANSWERED_SECONDS,
        unanswered_seconds: float = UNANSWERED_SECONDS,
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = limit
        self.files = files
        self.answered_seconds = answered_seconds
        self.unanswered_seconds = unanswered_seconds
        self.count = 0
        self.made_way = 0
        """Flows that ended to make room for another one."""
        self.version = 0
        """Changes with the backends: a flow that was begun or reviewed under another version is
        reviewed at its next datagram."""
        self.own = loops.OwnFlows()
        """Some of the flows, to find out which clients are this process itself."""
        self._fronts: dict[front.Front, None] = {}
        self._on_first = on_first

    @property
    def tick(self) -> float:
        """Seconds between two calls of `expire`: no flow lives longer than it may by more."""
        return min(self.answered_seconds, self.unanswered_seconds, 2.0) / 4

    def add(self, one: flow.Flow) -> None:
        """A flow has begun."""
        self.count += 1
        self._fronts[one.front] = None
        if self.count == 1:
            self._on_first()

    def remove(self, one: flow.Flow) -> None:
        """A flow has ended, and its front has it no more."""
        self.count -= 1
        if not one.front.flows:
            del self._fronts[one.front]

    def make_room(self, wanting: "front.Front") -> bool:
        """End a flow, so that `wanting` can have one more in a full table; False without any."""
        # Two where the limit has been lowered, so that it is met by and by.
        for _ in range(2 if self.count > self.limit else 1):
            giving = self._giving(wanting)
            if giving is None:
                return False
            self.made_way += 1
            giving.end(_least_recent(giving), endings.MADE_WAY)
        return True

    def expire(self, now: float) -> bool:
        """End flows that have been idle for too long; True if there may be more of them."""
        left = _AT_ONCE
        for each in list(self._fronts):
            for queue, seconds in (
                (each.answered, self.answered_seconds),
                (each.unanswered, self.unanswered_seconds),
            ):
                while queue and (head := next(iter(queue))).used + seconds <= now:
                    if not left:
                        return True
                    left -= 1
                    each.end(head, endings.IDLE)
        return False

    def _giving(self, wanting: "front.Front") -> "front.Front | None":
        """Whose flow is to end: of two fronts with flows, neither falls below an equal share by it
        while the other is above."""
        own, fronts = len(wanting.flows), len(self._fronts)
        if own and own * fronts >= self.count:
            return wanting
        if not fronts:
            return None
        return max(self._fronts, key=lambda each: len(each.flows))


def _least_recent(giving: "front.Front") -> flow.Flow:
    if not giving.unanswered:
        return next(iter(giving.answered))
    unanswered = next(iter(giving.unanswered))
    if not giving.answered:
        return unanswered
    answered = next(iter(giving.answered))
    return answered if answered.used <= unanswered.used else unanswered


Queue = OrderedDict[flow.Flow, None]
"""Flows in order of use, the least recently used one first."""
