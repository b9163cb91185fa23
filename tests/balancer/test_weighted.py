"""Weights: the split of smooth round-robin is exact, that of random as likely as it says."""

import collections
import itertools
import random
from collections.abc import Sequence

import pytest

from kproxy.balancer import balancer, member, penalty, strategies, weighted
from kproxy.model import addresses, forwarding, steps
from kproxy.model.kinds import services
from tests.balancer.test_strategies import CHI_SQUARE

CLIENT = "192.0.2.1"
RANDOM = services.Strategy.RANDOM
ROUND_ROBIN = services.Strategy.ROUND_ROBIN


def backend(number: int) -> addresses.SocketAddress:
    return addresses.SocketAddress(f"10.0.0.{number}", 80)


def members(*weights: int) -> list[member.Member]:
    return [
        member.Member(backend(number), weight=weight) for number, weight in enumerate(weights, 1)
    ]


def balanced(
    *weights: int, strategy: services.Strategy = ROUND_ROBIN, affinity: int | None = None
) -> tuple[balancer.ServicePortBalancer, penalty.PenaltyBox]:
    """A balancer over 10.0.0.1, 10.0.0.2 and so on, of these weights."""
    box = penalty.PenaltyBox()
    made = balancer.ServicePortBalancer(
        forwarding.Policy(strategy, affinity), box, random.Random(3)
    )
    made.update([backend(number + 1) for number in range(len(weights))], weights)
    return made, box


def split(made: balancer.ServicePortBalancer, picks: int) -> dict[int, int]:
    """How often each backend was picked, by the last number of its address."""
    counts: collections.Counter[int] = collections.Counter()
    for _ in range(picks):
        picked = made.pick(CLIENT, 0.0)
        assert picked is not None
        counts[int(picked.address.rsplit(".", 1)[1])] += 1
    return dict(counts)


@pytest.mark.parametrize(
    "weights",
    [(9, 1), (5, 1, 1), (3, 3, 1, 1, 1), (1, 2, 3, 4, 5), (1_000_000, 999_999), (7, 1, 7, 2, 2)],
)
def test_smooth_round_robin_is_exact_over_each_round(weights: tuple[int, ...]) -> None:
    rotation = members(*weights)
    choose = weighted.SmoothRotation(rotation).choose
    total = min(sum(weights), 5000)
    for _ in range(3 if total < 5000 else 0):
        counts = collections.Counter(choose() for _ in range(total))
        assert [counts[each] for each in rotation] == list(weights)
    if total == 5000:
        counts = collections.Counter(choose() for _ in range(total))
        assert sorted(counts.values()) == [2500, 2500]


def test_smooth_round_robin_is_the_sequence_of_nginx() -> None:
    """`ngx_http_upstream_round_robin.c`: {5, 1, 1} is a a b a c a a there; with two of one weight,
    which take turns, the heavy one is as evenly spread."""
    a, b = members(9, 1)
    choose = weighted.SmoothRotation([a, b]).choose
    assert [choose() for _ in range(10)] == [a, a, a, a, a, b, a, a, a, a]
    a, b, c = members(5, 2, 1)
    choose = weighted.SmoothRotation([a, b, c]).choose
    assert [choose() for _ in range(8)] == [a, b, a, a, c, a, b, a]


@pytest.mark.parametrize("weights", [(9, 1), (5, 1, 1), (3, 3, 1, 1, 1), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("picks", [1, 2, 3, 5, 8, 13, 21, 34])
def test_no_run_of_picks_is_further_from_its_share_than_one_pick_of_each_class(
    weights: tuple[int, ...], picks: int
) -> None:
    rotation = members(*weights)
    choose = weighted.SmoothRotation(rotation).choose
    drawn = [choose() for _ in range(4 * sum(weights))]
    for start in range(len(drawn) - picks):
        counts = collections.Counter(drawn[start : start + picks])
        for each in rotation:
            due = picks * each.weight / sum(weights)
            assert abs(counts[each] - due) <= 1 + len(set(weights))


def lots(rotation: Sequence[member.Member]) -> strategies.Lots:
    weights = {each.backend: each.weight for each in rotation}
    return steps.at_once(strategies.lots_in_steps(rotation, weights))


def test_equal_weights_are_the_plain_strategies() -> None:
    rotation = members(4, 4)
    context = strategies.Context(random.Random(1), lots(rotation))
    assert type(weighted.rotate(rotation, context)) is strategies.Rotation
    assert type(weighted.draw(rotation, context)) is strategies.Draw
    assert type(weighted.draw(rotation[:1], context)) is strategies.Draw


@pytest.mark.parametrize("weights", [(9, 1), (5, 3, 2)])
def test_random_is_as_likely_as_the_weights_say(weights: tuple[int, ...]) -> None:
    rotation = members(*weights)
    choose = weighted.WeightedDraw(lots(rotation), random.Random(20)).choose
    counts = collections.Counter(choose() for _ in range(30_000))
    expected = [30_000 * weight / sum(weights) for weight in weights]
    distance = sum(
        (counts[each] - due) ** 2 / due for each, due in zip(rotation, expected, strict=True)
    )
    assert distance < CHI_SQUARE[len(weights) - 1]


def test_a_balancer_splits_by_weight() -> None:
    made, _ = balanced(9, 1)
    assert split(made, 1000) == {1: 900, 2: 100}


def test_a_weight_changes_from_the_next_pick_on() -> None:
    made, _ = balanced(1, 1)
    assert split(made, 10) == {1: 5, 2: 5}
    both = [backend(1), backend(2)]
    made.update(both, (4, 1))
    assert split(made, 10) == {1: 8, 2: 2}
    made.update(both, (1, 4))
    assert split(made, 10) == {1: 2, 2: 8}
    made.update(both)
    assert split(made, 10) == {1: 5, 2: 5}


@pytest.mark.parametrize("strategy", services.Strategy)
@pytest.mark.parametrize("affinity", [None, 60])
def test_weight_0_gets_no_new_connections(
    strategy: services.Strategy, affinity: int | None
) -> None:
    made, _ = balanced(1, 1, strategy=strategy, affinity=affinity)
    clients = [f"192.0.2.{number}" for number in range(1, 20)]
    assert {made.pick(client, 0.0) for client in clients} == {backend(1), backend(2)}
    made.update([backend(1), backend(2)], (0, 1))
    assert {made.pick(client, 1.0) for client in clients} == {backend(2)}
    assert set(made.backends) == {backend(1), backend(2)}
    assert not made.is_free(backend(1))
    made.update([backend(1), backend(2)])
    assert made.is_free(backend(1))


def test_weight_0_is_not_used_when_all_others_are_boxed() -> None:
    made, box = balanced(0, 1, 1)
    box.fail(backend(2), 0.0)
    box.fail(backend(3), 0.0)
    assert split(made, 10) == {2: 5, 3: 5}
    box.fail(backend(1), 0.0)
    box.succeed(backend(1))
    assert split(made, 10) == {2: 5, 3: 5}
    assert made.repick(CLIENT, [backend(2), backend(3)], 0.0) in {backend(2), backend(3)}


def test_a_boxed_backends_share_goes_to_the_others_by_their_weights() -> None:
    made, box = balanced(5, 4, 1)
    box.fail(backend(1), 0.0)
    assert split(made, 100) == {2: 80, 3: 20}
    box.succeed(backend(1))
    assert split(made, 100) == {1: 50, 2: 40, 3: 10}


def test_light_ones_are_chosen_although_the_set_changes_all_the_time() -> None:
    """A selection that began anew at each change would give the light one nothing, ever."""
    made, _ = balanced(9, 1)
    counts: collections.Counter[int] = collections.Counter()
    for number in itertools.islice(itertools.cycle((3, 4)), 250):
        made.update([backend(1), backend(2), backend(number)], (9, 1, 0))
        counts.update(split(made, 4))
    assert counts == {1: 900, 2: 100}


@pytest.mark.parametrize("strategy", services.Strategy)
def test_all_of_weight_0_is_no_backend(strategy: services.Strategy) -> None:
    made, _ = balanced(0, 0, strategy=strategy)
    assert made.pick(CLIENT, 0.0) is None
    assert made.repick(CLIENT, (), 0.0) is None
    assert not made.has_alternative(CLIENT, ())
