"""Rows 30 and 31 of docs/behaviour.md: what load balancers get from `healthCheckNodePort`.

Each test plays the proxier, with messages, and the load balancer, with sockets.
"""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator

import pytest

from kproxy import events
from kproxy.model import addresses, forwarding, names
from kproxy.ops import node_health
from tests import isolation
from tests.ops import recordings
from tests.reconcile import recording

IPV4, IPV6 = addresses.Family
LB = names.ServicePortName(names.NamespacedName("rec", "lb"), "http")
HEALTH_CHECK = forwarding.FrontendKind.HEALTH_CHECK


def place(number: int = 0, host: str = "127.0.0.1") -> forwarding.PortalAddress:
    return forwarding.PortalAddress(host, isolation.port() + 700 + number)


def opens(
    at: forwarding.PortalAddress, name: names.ServicePortName = LB
) -> forwarding.OpenFrontend:
    frontend = forwarding.Frontend(
        HEALTH_CHECK, at.address, at.port, family=addresses.family(at.address)
    )
    return forwarding.OpenFrontend(name, frontend, at, at.socket_address)


class Asked:
    """A node's health with a data plane behind it."""

    def __init__(self) -> None:
        self.is_well = True
        self.plane = recording.RecordingPlane()
        self.reports: list[forwarding.Report] = []
        self.feed = events.Feed()
        self.health = node_health.NodeHealth(
            self.plane, lambda: self.is_well, self.feed, lambda: 1.0
        )
        self.health.subscribe(self.reports.append)

    def tell(self, ipv4: int, ipv6: int = 0, name: names.ServicePortName = LB) -> None:
        counts = ((IPV4, ipv4), (IPV6, ipv6))
        self.health.send(forwarding.SetLocalEndpoints(name, counts))


@contextlib.asynccontextmanager
async def asked() -> AsyncIterator[Asked]:
    made = Asked()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.health.run())
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            running.cancel()
            made.health.close()


async def answer(
    at: forwarding.PortalAddress, request: str = "GET /healthz HTTP/1.1"
) -> tuple[int, bytes, bytes]:
    """The status, the head and the body of an answer."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(at.address, at.port)
        with contextlib.closing(writer):
            writer.write(f"{request}\r\nHost: node\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


async def test_row_30_the_answer_is_kube_proxys_to_the_byte() -> None:
    recorded = (recordings.FOLDER / "healthchecknodeport.http.txt").read_bytes()
    async with asked() as node:
        node.health.send(opens(place()))
        node.tell(1)
        status, head, body = await answer(place(), "GET / HTTP/1.0")
    assert status == 200

    def undated(head: bytes) -> list[bytes]:
        """Go answers HTTP/1.0 with its own version of the time."""
        lines = head.split(b"\r\n")
        return [each for each in lines if not each.startswith((b"Date: ", b"Connection: "))]

    recorded_head, _, recorded_body = recorded.partition(b"\r\n\r\n")
    assert body == recorded_body
    assert undated(head) == undated(recorded_head)


@pytest.mark.parametrize(
    ("count", "is_well", "status"),
    [(0, True, 503), (1, True, 200), (7, True, 200), (1, False, 503), (0, False, 503)],
)
async def test_row_30_the_status_says_whether_to_send_traffic_here(
    count: int, is_well: bool, status: int
) -> None:
    async with asked() as node:
        node.health.send(opens(place()))
        node.tell(count)
        node.is_well = is_well
        found, _, body = await answer(place())
    assert found == status
    assert body.endswith(b'\t"localEndpoints": %d\n}' % count)


def test_s13_an_answer_leaves_nothing_to_the_garbage_collector() -> None:
    """Anyone may ask, and load balancers do so for ever."""
    gc.collect()
    gc.disable()
    try:
        for count in range(100):
            node_health.body(LB.service, count)
        assert gc.collect() < 100
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["/", "/healthz", "/any/thing?of=them"])
async def test_row_30_every_path_is_answered_alike(path: str) -> None:
    async with asked() as node:
        node.health.send(opens(place()))
        node.tell(2)
        status, _, body = await answer(place(), f"GET {path} HTTP/1.1")
        assert (status, body) == (200, node_health.body(LB.service, 2))
        status, head, body = await answer(place(), f"HEAD {path} HTTP/1.1")
        assert (status, body) == (200, b"")
        assert b"Content-Length: 79" in head


async def test_row_30_each_family_has_a_count_of_its_own() -> None:
    async with asked() as node:
        node.health.send(opens(place()))
        node.health.send(opens(place(host="::1")))
        node.tell(0, ipv6=3)
        assert (await answer(place()))[0] == 503
        assert (await answer(place(host="::1")))[0] == 200


async def test_row_30_a_change_is_said_from_the_next_answer_on() -> None:
    async with asked() as node:
        node.health.send(opens(place()))
        for count, status in ((1, 200), (0, 503), (2, 200)):
            node.tell(count)
            assert (await answer(place()))[0] == status


async def test_row_31_a_changed_port_closes_the_old_one() -> None:
    async with asked() as node:
        node.tell(1)
        node.health.send(opens(place(1)))
        assert (await answer(place(1)))[0] == 200
        node.health.send(forwarding.CloseFrontend(place(1)))
        node.health.send(opens(place(2)))
        assert (await answer(place(2)))[0] == 200
        with pytest.raises(ConnectionRefusedError):
            await answer(place(1))
    assert node.reports == [forwarding.Opened(place(1)), forwarding.Opened(place(2))]


async def test_row_31_a_port_that_is_taken_is_reported_and_can_be_had_later() -> None:
    async with asked() as node:
        node.tell(1)
        with socket.create_server((place().address, place().port)):
            node.health.send(opens(place()))
        assert node.reports == [forwarding.OpenFailed(place(), "Address already in use")]
        node.health.send(opens(place()))
        assert (await answer(place()))[0] == 200


async def test_what_is_opened_before_it_runs_is_served_once_it_does() -> None:
    node = Asked()
    node.health.send(opens(place()))
    node.tell(1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(node.health.run())
        assert (await answer(place()))[0] == 200
        running.cancel()
    node.health.close()


async def test_all_else_is_for_the_data_plane() -> None:
    async with asked() as node:
        sets = forwarding.SetBackends(LB, forwarding.Policy())
        node.health.send(opens(place()))
        for _ in node.health.send_steps(sets):
            pass
        node.tell(1)
        assert node.plane.drain() == [sets]
        node.health.send(forwarding.CloseFrontend(place()))
        node.health.send(forwarding.Forget(LB))
        assert node.plane.drain() == [forwarding.Forget(LB)]


async def test_all_ports_together_have_a_bounded_number_of_connections() -> None:
    """One client that holds as many as it can gets no descriptor more than the bound allows."""
    async with asked() as node, contextlib.AsyncExitStack() as stack:
        held = []
        for number in range(3):
            node.health.send(opens(place(number)))
            for _ in range(node_health.MAX_CONNECTIONS):
                reader, writer = await asyncio.open_connection("127.0.0.1", place(number).port)
                stack.callback(writer.close)
                held.append(reader)
        node.tell(1)
        assert (await answer(place()))[0] == 200
        ended = 0
        async with asyncio.timeout(60):
            for reader in held[: len(held) - node_health.MAX_CONNECTIONS]:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
                ended += 1
    assert ended == 2 * node_health.MAX_CONNECTIONS


async def test_a_closed_port_ends_its_connections_and_no_others() -> None:
    async with asked() as node:
        node.tell(1)
        for number in (0, 1):
            node.health.send(opens(place(number)))
        readers = []
        for number in (0, 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", place(number).port)
            writer.write(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
            assert await reader.readuntil(b"\n}")
            readers.append((reader, writer))
        node.health.send(forwarding.CloseFrontend(place(0)))
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                assert await readers[0][0].read() == b""
        readers[1][1].write(b"GET / HTTP/1.1\r\nHost: n\r\n\r\n")
        async with asyncio.timeout(60):
            assert await readers[1][0].readuntil(b"\n}")
        for _, writer in readers:
            writer.close()
