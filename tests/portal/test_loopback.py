"""The loopback portal: where in 127/8 each virtual address is bound.

Behaviour: row 14 of docs/behaviour.md. Cases: S05, S06 of docs/faults.md.
"""

import ipaddress
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy import errors, settings
from kproxy.model import addresses, forwarding
from kproxy.portal import loopback, portal, portal_settings

KINDS = forwarding.FrontendKind
CLUSTER_IP = KINDS.CLUSTER_IP
UNPRIVILEGED = 1024
ANY_PORT = 1


def located(
    kind: forwarding.FrontendKind, address: str, port: int, shift_below: int = UNPRIVILEGED
) -> str:
    frontend = forwarding.Frontend(kind, address, port)
    return str(made(shift_below).locate(frontend))


def made(shift_below: int = ANY_PORT) -> loopback.LoopbackPortal:
    """It serves external IPs of TEST-NET-3, and knows where the API server is."""
    return loopback.LoopbackPortal(
        shift_below,
        portal.Settings(
            external_ips=(
                ipaddress.ip_network("203.0.113.0/24"),
                ipaddress.ip_network("10.0.0.0/8"),
            ),
            reserved=frozenset(
                {
                    addresses.SocketAddress("127.9.0.1", 6443),
                    addresses.SocketAddress("10.9.9.9", 443),
                }
            ),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "address", "port", "bound"),
    [
        pytest.param(CLUSTER_IP, "10.96.0.10", 5353, "127.96.0.10:5353", id="cluster IP"),
        pytest.param(CLUSTER_IP, "192.168.7.9", 5353, "127.168.7.9:5353", id="any first octet"),
        pytest.param(CLUSTER_IP, "127.96.0.10", 5353, "127.96.0.10:5353", id="127/8 as it is"),
        pytest.param(KINDS.EXTERNAL_IP, "203.0.113.7", 8080, "127.0.113.7:8080", id="external IP"),
        pytest.param(KINDS.LOAD_BALANCER, "198.51.100.9", 8080, "127.51.100.9:8080", id="LB IP"),
        pytest.param(KINDS.NODE_PORT, "127.0.0.1", 30080, "127.0.0.1:30080", id="node port"),
        pytest.param(KINDS.NODE_PORT, "127.0.0.1", 80, "127.0.0.1:10080", id="low node port"),
        pytest.param(CLUSTER_IP, "10.96.0.10", 53, "127.96.0.10:10053", id="low port"),
        pytest.param(CLUSTER_IP, "10.96.0.10", 1023, "127.96.0.10:11023", id="highest low port"),
        pytest.param(CLUSTER_IP, "10.96.0.10", 1024, "127.96.0.10:1024", id="lowest free port"),
        pytest.param(CLUSTER_IP, "10.96.0.10", 65535, "127.96.0.10:65535", id="highest port"),
    ],
)
def test_a_frontend_is_bound_in_127_8(
    kind: forwarding.FrontendKind, address: str, port: int, bound: str
) -> None:
    assert located(kind, address, port) == bound


def test_low_ports_stay_where_they_are_when_they_may_be_bound() -> None:
    assert located(CLUSTER_IP, "10.96.0.10", 53, ANY_PORT) == "127.96.0.10:53"
    assert located(CLUSTER_IP, "10.96.0.10", 1, ANY_PORT) == "127.96.0.10:1"


def test_two_virtual_addresses_may_meet_and_are_not_told_apart_here() -> None:
    assert located(CLUSTER_IP, "10.0.1.1", 80) == located(CLUSTER_IP, "11.0.1.1", 80)


@pytest.mark.parametrize("address", ["fd00:10:96::a", "::1", "2001:db8::1"])
def test_ipv6_is_refused_with_one_sentence_that_says_what_to_do(address: str) -> None:
    with pytest.raises(errors.PortalUnavailableError) as refused:
        located(CLUSTER_IP, address, 80)
    sentence = str(refused.value)
    assert sentence.startswith(f"{address} cannot be mapped into 127.0.0.0/8: ")
    assert "IPv4" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("kind", "address", "said"),
    [
        pytest.param(CLUSTER_IP, "10.0.0.1", "bound as 127.0.0.1, and 127.0.0.0/24", id="host"),
        pytest.param(CLUSTER_IP, "127.0.0.53", "127.0.0.0/24 is kept", id="the host's DNS"),
        pytest.param(CLUSTER_IP, "9.0.0.255", "127.0.0.0/24 is kept", id="last of the host's"),
        pytest.param(CLUSTER_IP, "9.0.0.0", "127.0.0.0/24 is kept", id="first of the host's"),
        pytest.param(KINDS.EXTERNAL_IP, "10.0.0.1", "127.0.0.0/24 is kept", id="external IP"),
        pytest.param(KINDS.LOAD_BALANCER, "8.0.0.53", "127.0.0.0/24 is kept", id="LB IP"),
        pytest.param(CLUSTER_IP, "9.255.255.255", "broadcast", id="broadcast of loopback"),
        pytest.param(
            KINDS.EXTERNAL_IP, "192.0.2.7", "add 192.0.2.7/32 to serve it", id="not in the list"
        ),
        pytest.param(KINDS.EXTERNAL_IP, "2001:db8::1", "add 2001:db8::1/128", id="IPv6"),
        pytest.param(KINDS.LOAD_BALANCER, "127.1.0.1", "loopback", id="LB IP in 127/8"),
        pytest.param(KINDS.LOAD_BALANCER, "169.254.169.254", "link-local", id="LB IP link-local"),
        pytest.param(KINDS.EXTERNAL_IP, "10.9.9.9", "the API server", id="API server's address"),
        pytest.param(KINDS.LOAD_BALANCER, "10.9.9.9", "the API server", id="as LB IP"),
    ],
)
def test_an_address_that_could_take_traffic_from_others_is_refused(
    kind: forwarding.FrontendKind, address: str, said: str
) -> None:
    with pytest.raises(errors.PortalRefusedError) as refused:
        located(kind, address, 80)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_simulated_load_balancers_address_is_served_where_loopback_is_allowed() -> None:
    allowing = loopback.LoopbackPortal(ANY_PORT, portal.Settings(allow_loopback=True))

    def place(address: str) -> str:
        return str(allowing.locate(forwarding.Frontend(KINDS.LOAD_BALANCER, address, 80)))

    assert place("127.112.0.59") == "127.112.0.59:80"
    for refused in ("127.0.0.1", "169.254.169.254", "0.0.0.0"):
        with pytest.raises(errors.PortalRefusedError):
            place(refused)
    with pytest.raises(errors.PortalRefusedError, match="--allow-loopback-endpoints"):
        located(KINDS.LOAD_BALANCER, "127.112.0.59", 80)


def test_the_api_servers_own_socket_is_never_taken() -> None:
    assert located(CLUSTER_IP, "10.9.0.1", 6444) == "127.9.0.1:6444"
    with pytest.raises(errors.PortalRefusedError):
        located(CLUSTER_IP, "10.9.0.1", 6443)


def test_the_api_servers_cluster_ip_is_one_like_any_other() -> None:
    assert located(CLUSTER_IP, "10.9.9.9", 443, ANY_PORT) == "127.9.9.9:443"


def test_without_a_list_no_external_ip_is_served() -> None:
    frontend = forwarding.Frontend(KINDS.EXTERNAL_IP, "203.0.113.7", 80)
    with pytest.raises(errors.PortalRefusedError, match="--external-ip-cidrs"):
        loopback.LoopbackPortal(ANY_PORT).locate(frontend)


@given(st.ip_addresses(v=4), st.integers(1, 65535), st.integers(0, 1025))
def test_every_other_ipv4_frontend_gets_a_loopback_address_and_a_port_that_may_be_bound(
    address: object, port: int, shift_below: int
) -> None:
    frontend = forwarding.Frontend(CLUSTER_IP, str(address), port)
    _, _, rest = str(address).partition(".")
    hypothesis.assume(not rest.startswith("0.0.") and rest != "255.255.255")
    bound = loopback.LoopbackPortal(shift_below).locate(frontend)
    assert isinstance(bound, forwarding.PortalAddress)
    assert bound.address.split(".") == ["127", *str(address).split(".")[1:]]
    assert shift_below <= bound.port <= 65535


@pytest.mark.parametrize(
    ("network", "address", "bound"),
    [
        ("127.64.0.0/16", "10.96.0.10", "127.64.0.10"),
        ("127.64.0.0/16", "127.96.7.9", "127.64.7.9"),
        ("127.130.192.0/18", "127.130.3.4", "127.130.195.4"),
        ("127.0.0.0/8", "10.96.0.10", "127.96.0.10"),
    ],
)
def test_in_a_network_of_its_own_an_address_keeps_its_last_bits(
    network: str, address: str, bound: str
) -> None:
    chosen = portal.Settings(loopback_network=ipaddress.IPv4Network(network))

    located = loopback.LoopbackPortal(ANY_PORT, chosen).locate(
        forwarding.Frontend(CLUSTER_IP, address, 8080)
    )

    assert str(located) == f"{bound}:8080"


def test_a_network_of_its_own_does_not_lead_to_the_host_s_servers() -> None:
    chosen = portal.Settings(loopback_network=ipaddress.IPv4Network("127.0.0.0/16"))
    frontend = forwarding.Frontend(CLUSTER_IP, "10.96.0.10", 8080)

    with pytest.raises(errors.PortalRefusedError, match=r"bound as 127\.0\.0\.10"):
        loopback.LoopbackPortal(ANY_PORT, chosen).locate(frontend)


@pytest.mark.parametrize("text", ["127.0.0.0/7", "10.0.0.0/8", "127.1.0.0/25", "127.1.2.3/16", "x"])
def test_a_network_that_cannot_be_its_own_is_refused(text: str) -> None:
    rows = settings.table(portal_settings.PortalSettings)
    (row,) = (each for each in rows if each.flag == "--loopback-network")

    with pytest.raises(errors.ConfigError, match="or a network in it of at least /24"):
        row.parse(text, row.flag)


def fake_proc(root: Path, status: str | None, sysctl: str | None) -> Path:
    (root / "self").mkdir()
    (root / "sys/net/ipv4").mkdir(parents=True)
    if status is not None:
        (root / "self/status").write_text(status)
    if sysctl is not None:
        (root / "sys/net/ipv4/ip_unprivileged_port_start").write_text(sysctl)
    return root


def status(capabilities: int) -> str:
    return f"Name:\tkproxy\nCapPrm:\t{0:016x}\nCapEff:\t{capabilities:016x}\nCapBnd:\t{0:016x}\n"


NET_BIND_SERVICE = 1 << 10


@pytest.mark.parametrize(
    ("capabilities", "sysctl", "first"),
    [
        pytest.param(status(0), "1024\n", 1024, id="unprivileged"),
        pytest.param(status(0), "80\n", 80, id="unprivileged, lowered sysctl"),
        pytest.param(status(0), "0\n", 0, id="unprivileged, sysctl that reserves nothing"),
        pytest.param(status(NET_BIND_SERVICE), "1024\n", 1, id="may bind low ports"),
        pytest.param(status((1 << 41) - 1), "1024\n", 1, id="all capabilities"),
        pytest.param(status(~NET_BIND_SERVICE & 0xFFFF), "1024\n", 1024, id="all but that one"),
        pytest.param(status(0), None, 1024, id="no sysctl"),
        pytest.param(status(0), "?", 1024, id="sysctl unreadable"),
        pytest.param(None, "80\n", 1024, id="no status"),
        pytest.param("Name:\tkproxy\n", "80\n", 1024, id="status without capabilities"),
    ],
)
def test_the_first_port_this_process_may_bind(
    tmp_path: Path, capabilities: str | None, sysctl: str | None, first: int
) -> None:
    assert loopback.first_bindable_port(fake_proc(tmp_path, capabilities, sysctl)) == first


def test_this_very_process_is_told_a_port_it_can_believe() -> None:
    assert 0 <= loopback.first_bindable_port() <= 65535
