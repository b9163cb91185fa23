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

from kproxy.datapath.udp import endings, flow

if TYPE_CHECKING:
    from kproxy.datapath.udp import front

ANSWERED_SECONDS = 30.0
UNANSWERED_SECONDS = 10.0
"""How long a flow lives without a datagram, after its first answer and before."""
_AT_ONCE = 128
"""Flows ended in one go: some 0.5 ms."""


class Table:
    """The flows of one data path, by front. They belong to their fronts, which end them.

    `limit` is how many there may be; `has_file` says whether a descriptor is left for one more.
    `on_first` is called when there is a flow and there was none.
    """

    def __init__(
        self,
        limit: int,
        has_file: Callable[[], bool],
        *,
        answered_seconds: float = ANSWERED_SECONDS,
        unanswered_seconds: float = UNANSWERED_SECONDS,
        on_first: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = limit
        self.has_file = has_file
        self.answered_seconds = answered_seconds
        self.unanswered_seconds = unanswered_seconds
        self.count = 0
        self.version = 0
        """Changes with the backends: a flow that was begun or reviewed under another version is
        reviewed at its next datagram."""
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
        """See that `wanting` can have one flow more, at the cost of another one if need be; False
        if there is no other one."""
        if self.count < self.limit and self.has_file():
            return True
        # Two where the limit has been lowered, so that it is met by and by.
        for _ in range(2 if self.count > self.limit else 1):
            giving = self._giving(wanting)
            if giving is None:
                return False
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
        if not self._fronts:
            return None
        share = self.count // len(self._fronts)
        if wanting.flows and len(wanting.flows) >= share:
            return wanting
        return max(self._fronts, key=lambda each: len(each.flows))


def _least_recent(giving: "front.Front") -> flow.Flow:
    heads = [next(iter(queue)) for queue in (giving.answered, giving.unanswered) if queue]
    return min(heads, key=lambda each: each.used)


Queue = OrderedDict[flow.Flow, None]
"""Flows in order of use, the least recently used one first."""
