"""Ten thousand endpoints are followed in steps, between which clients are served."""

import random

import pytest

from kproxy.balancer import balancer, loads, penalty
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
