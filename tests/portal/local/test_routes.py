"""Local routes: made, followed and removed, and never anybody else's.

Read with `ip`, which knows nothing of kproxy. The process is in a network namespace of its own.

Behaviour: row 53 of docs/behaviour.md.
"""

import contextlib
import ipaddress
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.portal.local import routes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make routes"),
]
NODE = "192.0.2.10"
SERVICES = ipaddress.ip_network("10.96.0.0/16")
SERVICES_V6 = ipaddress.ip_network("fd00:10:96::/112")


@pytest.fixture
def node() -> Iterator[None]:
    """This host has the address of a node."""
    ip("address", "add", f"{NODE}/32", "dev", "lo")
    yield
    subprocess.run(["ip", "address", "del", f"{NODE}/32", "dev", "lo"], check=False)


@pytest.fixture
def made(node: None) -> Iterator[routes.Routes]:
    found = routes.Routes([SERVICES, SERVICES_V6])
    found.follow([NODE, "127.0.0.1"], NODE)
    yield found
    found.close()


def ip(*words: str, text: str = "") -> str:
    return subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, input=text
    ).stdout


@contextlib.contextmanager
def no_ipv6() -> Iterator[None]:
    """This host has no IPv6 for the time of a test."""
    switch = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    switch.write_text("1")
    try:
        yield
    finally:
        switch.write_text("0")


def is_settled(made: routes.Routes) -> bool:
    """Whether no route waits for connections, at the latest when the kernel has ended them."""
    ends = time.monotonic() + 10
    while made.settle():
        if time.monotonic() > ends:
            return False
        time.sleep(0.001)
    return True


def local_routes(protocol: int | str = routes.PROTOCOL) -> set[str]:
    """The destinations of the local routes that `ip` shows."""
    listed = [
        line.split()[1]
        for family in ("-4", "-6")
        for line in ip(family, "route", "show", "table", "local", "proto", str(protocol)).split(
            "\n"
        )
        if line.startswith("local ")
    ]
    return set(listed)


def test_networks_have_a_route_each_until_the_end(node: None) -> None:
    made = routes.Routes([SERVICES, SERVICES_V6])
    assert local_routes() == set()

    made.follow([NODE], NODE)

    assert local_routes() == {"10.96.0.0/16", "fd00:10:96::/112"}
    assert f"src {NODE}" in ip("route", "show", "table", "local", "10.96.0.0/16")
    made.close()
    assert local_routes() == set()


def test_an_address_outside_has_a_route_as_long_as_a_frontend_is_there(
    made: routes.Routes,
) -> None:
    before = local_routes()
    for _ in range(2):
        made.hold("203.0.113.7")
        made.hold("fd01::7")
    assert local_routes() - before == {"203.0.113.7", "fd01::7"}

    made.let_go("203.0.113.7")
    assert "203.0.113.7" in local_routes()
    made.let_go("203.0.113.7")

    assert local_routes() - before == {"fd01::7"}


def cover(made: routes.Routes, *networks: str) -> None:
    """These are the networks that are always routed, from now on."""
    for _ in made.cover([ipaddress.ip_network(each) for each in networks]):
        pass


def test_a_network_takes_the_place_of_the_routes_of_its_addresses(made: routes.Routes) -> None:
    held = ("10.97.0.10", "10.98.0.10", "fd01::7", "10.96.0.10")
    for each in held:
        made.hold(each)

    cover(made, "10.96.0.0/16", "10.97.0.0/16", "fd01::/112")
    assert local_routes() == {"10.96.0.0/16", "10.97.0.0/16", "fd01::/112", "10.98.0.10"} | {
        "fd00:10:96::/112"  # until `settle`
    }
    assert is_settled(made)
    assert local_routes() == {"10.96.0.0/16", "10.97.0.0/16", "fd01::/112", "10.98.0.10"}

    cover(made)
    made.settle()
    assert local_routes() == set(held)
    for each in held:
        made.let_go(each)
    assert local_routes() == set()


def test_an_address_that_is_held_is_routed_at_every_step(made: routes.Routes) -> None:
    made.hold("10.97.0.10")
    for networks in ([ipaddress.ip_network("10.97.0.0/16")], []):
        for _ in made.cover(networks):
            assert "local 10.97.0.10 " in ip("route", "get", "10.97.0.10")
    made.settle()
    assert "local 10.97.0.10 " in ip("route", "get", "10.97.0.10")


@pytest.mark.parametrize("network", ["10.96.0.10/32", "10.96.0.10/31", "10.96.0.0/16"])
def test_a_network_that_goes_keeps_its_route_while_connections_are_open(
    made: routes.Routes, network: str
) -> None:
    cover(made, network)
    made.hold("10.96.0.10")
    with socket.create_server(("10.96.0.10", 0)) as listener:
        with socket.create_connection(listener.getsockname(), 10):
            made.let_go("10.96.0.10")
            cover(made)
            assert made.settle()
            assert network.removesuffix("/32") in local_routes()
            made.follow(["127.0.0.1"], "127.0.0.1")
            assert network.removesuffix("/32") in local_routes()
        connected, _ = listener.accept()
        connected.close()
    assert is_settled(made)
    assert local_routes() == set()


def test_a_network_that_comes_back_meanwhile_stays(made: routes.Routes) -> None:
    with (
        socket.create_server(("10.96.0.10", 0)) as listener,
        socket.create_connection(listener.getsockname(), 10),
    ):
        cover(made)
        cover(made, "10.96.0.0/16")
    assert is_settled(made)
    assert local_routes() == {"10.96.0.0/16"}


def test_a_network_whose_route_cannot_be_made_harms_no_other(made: routes.Routes) -> None:
    made.hold("10.97.0.10")
    with no_ipv6():
        with pytest.raises(OSError, match="fd02::"):
            cover(made, "fd02::/112", "10.97.0.0/16")
        assert local_routes() >= {"10.97.0.0/16"}
        assert not made.covers("fd02::1")


@pytest.mark.parametrize("address", ["10.96.0.10", "fd00:10:96::a", NODE, "127.0.0.1", "127.9.9.9"])
def test_an_address_that_is_local_anyway_gets_no_route(made: routes.Routes, address: str) -> None:
    before = local_routes()
    made.hold(address)
    assert local_routes() == before
    made.let_go(address)
    assert local_routes() == before


@pytest.mark.parametrize(
    ("address", "is_covered"),
    [
        ("10.96.0.0", True),
        ("10.96.255.255", True),
        ("10.95.255.255", False),
        ("10.97.0.0", False),
        ("fd00:10:96::ffff", True),
        ("fd00:10:96::1:0", False),
        ("::10.96.0.1", False),
    ],
)
def test_a_network_covers_its_addresses(
    made: routes.Routes, address: str, is_covered: bool
) -> None:
    assert made.covers(address) == is_covered


def test_routes_survive_the_address_that_clients_connect_from(made: routes.Routes) -> None:
    made.hold("203.0.113.7")
    before = local_routes()

    ip("address", "del", f"{NODE}/32", "dev", "lo")
    ip("route", "del", "local", "10.96.0.0/16", "dev", "lo")  # as kernels do in other tables
    made.follow(["127.0.0.1"], "127.0.0.1")

    assert local_routes() == before
    assert "src 127.0.0.1" in ip("route", "show", "table", "local", "203.0.113.7")


def test_an_address_that_leaves_the_host_gets_a_route(made: routes.Routes) -> None:
    made.hold(NODE)
    ip("address", "del", f"{NODE}/32", "dev", "lo")

    made.follow(["127.0.0.1"], "127.0.0.1")

    assert NODE in local_routes()


@pytest.mark.parametrize("address", ["203.0.113.7", "fd01::7"])
def test_a_route_stays_while_connections_are_open(made: routes.Routes, address: str) -> None:
    before = local_routes()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made.hold(address)
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
        listener.bind((address, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2], 10) as client:
            server, _ = listener.accept()
            listener.close()

            made.let_go(address)

            assert made.settle()
            assert local_routes() - before == {address}
            made.follow(["127.0.0.1"], "127.0.0.1")
            assert local_routes() - before == {address}
            server.sendall(b"still here")
            client.settimeout(10)
            assert client.recv(20) == b"still here"
            server.close()
    assert is_settled(made)
    assert local_routes() == before


def test_an_address_that_is_wanted_again_meanwhile_keeps_its_route(made: routes.Routes) -> None:
    made.hold("203.0.113.7")
    with (
        socket.create_server(("203.0.113.7", 0)) as listener,
        socket.create_connection(listener.getsockname(), 10),
    ):
        made.let_go("203.0.113.7")
        made.hold("203.0.113.7")
    assert is_settled(made)
    assert "203.0.113.7" in local_routes()


def test_what_an_earlier_life_left_is_swept_and_nothing_else(made: routes.Routes) -> None:
    made.hold("203.0.113.7")
    others = [("10.98.0.0/16", "42"), ("203.0.113.8", "4"), ("fd02::/112", "16")]
    for network, protocol in others:
        ip("route", "add", "local", network, "dev", "lo", "proto", protocol)
    ip("route", "add", "203.0.113.9", "dev", "lo", "proto", str(routes.PROTOCOL))
    kernels = local_routes("kernel")

    after = routes.Routes()
    assert after.sweep() == 3
    assert after.sweep() == 0
    after.close()

    assert local_routes() == set()
    assert local_routes("kernel") == kernels
    for network, protocol in others:
        assert network in local_routes(protocol)
        ip("route", "del", "local", network, "dev", "lo", "proto", protocol)
    assert "203.0.113.9" in ip("route", "show", "proto", str(routes.PROTOCOL))
    ip("route", "del", "203.0.113.9", "dev", "lo")


@pytest.mark.parametrize("words", [("dev", "kproutes"), ("dev", "lo", "tos", "0x10")])
def test_a_route_of_the_same_number_that_is_not_like_those_of_kproxy_is_left(
    node: None, words: tuple[str, ...]
) -> None:
    ip("link", "add", "kproutes", "type", "veth", "peer", "name", "kproutesp")
    ip("link", "set", "kproutes", "up")
    try:
        alien = ("local", "203.0.113.9", *words, "proto", str(routes.PROTOCOL))
        ip("route", "add", *alien)
        with contextlib.closing(routes.Routes()) as after:
            assert after.sweep() == 0
        assert local_routes() == {"203.0.113.9"}
        ip("route", "del", *alien)
    finally:
        ip("link", "del", "kproutes")


def test_a_route_of_another_program_is_used_and_left(made: routes.Routes) -> None:
    ip("route", "add", "local", "203.0.113.8", "dev", "lo", "proto", "42")

    made.hold("203.0.113.8")
    made.let_go("203.0.113.8")

    assert local_routes("42") == {"203.0.113.8"}
    ip("route", "del", "local", "203.0.113.8", "dev", "lo", "proto", "42")
