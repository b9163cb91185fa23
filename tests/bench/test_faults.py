"""The black hole is one: neither answered nor refused, and gone afterwards."""

import socket

import pytest

from kproxy.bench.scenarios import dead_endpoints

pytestmark = pytest.mark.xdist_group("time")


def test_a_connection_to_the_black_hole_is_neither_accepted_nor_refused() -> None:
    with dead_endpoints.black_hole() as address, socket.socket() as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect(address)


def test_the_black_hole_is_gone_when_its_context_ends() -> None:
    with dead_endpoints.black_hole() as address:
        pass
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(address)
