"""When a dial cannot be made, for want of something here or for a bug: one client pays."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kproxy.datapath import halfclose
from kproxy.model import endpoints
from tests.datapath import clients, harness

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
async def test_no_room_in_the_epoll_resets_the_client_and_nobody_else(
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
    assert path.worker.connections == 1


class Buggy(harness.Scripted):
    """A picker with a bug in one of its methods."""

    def __init__(self, bug_in: str, *backends: endpoints.Backend) -> None:
        super().__init__(*backends)
        self.bug_in = bug_in

    def _stumble(self, method: str) -> None:
        if method == self.bug_in:
            self.bug_in = ""
            raise ZeroDivisionError("a bug, on purpose")

    def pick(self, client: str, now: float) -> endpoints.Backend | None:
        self._stumble("pick")
        return super().pick(client, now)

    def repick(
        self, client: str, tried: Sequence[endpoints.Backend], now: float
    ) -> endpoints.Backend | None:
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
    await harness.until(lambda: path.worker.connections == 0, "nothing is left of it")
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
from tests.datapath import harness

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
def test_when_ports_run_out_the_rest_is_reset_and_nobody_is_blamed() -> None:
    """X06. Sixteen ports, one endpoint, twenty clients; no retry goes on for ever."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _FEW_PORTS],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    served, *rest = done.stdout.strip().splitlines()[-1].split(" ", 1)
    assert int(served) in range(14, 17), "two ports may be the test's own"
    assert "EADDRNOTAVAIL" in rest[0]
    assert rest[0].endswith("False")
