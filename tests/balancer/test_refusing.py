"""Clients that are turned away: exactly their share, evenly spread."""

import random

import pytest

from kproxy.balancer import balancer, penalty, refusing
from kproxy.model import addresses, forwarding

A, B = (addresses.SocketAddress(f"10.1.0.{number}", 80) for number in (1, 2))


def make(refused: int, weights: tuple[int, int]) -> refusing.RefusingPicker:
    box = penalty.PenaltyBox(lambda _: False)
    balanced = balancer.ServicePortBalancer(forwarding.Policy(), box, random.Random(1))
    balanced.update((A, B), weights)
    return refusing.RefusingPicker(balanced, refused, refused + sum(weights))


@pytest.mark.parametrize(
    ("refused", "weights"), [(1, (1, 1)), (80, (10, 10)), (1, (999, 0)), (3, (1, 0))]
)
def test_every_backend_and_the_refusal_get_their_share_exactly(
    refused: int, weights: tuple[int, int]
) -> None:
    picker = make(refused, weights)
    total = refused + sum(weights)
    picked = [picker.pick("10.9.9.9", 0.0) for _ in range(3 * total)]
    assert picked.count(None) == 3 * refused
    assert picked.count(A) == 3 * weights[0]
    assert picked.count(B) == 3 * weights[1]


def test_refusals_are_spread_evenly() -> None:
    picker = make(1, (3, 0))
    picked = [picker.pick("10.9.9.9", 0.0) is None for _ in range(40)]
    assert all(sum(picked[first : first + 4]) == 1 for first in range(37))


def test_a_client_that_was_let_in_is_not_turned_away_when_a_dial_fails() -> None:
    picker = make(1_000_000, (1, 1))
    for _ in range(20):
        assert picker.repick("10.9.9.9", (A,), 0.0) == B
    assert picker.has_alternative("10.9.9.9", (A,))
    assert not picker.has_alternative("10.9.9.9", (A, B))
    assert picker.may_keep("10.9.9.9", A)
