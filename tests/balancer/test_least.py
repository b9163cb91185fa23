"""least-connections and power-of-two: by the connections that each backend has."""

import collections
import gc
import itertools
import random

import pytest

from kproxy.balancer import balancer, least, loads, member, near, penalty, strategies
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services

CLIENT = "192.0.2.1"
LEAST = services.Strategy.LEAST_CONNECTIONS
TWO = services.Strategy.POWER_OF_TWO


def backends(count: int) -> list[addresses.SocketAddress]:
    return [addresses.SocketAddress(f"10.0.{n // 250}.{n % 250 + 1}", 80) for n in range(count)]


A, B, C = backends(3)


class Rig:
    """A balancer whose connections are counted as a data path counts them."""

    def __init__(
        self,
        strategy: services.Strategy,
        members: list[addresses.SocketAddress],
        weights: tuple[int, ...] = (),
        affinity: int | None = None,
    ) -> None:
        self.box = penalty.PenaltyBox()
        self.counted = loads.Loads()
        self.balancer = balancer.ServicePortBalancer(
            forwarding.Policy(strategy, affinity),
            self.box,
            random.Random(8),
            counted=self.counted,
        )
        self.balancer.update(members, weights)
        self.open: dict[addresses.SocketAddress, list[loads.Load]] = collections.defaultdict(list)

    def connect(self, client: str = CLIENT) -> addresses.SocketAddress:
        """A new connection, and where it goes."""
        picked = self.balancer.pick(client, 0.0)
        assert picked is not None
        self.open[picked].append(self.counted.moved(None, picked))
        return picked

    def end(self, backend: addresses.SocketAddress, count: int = 1) -> None:
        for _ in range(count):
            self.open[backend].pop().leave()

    def counts(self) -> dict[addresses.SocketAddress, int]:
        return {each: len(kept) for each, kept in self.open.items() if kept}


def test_least_connections_evens_out_what_is_uneven() -> None:
    rig = Rig(LEAST, [A, B, C])
    for _ in range(30):
        rig.connect()
    assert rig.counts() == {A: 10, B: 10, C: 10}
    rig.end(B, 7)
    rig.end(C, 3)
    assert {rig.connect() for _ in range(4)} == {B}
    for _ in range(6):
        rig.connect()
    assert rig.counts() == {A: 10, B: 10, C: 10}


def test_equals_take_turns() -> None:
    rig = Rig(LEAST, [A, B, C])
    first = [rig.connect() for _ in range(3)]
    assert set(first) == {A, B, C}
    assert [rig.connect() for _ in range(3)] == first


def test_equals_take_turns_where_nothing_is_counted() -> None:
    rig = Rig(LEAST, [A, B, C])
    picked = collections.Counter(rig.balancer.pick(CLIENT, 0.0) for _ in range(30))
    assert picked == {A: 10, B: 10, C: 10}


def test_connections_divide_as_the_weights_say() -> None:
    rig = Rig(LEAST, [A, B, C], (6, 3, 1))
    for _ in range(100):
        rig.connect()
    assert rig.counts() == {A: 60, B: 30, C: 10}
    rig.balancer.update([A, B, C], (1, 1, 1))
    for _ in range(80):
        rig.connect()
    assert rig.counts() == {A: 60, B: 60, C: 60}


def test_a_boxed_backend_keeps_its_connections_and_gets_no_more() -> None:
    rig = Rig(LEAST, [A, B])
    for _ in range(4):
        rig.connect()
    rig.box.fail(A, 0.0)
    assert {rig.connect() for _ in range(4)} == {B}
    rig.box.succeed(A)
    assert {rig.connect() for _ in range(4)} == {A}


def test_a_backend_that_returns_has_what_it_kept() -> None:
    rig = Rig(LEAST, [A, B])
    for _ in range(6):
        rig.connect()
    rig.balancer.update([B])
    rig.balancer.update([A, B])
    rig.end(A, 1)
    assert rig.connect() == A
    assert {rig.connect(), rig.connect()} == {A, B}


def test_a_retry_goes_to_the_least_loaded_of_the_others() -> None:
    rig = Rig(LEAST, [A, B, C])
    for _ in range(9):
        rig.connect()
    rig.end(A, 3)
    rig.end(B, 2)
    assert rig.balancer.repick(CLIENT, [A], 0.0) == B
    assert rig.balancer.repick(CLIENT, [A, B], 0.0) == C


def test_the_count_moves_along_with_a_retry() -> None:
    counted = loads.Loads()
    held = counted.moved(None, A)
    held = counted.moved(held, B)
    assert (counted.of(A).count, counted.of(B).count) == (0, 1)
    held.leave()
    assert counted.of(B).count == 0


def test_affinity_comes_before_the_count() -> None:
    rig = Rig(LEAST, [A, B], affinity=60)
    mine = rig.connect("192.0.2.1")
    assert {rig.connect("192.0.2.1") for _ in range(5)} == {mine}
    (other,) = {A, B} - {mine}
    assert {rig.connect(f"192.0.2.{n}") for n in range(2, 7)} == {other}


def test_scopes_of_a_service_port_share_the_counts() -> None:
    """A client on the node and one from outside: the same endpoint, through two balancers."""
    box, counted = penalty.PenaltyBox(), loads.Loads()
    everywhere, here = (
        balancer.ServicePortBalancer(
            forwarding.Policy(LEAST), box, random.Random(1), counted=counted
        )
        for _ in range(2)
    )
    everywhere.update([A, B, C])
    here.update([A, B])
    picker = near.NearPicker(near.Near(["10.9.0.0/16"]), "203.0.113.1", everywhere, here)
    for _ in range(5):
        counted.of(A).join()
    assert {picker.pick("198.51.100.1", 0.0) for _ in range(5)} == {B}
    for _ in range(5):
        counted.of(B).join()
    assert picker.pick("10.9.0.1", 0.0) == C


@pytest.mark.parametrize("strategy", [LEAST, TWO])
def test_everything_is_freed_without_the_garbage_collector(strategy: services.Strategy) -> None:
    kinds = (loads.Load, member.Member, least.LeastConnections, least.TwoChoices)

    def found() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, kinds)]

    gc.collect()
    of_others = found()  # kept, so that no number is given out again
    numbers = set(map(id, of_others))
    rig = Rig(strategy, [A, B, C])
    for _ in range(5):
        rig.connect()
    gc.disable()
    try:
        assert any(id(each) not in numbers for each in found())
        rig.balancer.configure(forwarding.Policy())
        rig.balancer.pick(CLIENT, 0.0)
        rig.balancer.update([])
        rig.balancer.close()
        rig.open.clear()
        assert all(id(each) in numbers for each in found())
    finally:
        gc.enable()


def test_of_two_choices_the_lighter_one_is_taken() -> None:
    rig = Rig(TWO, [A, B])
    for _ in range(20):
        rig.connect()
    assert rig.counts() == {A: 10, B: 10}
    rig.end(A, 5)
    assert {rig.connect() for _ in range(5)} == {A}


def test_two_choices_leave_no_backend_far_behind() -> None:
    """The power of two choices: the fullest of 100 has few more than the mean, where random
    alone leaves it far above."""
    chosen = backends(100)
    fullest = {}
    for strategy in (TWO, services.Strategy.RANDOM):
        rig = Rig(strategy, chosen)
        for _ in range(10_000):
            rig.connect()
        fullest[strategy] = max(rig.counts().values())
    assert fullest[TWO] <= 103
    assert fullest[services.Strategy.RANDOM] >= 115


def test_two_choices_go_by_weight() -> None:
    chosen = backends(20)
    rig = Rig(TWO, chosen, (9, 1) * 10)
    for _ in range(10_000):
        rig.connect()
    heavy = sum(rig.counts()[each] for each in chosen[::2])
    assert 8800 <= heavy <= 9200
    rig = Rig(TWO, [A, B], (9, 1))
    for _ in range(100):
        rig.connect()
    assert rig.counts() == {A: 90, B: 10}


class Drawn(random.Random):
    """Draws what it was given."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2)])
@pytest.mark.parametrize("first", [0.0, 0.49, 0.5, 0.79, 0.8, 1 - 2**-53])
@pytest.mark.parametrize("second", [0.0, 0.3, 0.5, 0.7, 1 - 2**-53])
def test_the_two_are_never_one_and_the_same(
    weights: tuple[int, ...], first: float, second: float
) -> None:
    counted = loads.Loads()
    members = [
        member.Member(each, weight=weight)
        for each, weight in zip(backends(3), weights, strict=True)
    ]
    for each in members:
        each.load = counted.of(each.backend)
    bounds = () if weights == (1, 1, 1) else tuple(itertools.accumulate(weights))
    lots = strategies.Lots(members, bounds)
    choose = least.TwoChoices(lots, Drawn(first, 0.0)).choose
    drawn = choose()
    # The one drawn first is the fullest now: the choice must be another.
    one = members[min(int(first * 3), 2)] if weights == (1, 1, 1) else None
    if one is None:
        one = members[0 if first < 0.5 else 1 if first < 0.8 else 2]
    assert one.load is not None
    for _ in range(100):
        one.load.join()
    assert drawn in members
    assert least.TwoChoices(lots, Drawn(first, second)).choose() is not one


def test_equals_keep_their_turns_when_the_set_changes() -> None:
    """Frequent changes would otherwise give the first of them all connections."""
    chosen = backends(40)
    rig = Rig(LEAST, chosen[:30])
    picked = []
    for coming in chosen[30:]:
        for _ in range(3):
            picked.append(rig.connect())
            rig.end(picked[-1])
        rig.balancer.update([*rig.balancer.backends, coming])
    assert sorted(picked) == sorted(chosen[:30])


def test_loads_are_followed_while_a_new_order_is_made() -> None:
    """The counts change between the steps, for members that are in it already and that are not."""
    chosen = backends(2000)
    rig = Rig(LEAST, chosen)
    used: set[addresses.SocketAddress] = set()
    for _ in rig.balancer.update_steps(chosen, [2] * 2000):
        used.update(rig.connect() for _ in range(10))
    for _ in range(2000 - len(used)):
        used.add(rig.connect())
    assert used == set(chosen)
    assert set(rig.counts().values()) == {1}
    for each in chosen:
        rig.end(each)
    assert {rig.connect() for _ in range(2000)} == set(chosen)
