"""Strategies by themselves: what a chooser over a fixed list of members does.

Behaviour: row 23 of docs/behaviour.md.
"""

import collections
import itertools
import random

import pytest

from kproxy.balancer import member, selecting, strategies
from kproxy.model import addresses
from kproxy.model.kinds import services


def members(count: int) -> list[member.Member]:
    return [member.Member(addresses.SocketAddress(f"10.0.0.{i}", 80)) for i in range(1, count + 1)]


def test_every_strategy_a_policy_can_name_exists() -> None:
    assert set(selecting.STRATEGIES) == set(services.Strategy)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_round_robin_is_a_strict_rotation_from_the_first_member(count: int) -> None:
    rotation = members(count)
    choose = strategies.Rotation(rotation).choose
    assert [choose() for _ in range(3 * count)] == rotation * 3


@pytest.mark.parametrize("picks", [1, 2, 3, 4, 5, 99, 100, 101])
def test_round_robin_spread_is_at_most_one(picks: int) -> None:
    choose = strategies.Rotation(members(4)).choose
    shares = collections.Counter(choose() for _ in range(picks))
    assert max(shares.values()) - picks // 4 <= 1
    assert len(shares) == min(picks, 4)


# Upper 0.1 % points of the chi-square distribution, by degrees of freedom.
CHI_SQUARE = {1: 10.83, 2: 13.82, 9: 27.88}


def chi_square(counts: collections.Counter[object], cells: int) -> float:
    expected = counts.total() / cells
    return sum((count - expected) ** 2 / expected for count in counts.values())


@pytest.mark.parametrize("count", [2, 3, 10])
def test_random_is_uniform(count: int) -> None:
    choose = strategies.Draw(members(count), random.Random(20)).choose
    shares: collections.Counter[object] = collections.Counter(choose() for _ in range(30_000))
    assert len(shares) == count
    assert chi_square(shares, count) < CHI_SQUARE[count - 1]


def test_random_picks_do_not_depend_on_the_pick_before() -> None:
    choose = strategies.Draw(members(3), random.Random(21)).choose
    drawn = [choose() for _ in range(30_001)]
    repeats: collections.Counter[object] = collections.Counter(
        before is after for before, after in itertools.pairwise(drawn)
    )
    expected = {True: 10_000, False: 20_000}
    distance = sum((repeats[k] - expected[k]) ** 2 / expected[k] for k in expected)
    assert distance < CHI_SQUARE[1]


def test_the_chi_square_check_fails_for_a_skewed_choice() -> None:
    skewed: collections.Counter[object] = collections.Counter({"a": 15_600, "b": 14_400})
    assert chi_square(skewed, 2) > CHI_SQUARE[1]


class EdgeRandom(random.Random):
    """Always draws the largest value below 1."""

    def random(self) -> float:
        return 1 - 2**-53


@pytest.mark.parametrize("count", [1, 3, 5, 1000])
def test_random_stays_inside_the_list_at_the_edge_of_its_range(count: int) -> None:
    rotation = members(count)
    assert strategies.Draw(rotation, EdgeRandom()).choose() is rotation[-1]
