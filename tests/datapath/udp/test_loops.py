"""Datagrams that the data path sends to itself are found and dropped, and no others."""

import contextlib
import os
import shutil
import socket
import subprocess

import pytest
import structlog

from kproxy.model import addresses
from tests.datapath.rig import harness, scripts
from tests.datapath.udp import rig
from tests.relay import actor


async def settled(udp: rig.Rig) -> int:
    """How many datagrams were taken, once no more come."""
    counters = udp.data_path.counters
    await harness.until(lambda: counters.datagrams, "the first is taken")
    async with harness.within("no datagram goes round"):
        await actor.until_settled(lambda: counters.datagrams)
    return counters.datagrams


@pytest.mark.parametrize("services", [1, 2, 3])
async def test_services_that_point_at_each_other_are_found_out(udp: rig.Rig, services: int) -> None:
    """H15, D14. One datagram went round for ever, and each round made a flow."""
    ring = [udp.serve() for _ in range(services)]
    for number, each in enumerate(ring):
        udp.change(each, ring[(number + 1) % services].address)
    client = udp.client()

    with structlog.testing.capture_logs() as log:
        for _ in range(20):
            await client.send(b"x", ring[0].address)
        assert await settled(udp) < 20 * 40, "a datagram goes round a few times, and not for ever"

    cut = [line for line in log if line["event"].startswith("endpoint leads back")]
    assert 1 <= len(cut) <= services, "a line for each Service whose datagram came back"
    targets = {each.target.text for each in ring}
    assert {cut[0]["service"], cut[0]["leads_to"]} <= targets
    assert udp.data_path.counters.datagrams_lost > 0


async def test_a_client_with_the_source_port_of_a_flow_is_served(udp: rig.Rig) -> None:
    server = udp.server()
    service = udp.serve(server)
    for _ in range(20):
        await udp.client().ask(b"x", service.address)
    for port in sorted(server.clients):
        answer = await udp.client("127.0.0.2", port).ask(b"y", service.address)
        assert answer.endswith(b" y")


async def test_flows_that_are_over_are_forgotten(udp: rig.Rig) -> None:
    """Another program may have their ports now, and be a client."""
    server = udp.server()
    service = udp.serve(server)
    for _ in range(20):
        await udp.client().ask(b"x", service.address)
    udp.clock.ahead += 3600
    await udp.until_flows(0)
    await harness.until(
        lambda: sum(map(is_free, server.clients)) > 8, "ports are free again: one in nine is noted"
    )
    for port in filter(is_free, sorted(server.clients)):
        answer = await udp.client("127.0.0.1", port).ask(b"y", service.address)
        assert answer.endswith(b" y")


def is_free(port: int) -> bool:
    """Whether a client can have a port, which a flow had."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


_REDIRECTED = """
import asyncio, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from tests.datapath.udp import test_loops
asyncio.run(test_loops.meet_a_loop_through_nat())
"""


async def meet_a_loop_through_nat() -> None:
    """A packet filter leads the datagrams of a Service to its own frontend."""
    udp = rig.Rig()
    try:
        service = udp.serve(addresses.SocketAddress("127.0.0.99", 4444))
        rules = (
            "table ip loop {\n chain output {\n type nat hook output priority -100;\n"
            f"udp dport 4444 dnat to {service.address}\n }}\n }}\n"
        )
        subprocess.run(  # noqa: ASYNC221  # nothing else runs yet
            ["nft", "-f", "-"], input=rules, text=True, check=True
        )
        for _ in range(5):
            await udp.client().send(b"x", service.address)
        assert await settled(udp) < 5 * 40
    finally:
        udp.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")
@pytest.mark.netns
def test_a_loop_through_nat_is_found_out_too() -> None:
    scripts.run(_REDIRECTED, *scripts.IN_NAMESPACE)
