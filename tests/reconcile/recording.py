"""A data plane that carries nothing out: it records, and holds the proxier to its contract."""

import errno
import os
from collections.abc import Iterator

from kproxy.model import addresses, forwarding, names


class RecordingPlane:
    """Satisfies `dataplane.DataPlane`. `open` and `backends` are what is in force now.

    An address in `busy` is held by another process: opening it raises OSError(EADDRINUSE).
    A message that the contract rules out is an AssertionError, wherever a test does not look.
    """

    def __init__(self) -> None:
        self.messages: list[forwarding.Message] = []
        self.open: dict[addresses.SocketAddress, forwarding.OpenFrontend] = {}
        self.backends: dict[names.ServicePortName, forwarding.SetBackends] = {}
        self.busy: set[addresses.SocketAddress] = set()

    def apply(self, message: forwarding.Message) -> None:
        """Check, record, and keep the books."""
        self.messages.append(message)
        match message:
            case forwarding.SetBackends(name, _, cluster, local):
                assert len(set(cluster)) == len(cluster)
                assert len(set(local)) == len(local)
                self.backends[name] = message
            case forwarding.OpenFrontend():
                self._open(message)
            case forwarding.CloseFrontend(address):
                assert address in self.open, f"{address} is not open"
                del self.open[address]
            case forwarding.Forget(name):
                assert name in self.backends, f"{name} is not known"
                still_open = [a for a, opened in self.open.items() if opened.name == name]
                assert not still_open, f"{name} is still open on {still_open}"
                del self.backends[name]

    def steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """`apply`, in one step."""
        self.apply(message)
        yield

    def drain(self) -> list[forwarding.Message]:
        """The messages since the last call."""
        messages, self.messages = self.messages, []
        return messages

    def _open(self, message: forwarding.OpenFrontend) -> None:
        assert message.name in self.backends, f"{message.name} has no backends set"
        known = self.backends[message.name]
        wanted = known.local if message.frontend.scope is forwarding.Scope.LOCAL else known.cluster
        assert wanted, f"{message.address} would accept clients with nowhere to go"
        assert message.address not in self.open, f"{message.address} is open already"
        if message.address in self.busy:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.open[message.address] = message
