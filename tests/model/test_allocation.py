"""Addresses and node ports for Services that have none: stable, distinct, out of others' way."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import allocation, names

TCP, UDP = names.Protocol.TCP, names.Protocol.UDP
WEB = names.NamespacedName("default", "web")


def named(count: int) -> list[names.NamespacedName]:
    return [names.NamespacedName("default", f"s{n}") for n in range(count)]


def port(name: str, protocol: names.Protocol = TCP) -> names.ServicePortName:
    return names.ServicePortName(names.NamespacedName("default", name), "", protocol)


def test_an_address_follows_from_the_name_and_stays_what_it_was() -> None:
    """Written down, because a change of the rule would move everyone's Services."""
    assert allocation.cluster_ips([WEB], ()) == {WEB: "10.107.2.146"}
    assert allocation.node_ports([port("web")], ()) == {port("web"): 30690}


@given(st.randoms(use_true_random=False))
def test_the_order_of_services_does_not_count(dice: random.Random) -> None:
    wanting = named(200)
    expected = allocation.cluster_ips(wanting, ())
    dice.shuffle(wanting)
    assert allocation.cluster_ips(wanting, ()) == expected


def test_addresses_are_distinct_and_in_the_range() -> None:
    made = allocation.cluster_ips(named(5_000), ())
    assert len(set(made.values())) == 5_000
    first = allocation.CLUSTER_IPS.network_address + 256
    for text in made.values():
        address = ipaddress.IPv4Address(text)
        assert address in allocation.CLUSTER_IPS
        assert address >= first


@pytest.mark.parametrize("first_octet", [10, 127, 192])
def test_an_address_that_is_in_use_is_not_given_wherever_it_is_mapped_from(
    first_octet: int,
) -> None:
    free = allocation.cluster_ips([WEB], ())[WEB]
    taken = f"{first_octet}.{free.partition('.')[2]}"
    other = allocation.cluster_ips([WEB], {taken})[WEB]
    assert other.partition(".")[2] != taken.partition(".")[2]
    assert allocation.cluster_ips([WEB], {taken}) == {WEB: other}


def test_when_all_is_taken_the_service_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_COUNT", 3)
    made = allocation.cluster_ips(named(5), ())
    assert len(made) == len(set(made.values())) == 3


def test_node_ports_are_distinct_by_protocol_and_avoid_those_in_use() -> None:
    wanting = [port(f"s{n}", protocol) for n in range(400) for protocol in (TCP, UDP)]
    taken = {(TCP, number) for number in range(30000, 32000)}
    made = allocation.node_ports(wanting, taken)
    assert len(made) == len(wanting)
    for protocol in (TCP, UDP):
        given_out = [number for name, number in made.items() if name.protocol is protocol]
        assert len(set(given_out)) == 400
        assert not taken & {(protocol, number) for number in given_out}
        assert all(30000 <= number <= 32767 for number in given_out)
