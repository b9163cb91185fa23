"""The local portal as a whole, both ways: what it serves, refuses and leaves."""

import ctypes
import errno
import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog.testing

from kproxy import errors
from kproxy.model import addresses, forwarding, names
from kproxy.portal import node_addresses, portal
from kproxy.portal.local import kube_proxy, local, sk_lookup
from tests.ops import surfaces
from tests.portal.local import test_routes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make routes"),
]
KINDS = forwarding.FrontendKind
API_SERVER = addresses.SocketAddress("10.92.0.1", 443)
SETTINGS = portal.Settings(
    external_ips=(ipaddress.ip_network("203.0.113.0/24"), ipaddress.ip_network("127.0.0.0/8")),
    reserved=frozenset({API_SERVER}),
    service_networks=(ipaddress.ip_network("10.92.0.0/16"), ipaddress.ip_network("fd00:92::/112")),
)
PLAIN = portal.Settings(
    external_ips=SETTINGS.external_ips,
    reserved=SETTINGS.reserved,
    service_networks=SETTINGS.service_networks,
    may_use_bpf=False,
)


def of(settings: portal.Settings) -> Iterator[local.LocalPortal]:
    made = local.LocalPortal(settings)
    made.recover()
    yield made
    made.close()
    assert test_routes.local_routes() == set()


@pytest.fixture(params=[SETTINGS, PLAIN], ids=["sk_lookup", "plain"])
def either(request: pytest.FixtureRequest) -> Iterator[local.LocalPortal]:
    yield from of(request.param)


@pytest.fixture
def fast() -> Iterator[local.LocalPortal]:
    yield from of(SETTINGS)


def frontend(
    address: str,
    kind: forwarding.FrontendKind = KINDS.CLUSTER_IP,
    port: int = 8080,
    protocol: names.Protocol = names.Protocol.TCP,
) -> forwarding.Frontend:
    family = addresses.family(address)
    return forwarding.Frontend(kind, address, port, protocol=protocol, family=family)


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (KINDS.CLUSTER_IP, "10.92.0.10"),
        (KINDS.CLUSTER_IP, "fd00:92::a"),
        (KINDS.CLUSTER_IP, "172.20.0.1"),
        (KINDS.NODE_PORT, "127.0.0.1"),
        (KINDS.EXTERNAL_IP, "203.0.113.7"),
        (KINDS.LOAD_BALANCER, "198.51.100.9"),
    ],
)
def test_frontends_are_where_they_say(
    either: local.LocalPortal, kind: forwarding.FrontendKind, address: str
) -> None:
    located = either.locate(frontend(address, kind))
    assert located == forwarding.PortalAddress(address, 8080)
    before = test_routes.local_routes()
    either.acquire(located, None)
    either.release(located)
    assert test_routes.local_routes() == before


@pytest.mark.parametrize(
    ("kind", "address", "words"),
    [
        (KINDS.CLUSTER_IP, "127.0.0.1", "loopback address"),
        (KINDS.CLUSTER_IP, "::1", "loopback address"),
        (KINDS.CLUSTER_IP, "169.254.169.254", "link-local address"),
        (KINDS.CLUSTER_IP, "fe80::1", "link-local address"),
        (KINDS.CLUSTER_IP, "224.0.0.1", "multicast address"),
        (KINDS.CLUSTER_IP, "ff02::1", "multicast address"),
        (KINDS.CLUSTER_IP, "0.0.0.0", "unspecified address"),
        (KINDS.CLUSTER_IP, "255.255.255.255", "broadcast address"),
        (KINDS.CLUSTER_IP, API_SERVER.address, "address of the API server"),
        (KINDS.EXTERNAL_IP, "198.51.100.7", "not in --external-ip-cidrs"),
        (KINDS.EXTERNAL_IP, "127.0.0.53", "loopback address"),
        (KINDS.LOAD_BALANCER, "127.0.0.1", "loopback address"),
        (KINDS.LOAD_BALANCER, "169.254.1.1", "link-local address"),
        (KINDS.LOAD_BALANCER, API_SERVER.address, "address of the API server"),
        (KINDS.NODE_PORT, API_SERVER.address, "address of the API server"),
    ],
)
def test_what_is_another_servers_is_refused(
    either: local.LocalPortal, kind: forwarding.FrontendKind, address: str, words: str
) -> None:
    port = API_SERVER.port if kind is KINDS.NODE_PORT else 8080
    with pytest.raises(errors.PortalRefusedError, match=words):
        either.locate(frontend(address, kind, port))


def test_the_hosts_own_servers_keep_their_addresses_in_127(either: local.LocalPortal) -> None:
    lenient = local.LocalPortal(portal.Settings(allow_loopback=True))
    try:
        with pytest.raises(errors.PortalRefusedError, match="host's own servers"):
            lenient.locate(frontend("127.0.0.53", KINDS.LOAD_BALANCER))
        assert lenient.locate(frontend("127.9.0.53", KINDS.LOAD_BALANCER)).address == "127.9.0.53"
    finally:
        lenient.close()


def test_a_server_of_this_host_is_not_robbed(fast: local.LocalPortal) -> None:
    """At an address of the host, where no route has to be made."""
    address = fast.locate(frontend("127.0.0.1", KINDS.NODE_PORT, 30999))
    with (
        socket.create_server(("0.0.0.0", 30999)),
        pytest.raises(OSError, match="in use") as found,
    ):
        fast.acquire(address, None)
    assert found.value.errno == errno.EADDRINUSE
    assert isinstance(fast.acquire(address, None), forwarding.SharedListener)
    fast.release(address)


def test_the_fast_way_shares_tcp_alone(fast: local.LocalPortal) -> None:
    tcp, udp = (
        fast.locate(frontend("10.92.0.10", protocol=protocol))
        for protocol in (names.Protocol.TCP, names.Protocol.UDP)
    )
    assert fast.acquire(tcp, None) == forwarding.SharedListener("IPv4", tcp.socket_address)
    assert fast.acquire(udp, None) == udp.socket_address
    assert (fast.shares(tcp), fast.shares(udp)) == (True, False)
    assert set(fast.listeners) == {"IPv4", "IPv6"}
    fast.release(tcp)
    fast.release(udp)


def test_the_plain_way_is_taken_where_bpf_is_not_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> sk_lookup.SkLookup:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(sk_lookup, "SkLookup", refuse)
    made = local.LocalPortal(SETTINGS)
    with structlog.testing.capture_logs() as lines:
        made.recover()
    try:
        address = made.locate(frontend("10.92.0.10"))
        assert made.acquire(address, None) == address.socket_address
        assert not made.listeners
        assert made.description == "local (plain)"
        (line,) = (each for each in lines if "listener of its own" in each["event"])
        assert "CAP_BPF" in line["reason"]
    finally:
        made.close()


def test_a_kube_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_proxy, "traces", lambda: ["nftables table kube-proxy"])
    made = local.LocalPortal(PLAIN)
    with structlog.testing.capture_logs() as lines:
        made.recover()
    made.close()
    (line,) = (each for each in lines if "kube-proxy" in each["event"])
    assert line["found"] == ["nftables table kube-proxy"]


def test_a_service_network_with_addresses_of_this_host_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = node_addresses.Reading(("127.0.0.1", "10.92.7.1", "192.0.2.10"))
    monkeypatch.setattr(node_addresses, "read", lambda: reading)
    made = local.LocalPortal(PLAIN)
    with structlog.testing.capture_logs() as lines:
        made.recover()
    made.close()
    (line,) = (each for each in lines if "addresses of this host" in each["event"])
    assert line["addresses"] == ["10.92.7.1"]


@pytest.mark.parametrize(
    ("network", "is_named"),
    [("0.0.0.0/0", True), ("128.0.0.0/1", True), ("::/0", True), ("10.0.0.0/8", False)],
)
def test_a_network_of_external_ips_with_many_owners_is_named(
    network: str, *, is_named: bool
) -> None:
    allowed = (ipaddress.ip_network(network), ipaddress.ip_network("203.0.113.0/24"))
    made = local.LocalPortal(portal.Settings(external_ips=allowed, may_use_bpf=False))
    with structlog.testing.capture_logs() as lines:
        made.recover()
    made.close()
    named = [each["network"] for each in lines if "--external-ip-cidrs" in each["event"]]
    assert named == ([network] if is_named else [])


@pytest.mark.parametrize("settings", [SETTINGS, PLAIN], ids=["sk_lookup", "plain"])
def test_a_host_without_ipv6_has_the_rest_of_the_service_networks(
    settings: portal.Settings,
) -> None:
    with test_routes.no_ipv6():
        made = local.LocalPortal(settings)
        with structlog.testing.capture_logs() as lines:
            made.recover()
        take(made, "fd00:93::/112", "10.93.0.0/16")
        routed = test_routes.local_routes()
        with pytest.raises(errors.PortalUnavailableError, match="this host has no IPv6"):
            made.locate(frontend("fd00:92::a"))
        made.close()
    assert routed == {"10.92.0.0/16", "10.93.0.0/16"}
    (line,) = (each for each in lines if "gets no route" in each["event"])
    assert line["network"] == "fd00:92::/112"


async def test_a_route_that_another_program_removes_comes_back(either: local.LocalPortal) -> None:
    before = test_routes.local_routes()
    either.follow(lambda: None)
    test_routes.ip("route", "del", "local", "10.92.0.0/16", "dev", "lo", "table", "local")
    assert test_routes.local_routes() != before
    await surfaces.until(lambda: test_routes.local_routes() == before)


def test_a_second_portal_is_refused_and_harms_nothing(either: local.LocalPortal) -> None:
    before = test_routes.local_routes()
    second = local.LocalPortal(PLAIN)
    with pytest.raises(errors.KproxyError, match="another kproxy"):
        second.recover()
    second.close()
    with pytest.raises(errors.KproxyError, match="another kproxy"):
        local.clean_up()
    assert test_routes.local_routes() == before


def test_what_an_earlier_life_left_is_cleaned_up() -> None:
    for network in ("10.92.0.0/16", "fd00:92::/112"):
        test_routes.ip("route", "add", "local", network, "dev", "lo", "proto", "75")
    assert local.clean_up() == 2
    assert local.clean_up() == 0


def take(made: local.LocalPortal, *ranges: str) -> None:
    """ClusterIPs come from these, from now on."""
    for _ in made.take_ranges([ipaddress.ip_network(each) for each in ranges]):
        pass


@pytest.fixture
def unranged() -> Iterator[local.LocalPortal]:
    """A portal that no setting says the ranges of."""
    yield from of(portal.Settings(reserved=SETTINGS.reserved, may_use_bpf=False))


def test_ranges_have_a_route_each_and_their_addresses_none(unranged: local.LocalPortal) -> None:
    inside, outside = (
        forwarding.PortalAddress("10.93.0.1", 80),
        forwarding.PortalAddress("10.94.0.1", 80),
    )
    unranged.claim(inside)
    unranged.acquire(outside, None)
    assert test_routes.local_routes() == {"10.93.0.1", "10.94.0.1"}
    take(unranged, "10.93.0.0/16", "fd00:93::/112")
    assert test_routes.local_routes() == {"10.93.0.0/16", "fd00:93::/112", "10.94.0.1"}
    take(unranged)
    assert test_routes.local_routes() == {"10.93.0.1", "10.94.0.1"}
    unranged.withdraw(inside)
    unranged.release(outside)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
        ("126.0.0.0/7", "a loopback address"),
        ("127.96.0.0/16", "a loopback address"),
        ("::/64", "an unspecified address"),
        ("169.254.0.0/20", "a link-local address"),
        ("fe80:10::/112", "a link-local address"),
        ("128.0.0.0/1", "a link-local address"),
        ("239.1.0.0/16", "a multicast address"),
        ("ff05::/112", "a multicast address"),
        ("0.1.0.0/16", "an unspecified address"),
        ("255.255.255.0/24", "the broadcast address"),
        ("10.92.0.0/16", "address of the API server, 10.92.0.1"),
    ],
)
def test_a_range_that_holds_what_no_service_gets_is_not_taken(
    unranged: local.LocalPortal, network: str, words: str
) -> None:
    with structlog.testing.capture_logs() as lines:
        take(unranged, network, "10.93.0.0/16")
        take(unranged, network, "10.93.0.0/16")
    assert test_routes.local_routes() == {"10.93.0.0/16"}
    (line,) = lines
    assert line["range"] == network
    assert words in line["reason"]


def test_more_ranges_than_any_cluster_has_are_not_all_taken(unranged: local.LocalPortal) -> None:
    with structlog.testing.capture_logs() as lines:
        take(unranged, *(f"10.93.{each}.0/24" for each in range(local.MOST_RANGES + 1)))
    assert len(test_routes.local_routes()) == local.MOST_RANGES
    assert len(lines) == 1
    take(unranged)


def without(*capabilities: int) -> Callable[[], None]:
    """For a child process: give these up."""

    def give_up() -> None:
        for each in capabilities:
            assert ctypes.CDLL(None).prctl(24, each, 0, 0, 0) == 0

    return give_up


@pytest.mark.parametrize(
    ("flag", "names_other_portal"), [("--portal=local", True), ("--cleanup", False)]
)
def test_without_the_capability_one_sentence_names_it_and_what_works_without(
    flag: str, *, names_other_portal: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kproxy", "run", "--manifests", "-", flag, "--control", ""],
        preexec_fn=without(12),  # CAP_NET_ADMIN
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert ("--portal loopback" in done.stderr) is names_other_portal
    assert "run kproxy as root" in done.stderr
    assert "Traceback" not in done.stderr
