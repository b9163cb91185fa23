"""Portals by name."""

import os
from collections.abc import Iterator

import pytest

from kproxy.model import forwarding, names
from kproxy.portal import portal, registry

CLUSTER_IP = forwarding.FrontendKind.CLUSTER_IP


@pytest.fixture(params=portal.PortalName)
def made(request: pytest.FixtureRequest) -> Iterator[portal.Portal]:
    if request.param is portal.PortalName.LOCAL and os.geteuid() != 0:
        pytest.skip("needs root, to make routes")
    found = registry.make(request.param, portal.Settings())
    yield found
    found.close()


def test_every_name_of_the_flag_has_a_portal(made: portal.Portal) -> None:
    assert made.families
    assert made.description


def test_what_it_locates_it_acquires_and_releases(made: portal.Portal) -> None:
    made.recover()
    address = made.locate(forwarding.Frontend(CLUSTER_IP, "10.96.0.10", 8080))
    first = made.acquire(address, None)
    made.release(address)
    assert made.acquire(address, None) == first
    made.release(address)


def test_one_address_in_two_protocols_is_two_places(made: portal.Portal) -> None:
    tcp, udp = (
        made.locate(forwarding.Frontend(CLUSTER_IP, "10.96.0.10", 8053, protocol=protocol))
        for protocol in (names.Protocol.TCP, names.Protocol.UDP)
    )
    assert tcp != udp
    assert tcp.socket_address == udp.socket_address
    assert str(udp) == f"{tcp}/UDP"
