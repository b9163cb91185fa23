"""All TCP frontends on one socket for each family: who gets there, who is refused, who dropped.

The process is in a network namespace of its own. A client that is dropped waits for as long as it
likes; what it would have met otherwise is there at once.
"""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from kproxy.model import addresses, forwarding, names
from kproxy.portal.local import bpf, sk_lookup

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to load BPF programs"),
]
IPV4, IPV6 = addresses.Family.IPV4, addresses.Family.IPV6
BOTH = pytest.mark.parametrize("address", ["10.93.0.10", "fd00:10:93::a"])
DROPPED_AFTER = 0.5
"""Seconds without an answer. A refusal, or a connection on this host, takes a thousandth of it."""


@pytest.fixture(scope="module", autouse=True)
def routes() -> Iterator[None]:
    """The addresses of these tests are this host's own."""
    networks = ("10.93.0.0/16", "fd00:10:93::/112")
    for network in networks:
        subprocess.run(["ip", "route", "add", "local", network, "dev", "lo"], check=True)
    yield
    for network in networks:
        subprocess.run(["ip", "route", "del", "local", network, "dev", "lo"], check=True)


@pytest.fixture
def lookup() -> Iterator[sk_lookup.SkLookup]:
    made = sk_lookup.SkLookup(frozenset({IPV4, IPV6}))
    yield made
    made.close()


def at(address: str, port: int = 80) -> forwarding.PortalAddress:
    return forwarding.PortalAddress(address, port)


def outcome(address: str, port: int = 80, source: str = "") -> str:
    """What a client meets: connected, refused or dropped."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(DROPPED_AFTER)
        if source:
            client.bind((source, 0))
        try:
            client.connect((address, port))
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "dropped"
        return "connected"


def accepted(lookup: sk_lookup.SkLookup, family: addresses.Family) -> tuple[str, int]:
    """The own address of the next client's socket."""
    with socket.socket(fileno=os.dup(lookup.listeners[family])) as listener:
        listener.settimeout(10)
        client, _ = listener.accept()
        with client:
            name = client.getsockname()
            return name[0], name[1]


@BOTH
def test_clients_of_all_addresses_meet_one_socket(lookup: sk_lookup.SkLookup, address: str) -> None:
    assert outcome(address) == "refused"
    for port in (80, 443):
        lookup.open(at(address, port), None)
    for port in (80, 443):
        assert outcome(address, port) == "connected"
        assert accepted(lookup, addresses.family(address)) == (address, port)
    assert outcome(address, 81) == "refused"

    lookup.shut(at(address))

    assert outcome(address) == "refused"
    assert outcome(address, 443) == "connected"


@BOTH
def test_nobody_admitted_means_silence(lookup: sk_lookup.SkLookup, address: str) -> None:
    lookup.open(at(address), ())
    assert outcome(address) == "dropped"
    lookup.open(at(address), None)
    assert outcome(address) == "connected"


@pytest.mark.parametrize(
    ("address", "inside", "outside"),
    [("10.93.0.10", "127.0.8.5", "127.0.9.5"), ("fd00:10:93::a", "::1", "fd00:10:93::b")],
)
def test_some_sources_are_admitted(
    lookup: sk_lookup.SkLookup, address: str, inside: str, outside: str
) -> None:
    if ":" in outside:
        subprocess.run(["ip", "addr", "add", f"{outside}/128", "dev", "lo", "nodad"], check=True)
    try:
        lookup.open(at(address), ("127.0.8.0/24", "::1/128", "192.0.2.0/24"))
        assert outcome(address, source=inside) == "connected"
        assert outcome(address, source=outside) == "dropped"
        lookup.open(at(address), ("192.0.2.0/24",))
        assert outcome(address, source=inside) == "dropped"
    finally:
        if ":" in outside:
            subprocess.run(["ip", "addr", "del", f"{outside}/128", "dev", "lo"], check=True)


@BOTH
def test_all_of_the_other_family_is_nobody(lookup: sk_lookup.SkLookup, address: str) -> None:
    lookup.open(at(address), ("0.0.0.0/0" if ":" in address else "::/0",))
    assert outcome(address) == "dropped"
    lookup.open(at(address), ("::/0", "0.0.0.0/0"))
    assert outcome(address) == "connected"


def test_frontends_share_equal_sets_and_do_not_disturb_each_other(
    lookup: sk_lookup.SkLookup,
) -> None:
    ranges = ("127.0.8.0/24",)
    for port in (80, 81):
        lookup.open(at("10.93.0.10", port), ranges)
    lookup.shut(at("10.93.0.10", 80))
    assert outcome("10.93.0.10", 81, source="127.0.8.5") == "connected"
    assert outcome("10.93.0.10", 81, source="127.0.9.5") == "dropped"

    lookup.open(at("10.93.0.10", 81), ("127.0.9.0/24", "127.0.8.0/25"))

    assert outcome("10.93.0.10", 81, source="127.0.9.5") == "connected"
    assert outcome("10.93.0.10", 81, source="127.0.8.200") == "dropped"


def test_the_sockets_own_addresses_only_look_used(lookup: sk_lookup.SkLookup) -> None:
    for family in (IPV4, IPV6):
        with socket.socket(fileno=os.dup(lookup.listeners[family])) as listener:
            name = listener.getsockname()
        assert outcome(name[0], name[1]) == "refused"


@BOTH
def test_after_the_end_nothing_is_different(address: str) -> None:
    made = sk_lookup.SkLookup(frozenset({IPV4, IPV6}))
    made.open(at(address), None)
    made.close()
    made.close()
    assert outcome(address) == "refused"


def test_a_host_without_ipv6_has_one_listener() -> None:
    made = sk_lookup.SkLookup(frozenset({IPV4}))
    assert list(made.listeners) == [IPV4]
    made.close()


def test_udp_and_other_addresses_are_as_they_were(lookup: sk_lookup.SkLookup) -> None:
    lookup.open(at("10.93.0.10"), None)
    with (
        socket.create_server(("10.93.0.11", 80)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        assert outcome("10.93.0.11") == "connected"
        server.bind(("10.93.0.10", 80))
        client.sendto(b"hello", ("10.93.0.10", 80))
        server.settimeout(10)
        assert server.recv(10) == b"hello"


def test_two_programs_at_once_serve_what_is_theirs(lookup: sk_lookup.SkLookup) -> None:
    """Another program of the kind, whichever came first."""
    other = sk_lookup.SkLookup(frozenset({IPV4, IPV6}))
    try:
        lookup.open(at("10.93.0.10"), None)
        other.open(at("10.93.0.11"), None)
        other.open(at("10.93.0.12"), ())

        assert outcome("10.93.0.10") == outcome("10.93.0.11") == "connected"
        assert accepted(lookup, IPV4) == ("10.93.0.10", 80)
        assert accepted(other, IPV4) == ("10.93.0.11", 80)
        assert outcome("10.93.0.12") == "dropped"
        lookup.close()
        assert outcome("10.93.0.10") == "refused"
        assert outcome("10.93.0.11") == "connected"
    finally:
        other.close()


def test_a_connection_goes_on_when_its_frontend_has_gone(lookup: sk_lookup.SkLookup) -> None:
    lookup.open(at("10.93.0.10"), None)
    with (
        socket.create_connection(("10.93.0.10", 80), 10) as client,
        socket.socket(fileno=os.dup(lookup.listeners[IPV4])) as listener,
    ):
        listener.settimeout(10)
        served, _ = listener.accept()
        with served:
            lookup.shut(at("10.93.0.10"))
            client.sendall(b"still here")
            served.settimeout(10)
            assert served.recv(20) == b"still here"


def test_an_address_in_time_wait_can_be_bound(lookup: sk_lookup.SkLookup) -> None:
    """By a kproxy without BPF, or by another server at an address of the node."""
    lookup.open(at("10.93.0.10"), None)
    with socket.create_connection(("10.93.0.10", 80), 10) as client:
        with socket.socket(fileno=os.dup(lookup.listeners[IPV4])) as listener:
            listener.settimeout(10)
            served, _ = listener.accept()
        served.close()  # first: its side waits
        assert client.recv(1) == b""
    lookup.close()
    with socket.create_server(("10.93.0.10", 80)):
        pass


def test_the_protocol_is_part_of_the_key() -> None:
    tcp, udp = (
        sk_lookup._key(forwarding.PortalAddress("10.93.0.10", 80, protocol))
        for protocol in (names.Protocol.TCP, names.Protocol.UDP)
    )
    assert tcp != udp


def test_without_the_right_the_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bpf.Map:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(bpf, "Map", refuse)
    with pytest.raises(PermissionError):
        sk_lookup.SkLookup(frozenset({IPV4}))
