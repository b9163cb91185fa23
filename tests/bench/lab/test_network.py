"""Addresses: what is one, which are free, who listens."""

import socket

import pytest

from kproxy import errors
from kproxy.bench.lab import network


def test_an_address_is_read_as_it_is_written() -> None:
    assert network.parse("127.0.0.1:80") == network.Address("127.0.0.1", 80)
    assert str(network.parse("10.0.0.1:65535")) == "10.0.0.1:65535"


@pytest.mark.parametrize(
    "text", ["", "80", "127.0.0.1", "127.1:80", "localhost:80", "127.0.0.1:0", "127.0.0.1:65536"]
)
def test_what_is_no_address_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"is no address: write IPV4:PORT"):
        network.parse(text)


def test_free_addresses_differ_and_nothing_listens_there() -> None:
    addresses = network.free_addresses(20)
    assert len(set(addresses)) == 20
    assert not any(map(network.is_listening, addresses))


def test_a_listener_is_seen_on_exactly_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert network.is_listening(network.Address("127.0.0.1", port))
        assert not network.is_listening(network.Address("127.0.0.2", port))
    assert not network.is_listening(network.Address("127.0.0.1", port))
