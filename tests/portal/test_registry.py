"""Portals by name."""

import pytest

from kproxy.model import addresses, forwarding, names
from kproxy.portal import portal, registry

CLUSTER_IP = forwarding.FrontendKind.CLUSTER_IP


@pytest.mark.parametrize("name", portal.PortalName)
def test_every_name_of_the_flag_has_a_portal(name: portal.PortalName) -> None:
    made = registry.make(name, portal.Settings())
    assert made.families
    made.close()


@pytest.mark.parametrize("name", portal.PortalName)
def test_what_it_locates_it_acquires_and_releases(name: portal.PortalName) -> None:
    made = registry.make(name, portal.Settings())
    made.recover()
    address = made.locate(forwarding.Frontend(CLUSTER_IP, "10.96.0.10", 8080))
    assert made.acquire(address, None) == addresses.SocketAddress(address.address, address.port)
    made.release(address)
    assert made.acquire(address, None).port == address.port
    made.close()


@pytest.mark.parametrize("name", portal.PortalName)
def test_one_address_in_two_protocols_is_two_places(name: portal.PortalName) -> None:
    made = registry.make(name, portal.Settings())
    tcp, udp = (
        made.locate(forwarding.Frontend(CLUSTER_IP, "10.96.0.10", 8053, protocol=protocol))
        for protocol in (names.Protocol.TCP, names.Protocol.UDP)
    )
    assert tcp != udp
    assert tcp.socket_address == udp.socket_address
    assert (str(tcp), str(udp)) == ("127.96.0.10:8053", "127.96.0.10:8053/UDP")
