"""How many datagrams one batch of events may move, so that a flood of them holds no relay up.

The sockets of UDP are watched level-triggered: a handler takes what its budget allows, and the
kernel reports again what is left. `BUDGET` bounds all of them together in one batch. When it is
spent, the other handlers wait in a queue, in the order in which they came; they get one budget more
after the events of each batch, and until the queue is empty later events go to its end. So every
relay has its turn after `2 * BUDGET` datagrams, some 0.8 ms, and every flow has its turn as well.
"""

from collections import deque
from typing import Protocol

from kproxy.datapath import poller

BUDGET = 64
"""Datagrams moved among the events of one batch, and as many after them."""


class Waiting(Protocol):
    """A handler of a socket of UDP."""

    is_late: bool
    """Whether it is in the queue."""

    @property
    def fd(self) -> int:
        """Its descriptor; -1 once it is closed."""

    def on_events(self, mask: int, /) -> None: ...

    def on_bug(self) -> None: ...


class Pace:
    """The budget of one data path. Satisfies `poller.Resumable`.

    A handler compares `at` with the poller's `now`, calls `begin` when they differ, which is once
    in a batch, and `defer` when nothing is `left`.
    """

    __slots__ = ("_late", "at", "left", "poller")

    def __init__(self, event_poller: poller.Poller) -> None:
        self.poller = event_poller
        self._late: deque[Waiting] = deque()
        self.at = 0.0
        self.left = 0

    def begin(self) -> None:
        """A batch of events has begun. While others wait, its events do not overtake them."""
        self.at = self.poller.now
        self.left = 0 if self._late else BUDGET

    def defer(self, handler: Waiting) -> None:
        """Call `handler.on_events` when it is its turn."""
        if not handler.is_late:
            handler.is_late = True
            self._late.append(handler)
            self.poller.resume_later(self)

    def resume(self) -> None:
        """Let those that wait go on, as far as one budget reaches."""
        late = self._late
        self.at = self.poller.now
        self.left = BUDGET
        while late and self.left > 0:
            handler = late.popleft()
            handler.is_late = False
            if handler.fd < 0:
                continue
            try:
                handler.on_events(poller.READABLE)
            except Exception:
                self.poller.note_bug()
                handler.on_bug()
        if late:
            self.poller.resume_later(self)

    def on_bug(self) -> None:
        """Nothing is owned; the kernel reports again what is left."""
