"""Row 27 of docs/behaviour.md: clients on the node itself are sent to every endpoint.

Behaviour: row 27 of docs/behaviour.md.
"""

import random

import pytest

from kproxy.balancer import balancer, near, penalty
from kproxy.model import addresses, forwarding

HERE = addresses.SocketAddress("10.1.0.1", 80)
THERE = addresses.SocketAddress("10.1.0.2", 80)


def balanced(*backends: addresses.SocketAddress) -> balancer.ServicePortBalancer:
    made = balancer.ServicePortBalancer(
        forwarding.Policy(), penalty.PenaltyBox(lambda _: False), random.Random(1)
    )
    made.update(backends)
    return made


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param("10.0.0.7", {HERE, THERE}, id="near"),
        pytest.param("fd00::7", {HERE, THERE}, id="near, IPv6"),
        pytest.param("203.0.113.1", {HERE, THERE}, id="from the frontend's own address"),
        pytest.param("10.0.1.7", {HERE}, id="from elsewhere"),
        pytest.param("fd01::7", {HERE}, id="from elsewhere, IPv6"),
    ],
)
def test_near_clients_reach_every_endpoint(
    client: str, expected: set[addresses.SocketAddress]
) -> None:
    networks = near.Near(["10.0.0.0/24", "fd00::/64"])
    picker = near.NearPicker(networks, "203.0.113.1", balanced(HERE, THERE), balanced(HERE))
    assert {picker.pick(client, 0.0) for _ in range(4)} == expected
    assert picker.repick(client, [HERE], 0.0) == (THERE if THERE in expected else HERE)
    assert picker.has_alternative(client, [HERE]) is (THERE in expected)


def test_the_networks_can_change() -> None:
    networks = near.Near()
    picker = near.NearPicker(networks, "203.0.113.1", balanced(THERE), balanced(HERE))
    seen = []
    for held in ([], ["10.0.0.0/24"], ["10.0.1.0/24"], ["0.0.0.0/0"], []):
        networks.set(held)
        seen.append(picker.pick("10.0.0.7", 0.0))
    assert seen == [HERE, THERE, HERE, THERE, HERE]


def test_where_no_network_is_near_the_frontends_own_address_is_not_either() -> None:
    picker = near.NearPicker(near.Near(), "203.0.113.1", balanced(THERE), balanced(HERE))
    assert picker.pick("203.0.113.1", 0.0) == HERE
