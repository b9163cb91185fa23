"""Ten thousand endpoints are followed in steps, between which clients are served."""

import random

import pytest

from kproxy.balancer import balancer, loads, member, penalty
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services
from tests.balancer import test_balancer


def test_no_step_looks_into_the_penalty_box_too_often() -> None:
    watched: list[addresses.SocketAddress] = []

    class Counting(penalty.PenaltyBox):
        def watch(self, backend: addresses.SocketAddress, watcher: penalty.Watcher) -> bool:
            watched.append(backend)
            return super().watch(backend, watcher)

        def unwatch(self, backend: addresses.SocketAddress, watcher: penalty.Watcher) -> None:
            watched.append(backend)
            super().unwatch(backend, watcher)

    made = balancer.ServicePortBalancer(forwarding.Policy(), Counting(), random.Random(1))
    many = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(10_000)]
    for wanted in (many, many[:10], many[5000:]):
        for _ in made.update_steps(wanted):
            assert len(watched) <= 500
            watched.clear()
        assert sorted(made.backends) == sorted(wanted)
        assert len({made.pick("192.0.2.1", 0.0) for _ in wanted}) == len(wanted)


@pytest.mark.parametrize("strategy", services.Strategy)
def test_no_step_looks_at_all_backends(
    strategy: services.Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the first, which compares the set with the last one."""
    hashed = 0

    class Counting(addresses.SocketAddress):
        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return super().__hash__()

    class CountingLoad(loads.Load):
        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return super().__hash__()

    monkeypatch.setattr(loads, "Load", CountingLoad)
    many = [Counting(f"10.1.{n // 250}.{n % 250}", 80) for n in range(5_000)]
    made = balancer.ServicePortBalancer(
        forwarding.Policy(strategy), penalty.PenaltyBox(), random.Random(1)
    )
    for wanted in (many, many[:2500], many[1:]):
        for weights in ((), [1 + n % 3 for n in range(len(wanted))]):
            counts = []
            for _ in made.update_steps(wanted, weights):
                counts.append(hashed)
                hashed = 0
            counts.append(hashed)
            hashed = 0
            made.pick("192.0.2.1", 0.0)
            counts.append(hashed)
            hashed = 0
            assert max(counts[1:]) <= 3000, "a few for each of 500"


def test_between_two_steps_clients_get_the_old_set_or_the_new_one() -> None:
    old = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(2000)]
    new = [addresses.SocketAddress(f"10.2.{n // 250}.{n % 250}", 80) for n in range(2000)]
    rig = test_balancer.Rig(old, affinity=test_balancer.TTL)
    is_new = False
    for number, _ in enumerate(rig.balancer.update_steps(new)):
        picked = {rig.pick(f"192.0.2.{number}.{n}") for n in range(20)}
        assert picked <= set(new) or (picked <= set(old) and not is_new)
        is_new = picked <= set(new)
        rig.fail(*list(picked)[:2])
        rig.box.succeed(next(iter(picked)))
    assert is_new
    assert set(rig.balancer.backends) == set(new)
    table = rig.balancer.affinity_table
    assert table is not None
    assert {bound.backend for bound in table.bindings(rig.now, 10_000)} <= set(new)


def test_a_thousand_failures_at_once_are_followed_by_one_new_list() -> None:
    """Each pick used to be charged for every change before it."""
    many = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(5000)]
    rig = test_balancer.Rig(many)
    rig.pick()
    rig.fail(*many[:4999])
    assert rig.picks(3) == [many[4999]] * 3


@pytest.mark.parametrize("strategy", services.Strategy)
def test_no_pick_looks_at_all_backends_because_one_failed(
    strategy: services.Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failed dial to one of 100,000 dead endpoints held everything up for 130 ms."""
    looks = 0
    slot = vars(member.Member)["boxed"]

    def look(self: member.Member) -> bool:
        nonlocal looks
        looks += 1
        return bool(slot.__get__(self))

    watched = type("Watched", (member.Member,), {"boxed": property(look, slot.__set__)})
    monkeypatch.setattr(member, "Member", watched)
    many = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(5000)]
    box = penalty.PenaltyBox()
    made = balancer.ServicePortBalancer(forwarding.Policy(strategy), box, random.Random(1))
    made.update(many, [1 + n % 3 for n in range(5000)])
    made.pick("192.0.2.1", 0.0)
    dead: list[addresses.SocketAddress] = []
    for n in range(1000):
        looks = 0
        chosen = made.pick(f"192.0.2.{n % 200}", 0.0)
        assert chosen is not None
        assert chosen not in dead
        box.fail(chosen, 0.0)
        dead.append(chosen)
        assert made.has_alternative("192.0.2.1", dead[-3:])
        assert made.repick("192.0.2.1", dead[-3:], 0.0) not in dead
        assert looks <= 2500
    freed = dead.pop(0)
    box.succeed(freed)
    looks = 0
    assert made.may_keep("192.0.2.1", freed)
    made.pick("192.0.2.1", 0.0)
    assert looks <= 2500


@pytest.mark.parametrize("strategy", services.Strategy)
def test_the_few_that_live_among_many_dead_share_the_clients(strategy: services.Strategy) -> None:
    many = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(2000)]
    box = penalty.PenaltyBox()
    made = balancer.ServicePortBalancer(forwarding.Policy(strategy), box, random.Random(1))
    made.update(many)
    made.pick("192.0.2.1", 0.0)
    alive = {many[7], many[700], many[1400]}
    for each in many:
        if each not in alive:
            box.fail(each, 0.0)
    assert {made.pick(f"192.0.2.{n}", 0.0) for n in range(200)} == alive
    assert made.repick("192.0.2.1", [many[7], many[700]], 0.0) == many[1400]
    assert not made.has_alternative("192.0.2.1", sorted(alive))
    assert not made.may_keep("192.0.2.1", many[0])
    for each in alive:
        box.fail(each, 0.0)
    assert made.pick("192.0.2.1", 0.0) in many
    assert made.may_keep("192.0.2.1", many[0])
    box.succeed(many[0])
    assert {made.pick(f"192.0.2.{n}", 0.0) for n in range(20)} == {many[0]}
