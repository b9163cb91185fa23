"""A data plane that carries nothing out: it records, and holds the proxier to its contract."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

from msgspec import structs

from kproxy.model import forwarding, names

Hear: TypeAlias = Callable[[forwarding.Report], None]


class RecordingPlane:
    """Satisfies `plane.Forwarder`. `open` and `backends` are what is in force now.

    An address in `busy` is held by another process: opening it fails with EADDRINUSE.
    A message that the contract rules out is an AssertionError, wherever a test does not look.
    """

    def __init__(self) -> None:
        self.messages: list[forwarding.Message] = []
        self.open: dict[forwarding.PortalAddress, forwarding.OpenFrontend] = {}
        self.backends: dict[names.ServicePortName, forwarding.SetBackends] = {}
        self.busy: set[forwarding.PortalAddress] = set()
        self.hear: Hear = lambda _: None

    def subscribe(self, hear: Hear) -> None:
        """Reports come while `send` runs."""
        self.hear = hear

    def send(self, message: forwarding.Message) -> None:
        """Check, record, and keep the books."""
        self.messages.append(message)
        match message:
            case forwarding.SetBackends(name, _, pools):
                sides = [(pool.scope, pool.family) for pool in pools]
                assert len(set(sides)) == len(sides)
                for pool in pools:
                    assert pool.backends
                    assert len(set(pool.backends)) == len(pool.backends)
                self.backends[name] = message
            case forwarding.OpenFrontend():
                self._open(message)
            case forwarding.Admit(address, admitted):
                assert address in self.open, f"{address} is not open"
                self.open[address] = structs.replace(self.open[address], admitted=admitted)
            case forwarding.CloseFrontend(address):
                assert address in self.open, f"{address} is not open"
                del self.open[address]
            case forwarding.Forget(name):
                assert name in self.backends, f"{name} is not known"
                still_open = [a for a, opened in self.open.items() if opened.name == name]
                assert not still_open, f"{name} is still open on {still_open}"
                del self.backends[name]

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """`send`, in one step."""
        self.send(message)
        yield

    def drain(self) -> list[forwarding.Message]:
        """The messages since the last call."""
        messages, self.messages = self.messages, []
        return messages

    def _open(self, message: forwarding.OpenFrontend) -> None:
        assert message.name in self.backends, f"{message.name} has no backends set"
        pools, frontend = self.backends[message.name].pools, message.frontend
        wanted = forwarding.backends_of(pools, frontend.scope, frontend.family)
        is_passed_on = frontend.kind is not forwarding.FrontendKind.HEALTH_CHECK
        if message.admitted is None and is_passed_on:
            assert wanted, f"{message.address} would accept clients with nowhere to go"
        assert message.address not in self.open, f"{message.address} is open already"
        if message.address in self.busy:
            self.hear(forwarding.OpenFailed(message.address, os.strerror(errno.EADDRINUSE)))
            return
        self.open[message.address] = message
        self.hear(forwarding.Opened(message.address))
