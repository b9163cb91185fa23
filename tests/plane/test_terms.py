"""What a policy asks for connections, at a data plane: from when it holds, and for which."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import pytest

from kproxy.datapath.tcp import lifespan
from kproxy.model import addresses, forwarding
from kproxy.model.lifetimes import Lifetime, OnEndpointRemoved, ProxyProtocol
from kproxy.plane import in_process
from tests.datapath.rig import harness
from tests.reconcile import builders

WEB = builders.port_of("web")
CLUSTER_IP = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "10.0.9.1", 80)
FIRST, LATER = b"the first words", b"later words"
"""Longer than the addresses and ports in a binary header, which must not be taken for them."""
DRAIN = forwarding.Policy(lifetime=Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=600.0))


class Client(NamedTuple):
    """A connection to the frontend."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def echo(self, data: bytes) -> bytes:
        """What comes back of `data`, with all that the backend was sent before."""
        self.writer.write(data)
        async with harness.within(f"{data!r} comes back"):
            return await self.reader.readuntil(data)

    async def ends(self) -> None:
        """Require a clean end."""
        async with harness.within("the connection ends"):
            assert await self.reader.read() == b""
        self.writer.close()


class Stage:
    """A data plane with one service port, its backend, and its clients."""

    def __init__(self, plane: in_process.InProcessPlane, backend: addresses.SocketAddress) -> None:
        self.plane = plane
        self.backend = backend
        self.address = backend
        self.clients: list[Client] = []
        plane.subscribe(lambda _: None)

    def set(
        self, policy: forwarding.Policy, *, is_used: bool = True, is_spared: bool = False
    ) -> None:
        """Balance over the backend, or over none."""
        family = addresses.Family.IPV4
        pool = forwarding.Pool(forwarding.Scope.CLUSTER, family, (self.backend,))
        spared = (self.backend,) if is_spared else ()
        message = forwarding.SetBackends(WEB, policy, (pool,) if is_used else (), spared)
        self.plane.send(message)

    def open(self) -> None:
        """Open the frontend on any port."""
        place = harness.Place()
        self.address = place.address
        place.close()
        at = forwarding.PortalAddress(*self.address)
        self.plane.send(forwarding.OpenFrontend(WEB, CLUSTER_IP, at, self.address))

    async def connect(self) -> Client:
        """A client; closed at the end."""
        async with harness.within("a client connects"):
            self.clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self.clients[-1]

    def states(self) -> list[str]:
        """Of the open connections."""
        return [view.state for view in self.plane.connections() if view]

    def ended(self) -> dict[str, int]:
        """How many connections ended for which reason."""
        seen = self.plane.service_port(WEB)
        return seen.ended if seen is not None else {}


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    made = in_process.InProcessPlane(rng=random.Random(1))
    staged = Stage(made, addresses.SocketAddress(*server.sockets[0].getsockname()))
    try:
        yield staged
        for client in staged.clients:
            client.writer.close()
        assert await made.drain(harness.PROMPT) == 0
    finally:
        made.close()
        server.close()


async def test_another_version_of_the_header_holds_for_the_next_connection(stage: Stage) -> None:
    starts: list[tuple[ProxyProtocol | None, Callable[[bytes], bool]]] = [
        (None, lambda seen: seen == FIRST),
        (ProxyProtocol.V1, lambda seen: seen.startswith(b"PROXY TCP4 127.0.0.1 ")),
        (ProxyProtocol.V2, lambda seen: seen.startswith(b"\r\n\r\n\0\r\nQUIT\n")),
        (None, lambda seen: seen == FIRST),
    ]
    stage.set(forwarding.Policy())
    stage.open()
    for version, is_so in starts:
        stage.set(forwarding.Policy(proxy_protocol=version))
        client = await stage.connect()
        assert is_so(await client.echo(FIRST))
    for client in stage.clients:
        assert await client.echo(LATER) == LATER


async def test_a_removed_backend_is_drained_and_a_spared_one_is_not(stage: Stage) -> None:
    stage.set(DRAIN)
    stage.open()
    client = await stage.connect()
    await client.echo(FIRST)
    stage.set(DRAIN, is_used=False, is_spared=True)
    assert await client.echo(LATER) == LATER
    assert stage.states() == ["open"]
    stage.set(DRAIN, is_used=False)
    await client.ends()
    await harness.until(lambda: stage.ended() == {"E/H": 1}, "it is counted")


async def test_without_the_annotation_what_was_to_drain_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "QUIET", 600.0)
    stage.set(DRAIN)
    stage.open()
    client = await stage.connect()
    await client.echo(FIRST)
    stage.set(DRAIN, is_used=False)
    await harness.until(lambda: stage.states() == ["draining"], "it is to end")
    stage.set(forwarding.Policy(), is_used=False)
    await harness.until(lambda: stage.states() == ["open"], "it goes on")
    assert await client.echo(LATER) == LATER


async def test_a_service_port_that_is_forgotten_drains(stage: Stage) -> None:
    stage.set(DRAIN)
    stage.open()
    client = await stage.connect()
    await client.echo(FIRST)
    stage.plane.send(forwarding.CloseFrontend(forwarding.PortalAddress(*stage.address)))
    stage.plane.send(forwarding.Forget(WEB))
    await client.ends()


async def test_a_service_port_that_is_forgotten_keeps_its_connections_otherwise(
    stage: Stage,
) -> None:
    stage.set(forwarding.Policy(lifetime=Lifetime(max_age=3600.0)))
    stage.open()
    client = await stage.connect()
    await client.echo(FIRST)
    stage.plane.send(forwarding.CloseFrontend(forwarding.PortalAddress(*stage.address)))
    stage.plane.send(forwarding.Forget(WEB))
    assert await client.echo(LATER) == LATER
