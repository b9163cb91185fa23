"""source-hash: the client's address decides, and a change of the set moves no more than it must."""

import collections
import random

import pytest

from kproxy.balancer import balancer, member, penalty, source_hash
from kproxy.model import addresses, forwarding, steps
from kproxy.model.kinds import services

POLICY = forwarding.Policy(services.Strategy.SOURCE_HASH)
CLIENTS = [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(2000)]
Where = dict[str, addresses.SocketAddress | None]


def backends(count: int) -> list[addresses.SocketAddress]:
    return [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250 + 1}", 8080) for n in range(count)]


class Rig:
    """A balancer by source-hash."""

    def __init__(
        self, members: list[addresses.SocketAddress], weights: tuple[int, ...] = (), seed: int = 1
    ) -> None:
        self.box = penalty.PenaltyBox()
        self.balancer = balancer.ServicePortBalancer(POLICY, self.box, random.Random(seed))
        self.balancer.update(members, weights)

    def where(self, clients: list[str] = CLIENTS) -> Where:
        return {client: self.balancer.pick(client, 0.0) for client in clients}


def moved(before: Where, after: Where) -> set[addresses.SocketAddress | None]:
    """Where the clients had been that are somewhere else now."""
    return {before[client] for client in before if before[client] != after[client]}


def test_a_client_always_gets_the_same_whatever_was_before() -> None:
    chosen = backends(7)
    first = Rig(chosen)
    expected = first.where()
    assert first.where() == expected
    other = Rig([*backends(9), addresses.SocketAddress("10.9.9.9", 1)], seed=2)
    other.where()
    other.balancer.update(chosen[::-1])
    assert other.where() == expected


def test_these_clients_go_where_every_kproxy_sends_them() -> None:
    """Another version must not send them elsewhere: they would lose what they have there."""
    rig = Rig(backends(5))
    assert [
        str(rig.balancer.pick(client, 0.0))
        for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1")
    ] == ["10.1.0.1:8080", "10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"]


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_a_removed_or_boxed_backend_moves_its_own_clients_alone(count: int) -> None:
    chosen = backends(count)
    rig = Rig(chosen)
    before = rig.where()
    for gone in chosen[:3]:
        rig.box.fail(gone, 0.0)
        boxed = rig.where()
        assert moved(before, boxed) == {gone}
        assert gone not in boxed.values()
        rig.box.succeed(gone)
        assert rig.where() == before
        rig.balancer.update([each for each in chosen if each != gone])
        assert rig.where() == boxed
        rig.balancer.update(chosen)
        assert rig.where() == before


def test_a_new_backend_takes_clients_and_moves_none_elsewhere() -> None:
    *chosen, new = backends(11)
    rig = Rig(chosen)
    before = rig.where()
    rig.balancer.update([*chosen, new])
    after = rig.where()
    assert {after[client] for client in CLIENTS if after[client] != before[client]} == {new}


@pytest.mark.parametrize("boxed", [1, 5, 6, 9])
def test_many_boxed_backends_leave_the_others_clients_where_they_are(boxed: int) -> None:
    chosen = backends(10)
    rig = Rig(chosen)
    before = rig.where()
    for each in chosen[:boxed]:
        rig.box.fail(each, 0.0)
    after = rig.where()
    assert moved(before, after) == set(chosen[:boxed])
    assert set(after.values()) == set(chosen[boxed:])
    for each in chosen[boxed:]:
        rig.box.fail(each, 0.0)
    assert rig.where() == before


def test_a_retry_goes_where_the_client_would_go_without_what_was_tried() -> None:
    chosen = backends(6)
    rig = Rig(chosen)
    for client, first in rig.where(CLIENTS[:50]).items():
        assert first is not None
        second = rig.balancer.repick(client, [first], 0.0)
        assert second is not None
        rig.box.fail(first, 0.0)
        assert rig.balancer.pick(client, 0.0) == second
        third = rig.balancer.repick(client, [first, second], 0.0)
        assert third not in {first, second}
        rig.box.succeed(first)


@pytest.mark.parametrize(("count", "spread"), [(2, 0.2), (3, 0.25), (10, 0.3), (50, 0.35)])
def test_clients_are_spread_evenly(count: int, spread: float) -> None:
    """Shares deviate by 6 % (one sigma), and by what 20,000 clients leave to chance."""
    rig = Rig(backends(count))
    clients = [f"172.16.{n // 250}.{n % 250}" for n in range(20_000)]
    shares = collections.Counter(rig.where(clients).values())
    mean = len(clients) / count
    assert len(shares) == count
    assert max(shares.values()) <= mean * (1 + spread)
    assert min(shares.values()) >= mean * (1 - spread)


@pytest.mark.parametrize("weights", [(9, 1), (3, 2, 1), (1, 1, 8, 8)])
def test_shares_are_as_the_weights_say(weights: tuple[int, ...]) -> None:
    sets, each = 40, 200
    counts: collections.Counter[int] = collections.Counter()
    for number in range(sets):
        chosen = [addresses.SocketAddress(f"10.2.{number}.{n}", 80) for n in range(len(weights))]
        where = Rig(chosen, weights).where(CLIENTS[:each])
        counts.update(chosen.index(at) for at in where.values() if at is not None)
    for index, weight in enumerate(weights):
        due = weight / sum(weights)
        assert counts[index] / (sets * each) == pytest.approx(due, rel=0.25)


def test_a_weight_that_rises_moves_clients_to_its_backend_alone() -> None:
    chosen = backends(4)
    rig = Rig(chosen, (1, 1, 1, 1))
    before = rig.where()
    rig.balancer.update(chosen, (1, 3, 1, 1))
    after = rig.where()
    assert {after[c] for c in CLIENTS if after[c] != before[c]} == {chosen[1]}
    rig.balancer.update(chosen, (1, 0, 1, 1))
    without = rig.where()
    assert moved(before, without) == {chosen[1]}


def test_a_strategy_that_is_set_by_itself_works_at_once() -> None:
    chosen = backends(4)
    made = balancer.ServicePortBalancer(forwarding.Policy(), penalty.PenaltyBox(), random.Random(1))
    made.update(chosen)
    made.configure(POLICY)
    expected = Rig(chosen).where()
    assert {client: made.pick(client, 0.0) for client in CLIENTS} == expected
    made.configure(forwarding.Policy())
    assert {made.pick(CLIENTS[0], 0.0) for _ in range(4)} == set(chosen)


def test_the_nearest_is_the_nearest() -> None:
    """The search by bisection against a look at every probe and every point."""
    members = [member.Member(each) for each in backends(30)]
    weights = {each.backend: n % 3 + 1 for n, each in enumerate(members)}
    for each in members:
        each.weight = weights[each.backend]
    selection = source_hash.SourceHash(
        members, steps.at_once(source_hash.circles_in_steps(members, weights))
    )

    def distance(client: str, to: member.Member) -> float:
        ways = (
            (point - probe) % (1 << 64)
            for point in source_hash.points_of(to.backend)
            for probe in source_hash.probes_of(client)
        )
        return min(ways) / to.weight

    for client in CLIENTS[:100]:
        nearest = min(members, key=lambda each: distance(client, each))
        assert selection.chooser_for(client)() is nearest


@pytest.mark.parametrize("changed", [1, 5, 70])
@pytest.mark.parametrize("weights", [False, True])
def test_a_large_set_that_changes_is_as_one_that_was_there_from_the_start(
    changed: int, *, weights: bool
) -> None:
    """Small changes are worked into what is there, large ones make it anew."""

    def weighed(found: list[addresses.SocketAddress]) -> tuple[int, ...]:
        return tuple(2 - len(each.address) % 2 for each in found) if weights else ()

    chosen = backends(300)
    rig = Rig(chosen[:200], weighed(chosen[:200]))
    for start in range(0, 40, 7):
        now = chosen[start + changed : 200 + start + changed // 2]
        rig.balancer.update(now, weighed(now))
        assert rig.where(CLIENTS[:200]) == Rig(now, weighed(now)).where(CLIENTS[:200])
