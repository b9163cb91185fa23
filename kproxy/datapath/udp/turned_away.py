"""Clients of UDP whose flows are dropped, for backends of a route that cannot be used.

The share of a backend is one of flows. If a client that is turned away could begin anew with its
next datagram, it would be let in sooner or later, and hardly anything would be dropped.
"""

from collections import OrderedDict

from kproxy.datapath.udp import flow

SECONDS = 30.0
"""A client that has sent nothing for so long begins anew, as after the end of a flow."""

MOST = 4096
"""Clients that are remembered; of more, those that were silent longest begin anew."""


class TurnedAway:
    """The clients of one front that are turned away, by address and port."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: OrderedDict[flow.Client, float] = OrderedDict()

    def holds(self, client: flow.Client, now: float) -> bool:
        """Whether a datagram of `client` is dropped, because the one before was, too."""
        seen = self._seen
        at = seen.get(client)
        if at is None:
            return False
        if now - at > SECONDS:
            del seen[client]
            return False
        seen[client] = now
        seen.move_to_end(client)
        return True

    def add(self, client: flow.Client, now: float) -> None:
        """What comes of `client` is dropped from now on; the most silent of too many is let go."""
        self._seen[client] = now
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
