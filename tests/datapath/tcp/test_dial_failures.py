"""A dial that fails for lack of a local resource, or by a bug, affects one client only."""

import ast
import errno
import os
from collections.abc import Sequence

import pytest

from kproxy.datapath.tcp import halfclose
from kproxy.model import addresses
from tests.datapath.rig import clients, harness, scripts

FAST = pytest.param(False, id="service port")
WAITED = pytest.param(True, id="ephemeral port")


async def test_no_descriptor_for_a_dial_resets_the_client_and_blames_no_endpoint(
    bench: harness.Harness,
) -> None:
    """X03."""
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    path.kernel.fail("socket", errno.EMFILE)
    await clients.is_turned_away(bench, service)
    assert service.ended == {halfclose.NO_RESOURCES: 1}
    assert service.dial_failures == {"EMFILE": 1}
    assert place.address not in path.box
    await clients.exchanges(bench, await bench.connect(service), place)


async def test_no_port_for_a_dial_blames_no_endpoint_and_tries_the_others(
    bench: harness.Harness,
) -> None:
    """X06, as far as one dial goes."""
    path, first, second = bench.start(), bench.backend(), bench.backend()
    service = path.serve(first, second)
    path.kernel.fail("connect", errno.EADDRNOTAVAIL)
    client = await bench.connect(service)
    await client.send(b"x")
    await harness.until(lambda: first.waiting() + second.waiting() == 1, "it is served")
    assert service.dial_failures == {"EADDRNOTAVAIL": 1}
    assert not path.box


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("ephemeral", [FAST, WAITED])
async def test_no_room_in_the_epoll_resets_that_client_alone(
    bench: harness.Harness, ephemeral: bool, failures: int
) -> None:
    """X05. `max_user_watches` is a limit that can be met."""
    path, place = bench.start(), bench.backend(ephemeral=ephemeral)
    path.bugs = harness.ANY
    service = path.serve(place)
    path.kernel.fail("register", errno.ENOSPC, times=failures)
    await clients.is_turned_away(bench, service)
    path.kernel.relent()
    client = await bench.connect(service)
    await client.send(b"y")
    await harness.until(place.waiting, "the next client is served")
    assert path.data_path.connections == 1


class Buggy(harness.Scripted):
    """A picker with a bug in one of its methods."""

    def __init__(self, bug_in: str, *backends: addresses.SocketAddress) -> None:
        super().__init__(*backends)
        self.bug_in = bug_in

    def _stumble(self, method: str) -> None:
        if method == self.bug_in:
            self.bug_in = ""
            raise ZeroDivisionError("a bug, on purpose")

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        self._stumble("pick")
        return super().pick(client, now)

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        self._stumble("repick")
        return super().repick(client, tried, now)


@pytest.mark.parametrize(
    ("bug_in", "first"),
    [
        pytest.param("pick", "refusing", id="in the first choice"),
        pytest.param("repick", "refusing", id="in a choice after a refusal"),
        pytest.param("repick", "hole", id="in a choice after a timeout"),
    ],
)
async def test_a_bug_while_dialling_resets_that_client_only(
    bench: harness.Harness, bug_in: str, first: str
) -> None:
    path, alive = bench.start(), bench.backend()
    path.bugs = 1
    place = await bench.black_hole() if first == "hole" else bench.place()
    service = path.serve_by(Buggy(bug_in, place.address, alive.address))
    await clients.is_turned_away(bench, service)
    await harness.until(lambda: path.data_path.connections == 0, "nothing is left of it")
    await clients.exchanges(bench, await bench.connect(service), alive)


async def test_a_bug_in_one_timeout_does_not_keep_the_other_dials_waiting(
    bench: harness.Harness,
) -> None:
    path, alive = bench.start(), bench.backend()
    path.bugs = 1
    hole = await bench.black_hole()
    buggy = path.serve_by(Buggy("repick", hole.address, alive.address))
    sound = path.serve_by(harness.Scripted(hole.address, alive.address))
    first = await bench.connect(buggy)
    await harness.until(lambda: path.dials == 1, "its dial waits")
    second = await bench.connect(sound)
    await clients.is_reset(first)
    await clients.exchanges(bench, second, alive)


_FEW_PORTS = """
import asyncio, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40000 40015")
from tests.datapath.rig import harness

async def main():
    bench = harness.Harness()
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    crowd = []
    for number in range(20):
        client = harness.socket.socket()
        client.bind(("127.0.0.2", 2000 + number))
        client.setblocking(False)
        crowd.append(client)
        client.connect_ex(service.listener.address)
    ended = service.target.counters.ended
    await harness.until(lambda: place.waiting() + sum(ended.values()) == 20, "all are decided")
    await harness.until(lambda: not path.dials, "no dial is left")
    seen = place.waiting(), service.ended, service.dial_failures, bool(path.box)
    for client in crowd:
        client.close()
    await bench.finish()
    return seen

print(*asyncio.run(main()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
@pytest.mark.netns
def test_when_ports_run_out_the_rest_is_reset_and_no_endpoint_is_boxed() -> None:
    """X06. Sixteen ports, one endpoint, twenty clients; no retry goes on for ever."""
    printed = scripts.run(_FEW_PORTS, *scripts.IN_NAMESPACE)
    served, *rest = printed.splitlines()[-1].split(" ", 1)
    assert int(served) in range(14, 17), "two ports may be the test's own"
    assert "EADDRNOTAVAIL" in rest[0]
    assert rest[0].endswith("False")


_WITHIN_TIME_WAIT = """
import asyncio, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
def sysctl(name, value):
    with open("/proc/sys/net/ipv4/" + name, "w") as file:
        file.write(value)
from tests.datapath.rig import harness

PORTS = 60

async def main():
    sysctl("tcp_tw_reuse", "0")
    sysctl("ip_local_port_range", "50000 59999")  # the listeners take none of the few
    bench = harness.Harness()
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    sysctl("ip_local_port_range", f"40000 {40000 + PORTS - 1}")
    numbers = iter(range(2000, 9000))

    async def visit():
        # The client closes first, so the proxy does towards the backend: its port waits.
        before = service.target.counters.accepted
        client = harness.socket.socket()
        client.bind(("127.0.0.2", next(numbers)))
        client.setblocking(False)
        client.connect_ex(service.listener.address)
        await harness.until(lambda: service.target.counters.accepted > before, "it is accepted")
        await harness.until(
            lambda: place.waiting() or not path.data_path.connections, "it is dialled"
        )
        if place.waiting():
            client.shutdown(harness.socket.SHUT_WR)
            backend = await bench.accept(place)
            await backend.receive_to_end()
            backend.close()
        client.close()
        await harness.until(path.is_quiet, "it ends")

    for _ in range(PORTS):
        await visit()
    below = dict(service.ended), dict(service.dial_failures)
    for _ in range(5):
        await visit()
    above = dict(service.ended), dict(service.dial_failures)
    sysctl("tcp_tw_reuse", "1")

    async def is_served_again():
        failed = service.dial_failures
        await visit()
        return service.dial_failures == failed

    async with asyncio.timeout(20):  # a port may be used again after a second
        while not await is_served_again():
            await asyncio.sleep(0.2)
    boxed = bool(path.box)
    await bench.finish()
    return below, above, boxed

print(repr(asyncio.run(main())))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
@pytest.mark.netns
def test_x07_ports_that_wait_are_a_ceiling_that_shows_as_such() -> None:
    """As many connections to one endpoint as there are ports, a minute long; then a clear metric.

    With `net.ipv4.tcp_tw_reuse` a port serves again after a second.
    """
    printed = scripts.run(_WITHIN_TIME_WAIT, *scripts.IN_NAMESPACE)
    below, above, is_boxed = ast.literal_eval(printed.splitlines()[-1])
    assert below[1] == {}, "below the ceiling nothing fails"
    assert below[0] == {"C/H": 60}
    assert set(above[1]) == {"EADDRNOTAVAIL"}, "above it, this and nothing else"
    assert sum(above[0].values()) == 65
    assert above[0]["C/H"] < 65
    assert not is_boxed, "the endpoint is not to blame"
