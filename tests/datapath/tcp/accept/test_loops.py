"""Connections that the data path makes to itself are found and cut, and no others."""

import os
import shutil
import socket

import pytest
import structlog

from kproxy.datapath.tcp import halfclose
from tests.datapath.rig import harness, scripts
from tests.relay import actor


async def require_reset(bench: harness.Harness, service: harness.Service) -> None:
    """Require that a new client is reset, at once or a little later."""
    try:
        client = await bench.connect(service)
    except ConnectionResetError:
        return
    async with harness.within("the client is reset"):
        assert await client.receive_to_end() is actor.End.RESET


@pytest.mark.parametrize("services", [1, 2, 3])
async def test_services_that_point_at_each_other_are_found_out(
    bench: harness.Harness, services: int
) -> None:
    """H15, D14. One client grew to as many connections as there were descriptors."""
    path = bench.start()
    pickers = [harness.Scripted() for _ in range(services)]
    ring = [path.serve_by(picker) for picker in pickers]
    for number, picker in enumerate(pickers):
        picker.backends = [ring[(number + 1) % services].listener.address]

    with structlog.testing.capture_logs() as log:
        for _ in range(20):
            await require_reset(bench, ring[0])
        await harness.until(path.is_quiet, "the whole chain has ended")

    accepted = sum(each.target.counters.accepted for each in ring)
    assert accepted < 20 * 40, "a loop goes round a few times, and not for ever"
    cut = [line for line in log if line["event"].startswith("endpoint leads back")]
    assert 1 <= len(cut) <= services, "a line for each Service whose dial came back"
    targets = {each.target.text for each in ring}
    assert {cut[0]["service"], cut[0]["leads_to"]} <= targets
    assert sum(each.ended.get(halfclose.NO_ENDPOINTS, 0) for each in ring) == 20


async def test_a_client_with_the_source_port_of_a_dial_is_served(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    _, backend = await bench.pair(service, place)
    taken = backend.sock.getpeername()[1]

    client = bench.hold(actor.Actor(socket.socket(), "the client"))
    client.sock.bind(("127.0.0.2", taken))
    client.sock.connect_ex(service.listener.address)
    await client.send(b"x")

    other = await bench.accept(place)
    async with harness.within("a byte arrives"):
        assert await other.receive_exactly(1) == b"x"


async def test_noted_dials_are_few_and_may_be_over(bench: harness.Harness) -> None:
    path, place = bench.start(), bench.backend()
    service = path.serve(place)
    for _ in range(100):
        client, backend = await bench.pair(service, place)
        client.reset()
        backend.reset()
    await harness.until(path.is_quiet, "all have ended")
    ports = path.data_path._shared.own_dials.ports
    assert 0 < len(ports) <= 64
    for port in list(ports):
        client = bench.hold(actor.Actor(socket.socket(), "the client"))
        client.sock.bind(("127.0.0.2", port))
        client.sock.connect_ex(service.listener.address)
    await harness.until(lambda: place.waiting() == len(ports), "all of them are served")


_REDIRECTED = """
import asyncio, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from kproxy.model import addresses
from tests.datapath.rig import harness
from tests.datapath.tcp.accept import test_loops

async def main():
    bench = harness.Harness()
    path = bench.start()
    picker = harness.Scripted(addresses.SocketAddress("127.0.0.99", 4444))
    service = path.serve_by(picker)
    rules = '''
        table ip loop {
            chain output {
                type nat hook output priority -100;
                tcp dport 4444 dnat to 127.0.0.1:%d
            }
        }''' % service.listener.address.port
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    await test_loops.require_reset(bench, service)
    await harness.until(path.is_quiet, "the whole chain has ended")
    assert service.target.counters.accepted < 40, service.target.counters.accepted
    await bench.finish()

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
@pytest.mark.netns
def test_a_loop_through_nat_is_found_out_too() -> None:
    scripts.run(_REDIRECTED, *scripts.IN_NAMESPACE)
