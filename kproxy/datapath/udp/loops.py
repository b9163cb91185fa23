"""Find datagrams that this process sends to itself, and would pass on round and round.

As for connections (`datapath.tcp.accept.loops`): an endpoint that leads back to a frontend, by a
NAT rule for instance, makes a new flow of each round, without end. A loop is a client whose address
and port are those of a flow's own socket. To ask the kernel for the port of every flow would cost
each a system call, so one flow in `_EVERY` is noted: a loop is found after a few rounds.
"""

import weakref

from kproxy.datapath import episodes
from kproxy.datapath.udp import flow

_EVERY = 8
_KEPT = 64


class OwnFlows:
    """Some of the latest flows of one data path, by the local port of their socket.

    `ports` is empty or small; it is only to be looked into. Owns no socket.
    """

    def __init__(self) -> None:
        self.ports: dict[int, weakref.ref[flow.Flow]] = {}
        self.countdown = 0
        """How many more flows are passed over; the front counts it down."""

    def note(self, begun: flow.Flow) -> None:
        """Remember a flow that has just begun."""
        self.countdown = _EVERY
        self.ports[begun.socket.sock.getsockname()[1]] = weakref.ref(begun)
        while len(self.ports) > _KEPT:
            del self.ports[next(iter(self.ports))]

    def led_back(self, client: flow.Client, to: str, troubles: episodes.Episodes) -> bool:
        """Whether `client`, whose port is in `ports`, is a flow of this process.

        `to` is the service port that its datagram came to.
        """
        noted = self.ports[client[1]]()
        if noted is None or noted.fd < 0:  # its port may be another program's now
            del self.ports[client[1]]
            return False
        if noted.socket.sock.getsockname()[:2] != client[:2]:
            return False
        troubles.note(
            episodes.LOOP,
            noted.front.target.text,
            lambda: {"endpoint": str(noted.backend), "leads_to": to},
        )
        return True
