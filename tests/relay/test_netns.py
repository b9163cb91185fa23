"""Cases that need a network of their own: lost hosts, dropped SYNs, counted segments, delay."""

import asyncio
import collections.abc
import contextlib
import functools
import json
import statistics
import subprocess

import pytest

from tests.relay import actor, cases, conftest, netns, registry, rig, stream

pytestmark = [pytest.mark.netns, netns.needs_root, netns.needs_tools]

MIB = 1024 * 1024
_BY_ID = {case.id: case for case in cases.ALL}


@pytest.fixture
def network() -> collections.abc.Iterator[netns.Network]:
    with netns.network() as made:
        yield made


@pytest.fixture
async def bench(network: netns.Network) -> collections.abc.AsyncIterator[rig.Rig]:
    """Yield a rig with the proxy between its namespaces; the thread stays in the proxy's."""
    async with _between(network) as made:
        yield made


@contextlib.asynccontextmanager
async def _between(network: netns.Network) -> collections.abc.AsyncIterator[rig.Rig]:
    with netns.inside(network.backend):
        listener = rig.listen((netns.BACKEND, 0))
    backend = listener.getsockname()
    with (
        listener,
        netns.inside(network.proxy),
        conftest.data_path(
            backend, "--kernel", "real", host=netns.PROXY_TO_CLIENT, keepalive_idle=1
        ) as proxy,
    ):
        target = rig.Target(
            proxy.address,
            listener,
            proxy.pid,
            conftest.HALF_CLOSE_TIMEOUT,
            functools.partial(netns.inside, network.client),
            functools.partial(netns.inside, network.backend),
        )
        made = rig.Rig(target)
        await made.begin()
        try:
            yield made
        finally:
            await made.sweep()


def _count(network: netns.Network) -> dict[str, int]:
    """In how many directions of connections the proxy's namespace has seen each flag.

    A FIN that is not acknowledged in time, as on a busy machine, is sent again and is still one.
    """
    listed = json.loads(network.tool(network.proxy, "nft", "-j", "list", "table", "inet", "seen"))
    sets = [entry["set"] for entry in listed["nftables"] if "set" in entry]
    return {each["name"]: len(each.get("elem", ())) for each in sets}


_DIRECTION = "ip saddr . tcp sport . ip daddr . tcp dport"
_SEEN = "".join(
    f"""
table inet seen {{
    set fin_{way} {{ typeof {_DIRECTION}; flags dynamic; size 1024; }}
    set rst_{way} {{ typeof {_DIRECTION}; flags dynamic; size 1024; }}
    chain {way} {{
        type filter hook {way}put priority 0
        tcp flags & fin == fin add @fin_{way} {{ {_DIRECTION} }}
        tcp flags & rst == rst add @rst_{way} {{ {_DIRECTION} }}
    }}
}}
"""
    for way in ("in", "out")
)


async def test_r01_sends_one_fin_each_way_on_both_legs_and_no_reset(
    network: netns.Network, bench: rig.Rig
) -> None:
    network.tool(network.proxy, "nft", _SEEN)
    await _passes("R01", bench)
    assert _count(network) == {"fin_in": 2, "fin_out": 2, "rst_in": 0, "rst_out": 0}


@pytest.mark.parametrize("name", ["R04", "R12", "R18", "R33"])
async def test_a_loopback_case_holds_over_veth(name: str, bench: rig.Rig) -> None:
    await _passes(name, bench)


async def test_r22_single_segments_end_without_a_stalled_tail(
    network: netns.Network, bench: rig.Rig
) -> None:
    network.tool(network.backend, "ip", "link", "set", "eth0", "gso_max_segs", "1")
    await _passes("R22", bench)


@netns.needs_tun
@pytest.mark.parametrize("seed", [1, 2])
async def test_r29_bytes_are_exact_through_loss_disorder_and_duplicates(seed: int) -> None:
    """On both legs: one packet in fifty is lost, more come twice, and more too late."""
    size = 3 * MIB
    ways = (stream.Stream(1, stream.TO_BACKEND, seed), stream.Stream(1, stream.TO_CLIENT, seed))
    loop = asyncio.get_running_loop()
    with netns.unruly_network(seed) as (network, disorder), disorder.run(loop):
        async with _between(network) as bench, bench.within("all bytes arrive", 60.0):
            client, backend = await bench.pair()
            disorder.has_begun = True

            async def send(sender: actor.Actor, way: stream.Stream) -> None:
                await sender.send_stream(way, size)
                sender.shut_write()

            async def arrive(end: actor.Actor, way: stream.Stream) -> None:
                assert await end.receive_to_end(stream.Checker(way)) is actor.End.FIN
                assert end.received == size

            await registry.together(
                send(client, ways[0]),
                send(backend, ways[1]),
                arrive(backend, ways[0]),
                arrive(client, ways[1]),
            )
    assert min(disorder.lost, disorder.doubled, disorder.delayed) > 50


@pytest.mark.long
async def test_r29_bytes_are_exact_while_one_segment_in_twenty_is_lost_on_either_leg(
    network: netns.Network, bench: rig.Rig
) -> None:
    """The part of R29 that needs no netem: losses, but no other order and no duplicates."""
    for place in (network.client, network.proxy, network.backend):
        _drop(network, place, "meta l4proto tcp numgen random mod 20 == 0")
    await _passes("R12", bench)


async def test_r30_bytes_are_exact_between_legs_of_a_small_and_a_large_mtu(
    network: netns.Network, bench: rig.Rig
) -> None:
    for place, link, mtu in (
        (network.client, "eth0", "576"),
        (network.proxy, "cl", "576"),
        (network.proxy, "be", "9000"),
        (network.backend, "eth0", "9000"),
    ):
        network.tool(place, "ip", "link", "set", link, "mtu", mtu)
    await _passes("R12", bench)


async def test_r17_half_close_while_the_backends_host_drops_the_syn(
    network: netns.Network, bench: rig.Rig
) -> None:
    up = stream.Stream(1, stream.TO_BACKEND)
    _drop(network, network.backend, "tcp flags & (syn|ack) == syn")
    client = await bench.connect()
    await client.send_stream(up, 10_240)
    client.shut_write()
    async with bench.within("the proxy's SYN is dropped"):
        await actor.until(bench.dials)
    network.tool(network.backend, "nft", "flush", "ruleset")
    async with bench.within("the proxy connects once its SYN gets through", 8.0):
        backend = await bench.accept()
    assert await backend.receive_to_end(stream.Checker(up)) is actor.End.FIN
    assert backend.received == 10_240


@pytest.mark.parametrize("direction", ["download", pytest.param("upload", marks=pytest.mark.long)])
async def test_r25_client_sees_a_reset_when_the_backends_host_dies(
    direction: str, network: netns.Network, bench: rig.Rig
) -> None:
    client, backend = await bench.pair()
    sender, reader = (backend, client) if direction == "download" else (client, backend)
    await sender.send(bytes(MIB // 16))
    await reader.receive_exactly(MIB // 16)
    network.tool(network.backend, "ip", "link", "set", "eth0", "down")
    if direction == "upload":
        await client.send(bytes(MIB // 16))
    async with bench.within("the client learns of the dead host", conftest.DEAD_PEER_LIMIT):
        assert await client.receive_to_end() is actor.End.RESET


async def test_r26_backend_is_told_when_the_clients_host_has_vanished(
    network: netns.Network, bench: rig.Rig
) -> None:
    _, backend = await bench.pair()
    _drop(network, network.client, "tcp dport != 0")
    async with bench.within("the backend is released", conftest.DEAD_PEER_LIMIT):
        assert await backend.receive_to_end() is actor.End.RESET


async def test_r14_small_requests_add_no_timer_steps_to_a_40_ms_delay(
    network: netns.Network, bench: rig.Rig
) -> None:
    for place in (network.client, network.backend):
        try:
            network.tool(
                place, "tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "40ms"
            )
        except subprocess.CalledProcessError:
            pytest.skip("this kernel has no netem")
    client, backend = await bench.pair()
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(50):
        start = loop.time()
        await client.send(b"?")
        await backend.receive_exactly(1)
        await backend.send(b"!")
        await client.receive_exactly(1)
        times.append(loop.time() - start)
    step = statistics.median(times) - 2 * 0.040
    assert step < 0.040, "each round trip pays a delayed-ACK or Nagle timer"


async def _passes(name: str, bench: rig.Rig) -> None:
    outcome = await registry.run(_BY_ID[name], bench)
    assert outcome.result is registry.Result.PASS, outcome.seen


def _drop(network: netns.Network, place: str, match: str) -> None:
    """Drop what arrives in `place` and matches."""
    rule = f"chain i {{ type filter hook input priority 0; {match} drop; }}"
    network.tool(place, "nft", f"table inet lost {{\n {rule}\n}}")
