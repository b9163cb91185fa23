"""The balancer of one service port: picks, retries, updates, policies, penalties."""

import collections
import itertools
import random
from collections.abc import Sequence

import pytest

from kproxy.balancer import balancer, penalty
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services

RANDOM = services.Strategy.RANDOM
ROUND_ROBIN = services.Strategy.ROUND_ROBIN
TTL = 10800


def backends(letters: str) -> list[addresses.SocketAddress]:
    return [addresses.SocketAddress(f"10.0.0.{letter}", 80) for letter in letters]


A, B, C, D, E = backends("12345")


class Rig:
    """A balancer with its penalty box, and a clock that only moves when a test moves it."""

    def __init__(
        self,
        members: Sequence[addresses.SocketAddress] = (),
        affinity: int | None = None,
        strategy: services.Strategy = ROUND_ROBIN,
        seed: int = 1,
        max_clients: int = 65536,
    ) -> None:
        self.box = penalty.PenaltyBox()
        self.now = 1000.0
        self.balancer = balancer.ServicePortBalancer(
            forwarding.Policy(strategy, affinity), self.box, random.Random(seed), max_clients
        )
        self.balancer.update(members)

    def pick(self, client: str = "192.0.2.1") -> addresses.SocketAddress:
        chosen = self.balancer.pick(client, self.now)
        assert chosen is not None
        return chosen

    def picks(self, count: int) -> list[addresses.SocketAddress]:
        return [self.pick() for _ in range(count)]

    def repick(
        self, tried: Sequence[addresses.SocketAddress], client: str = "192.0.2.1"
    ) -> addresses.SocketAddress:
        chosen = self.balancer.repick(client, tried, self.now)
        assert chosen is not None
        return chosen

    def fail(self, *failing: addresses.SocketAddress) -> None:
        for backend in failing:
            self.box.fail(backend, self.now)

    def configure(
        self, affinity: int | None = None, strategy: services.Strategy = ROUND_ROBIN
    ) -> None:
        self.balancer.configure(forwarding.Policy(strategy, affinity))


class TestUpstreamRoundRobin:
    """K:us/roundrobin_test.go, case by case; restated where decisions 4, 5 and 6 depart.

    Upstream's unknown service and its error on an empty list are both "no backends" here: None.
    """

    def test_fails_with_no_endpoints(self) -> None:
        """LoadBalanceFailsWithNoEndpoints."""
        rig = Rig()
        assert rig.balancer.pick("192.0.2.1", 0.0) is None
        assert rig.balancer.repick("192.0.2.1", (), 0.0) is None
        assert rig.balancer.has_alternative("10.0.0.9", ()) is False

    def test_works_with_a_single_endpoint(self) -> None:
        """LoadBalanceWorksWithSingleEndpoint."""
        rig = Rig()
        assert rig.balancer.pick("192.0.2.1", 0.0) is None
        rig.balancer.update([A])
        assert rig.picks(4) == [A] * 4

    def test_works_with_multiple_endpoints(self) -> None:
        """LoadBalanceWorksWithMultipleEndpoints: one address, three ports."""
        three = [addresses.SocketAddress("10.0.0.1", port) for port in (1, 2, 3)]
        rig = Rig(three)
        first = rig.picks(3)
        assert sorted(first) == three
        assert first == list(rig.balancer.backends)
        assert rig.picks(3) == first

    def test_ports_rotate_independently(self) -> None:
        """LoadBalanceWorksWithMultipleEndpointsMultiplePorts."""
        p = Rig([addresses.SocketAddress(f"10.0.0.{i}", i) for i in (1, 2, 3)])
        q = Rig([addresses.SocketAddress(f"10.0.0.{i}", i + 1) for i in (1, 2, 3)])
        p_round, q_round = list(p.balancer.backends), list(q.balancer.backends)
        assert p.picks(2) == p_round[:2]
        assert q.picks(4) == [*q_round, q_round[0]]
        assert p.picks(2) == [p_round[2], p_round[0]]

    def test_follows_updates(self) -> None:
        """LoadBalanceWorksWithMultipleEndpointsAndUpdates, restated for decision 6: with no
        endpoint kept, the new ones rotate from the first; upstream's index reset is no more.
        """
        rig = Rig([A, B, C])
        rig.picks(4)
        rig.balancer.update([D, E])
        assert sorted(rig.picks(2)) == [D, E]
        assert rig.picks(2) == list(rig.balancer.backends)
        rig.balancer.update([])
        assert rig.balancer.pick("192.0.2.1", 0.0) is None

    def test_removal_of_one_service_leaves_another_where_it_stood(self) -> None:
        """LoadBalanceWorksWithServiceRemoval, with the penalty box that they share."""
        foo, bar = Rig([A, B, C]), Rig()
        bar.balancer = balancer.ServicePortBalancer(forwarding.Policy(), foo.box, random.Random(7))
        bar.balancer.update([C, D, E])
        order = list(bar.balancer.backends)
        foo.picks(5)
        bar.picks(5)
        foo.balancer.update([])
        assert foo.balancer.pick("192.0.2.1", 0.0) is None
        assert bar.picks(4) == [order[2], order[0], order[1], order[2]]


class TestUpstreamStickiness:
    """K:us/roundrobin_test.go, the session affinity cases."""

    @pytest.mark.parametrize(
        ("count", "policy_first"),
        [
            pytest.param(3, True, id="StickyLoadBalanceWorksWithNewServiceCalledFirst"),
            pytest.param(2, False, id="StickyLoadBalanceWorksWithNewServiceCalledSecond"),
        ],
    )
    def test_each_client_keeps_its_first_pick(self, *, count: int, policy_first: bool) -> None:
        rig = Rig(affinity=TTL if policy_first else None)
        rig.balancer.update([A, B, C][:count])
        rig.configure(affinity=TTL)
        clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        first = [rig.pick(client) for client in clients]
        assert len(set(first)) == count
        for order in ([0, 0, 1, 1, 2, 2], [2, 0, 1, 0, 2, 1]):
            assert [rig.pick(clients[i]) for i in order] == [first[i] for i in order]

    def test_only_the_client_of_a_removed_endpoint_moves(self) -> None:
        """StickyLoadBalanceWorksWithMultipleEndpointsRemoveOne, restated for decision 6: the
        rotation goes on where it was, and a new endpoint's turn comes last.
        """
        rig = Rig([A, B, C], affinity=TTL)
        first, second, third = rig.balancer.backends
        assert [rig.pick(f"192.0.2.{i}") for i in (1, 2, 3)] == [first, second, third]
        rig.balancer.update([first, second])
        assert [rig.pick(f"192.0.2.{i}") for i in (1, 2, 3)] == [first, second, first]
        rig.balancer.update([first, second, D])
        assert [rig.pick(f"192.0.2.{i}") for i in (1, 2, 3)] == [first, second, first]
        assert [rig.pick(f"192.0.2.{i}") for i in (4, 5, 6)] == [second, first, D]

    def test_clients_are_bound_anew_when_every_endpoint_is_replaced(self) -> None:
        """StickyLoadBalanceWorksWithMultipleEndpointsAndUpdates, restated for decision 6."""
        rig = Rig([A, B, C], affinity=TTL)
        for i in (1, 2, 3):
            rig.pick(f"192.0.2.{i}")
        rig.balancer.update([D, E])
        first, second = rig.balancer.backends
        assert [rig.pick(f"192.0.2.{i}") for i in (1, 2, 1, 2)] == [first, second, first, second]
        rig.balancer.update([])
        assert rig.balancer.pick("192.0.2.1", rig.now) is None

    def test_removal_of_one_service_leaves_the_bindings_of_another(self) -> None:
        """StickyLoadBalanceWorksWithServiceRemoval."""
        foo, bar = Rig([A, B, C], affinity=TTL), Rig([A, B], affinity=TTL)
        clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        for client in clients:
            foo.pick(client)
        bound = [bar.pick(client) for client in clients]
        foo.balancer.update([])
        assert foo.balancer.pick(clients[0], foo.now) is None
        assert [bar.pick(client) for client in clients[::-1]] == bound[::-1]

    def test_a_reset_moves_one_client_along_the_one_shared_rotation(self) -> None:
        """StickyLoadBalanceWorksWithEndpointFails, restated for decision 5: a reset never gives
        the endpoint that has just failed. Without a penalty box: nothing is boxed here.
        """
        rig = Rig([A, B, C], affinity=TTL)
        first, second, third = rig.balancer.backends
        assert [rig.pick(f"192.0.2.{i}") for i in (1, 2, 3)] == [first, second, third]
        assert rig.repick([first], "192.0.2.1") == second
        assert rig.repick([first, second], "192.0.2.1") == third
        assert rig.pick("192.0.2.2") == second
        assert rig.repick([first, second, third], "192.0.2.1") == first
        assert rig.pick("192.0.2.1") == first
        assert rig.repick([second], "192.0.2.2") == third
        assert rig.repick([third], "192.0.2.3") == first
        assert rig.pick("192.0.2.2") == third


class TestPick:
    def test_an_affinity_hit_does_not_move_the_rotation(self) -> None:
        """Section 2, item 4."""
        rig = Rig([A, B, C], affinity=TTL)
        first, second, third = rig.balancer.backends
        assert [rig.pick("192.0.2.1") for _ in range(5)] == [first] * 5
        assert [rig.pick("192.0.2.2"), rig.pick("192.0.2.3")] == [second, third]

    def test_an_expired_binding_is_replaced_by_the_next_in_rotation(self) -> None:
        """Section 2, item 5, and A01."""
        rig = Rig([A, B], affinity=TTL)
        first, second = rig.balancer.backends
        assert rig.pick() == first
        rig.now += 10799
        assert rig.pick() == first
        rig.now += 10801
        assert rig.pick() == second
        rig.now += 10799
        assert rig.pick() == second

    def test_ten_thousand_connections_behind_one_address_go_to_one_backend(self) -> None:
        """A10."""
        rig = Rig([A, B, C], affinity=TTL)
        assert len({rig.pick() for _ in range(10_000)}) == 1
        assert rig.balancer.affinity_table is not None
        assert len(rig.balancer.affinity_table) == 1

    def test_a_new_balancer_knows_no_client(self) -> None:
        """A09: a restart loses affinity."""
        rig = Rig([A, B], affinity=TTL)
        assert rig.balancer.affinity_table is not None
        assert rig.balancer.affinity_table.held == 0

    def test_the_affinity_table_is_bounded(self) -> None:
        rig = Rig([A, B, C], affinity=TTL, max_clients=2)
        clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        bound = [rig.pick(client) for client in clients]
        assert rig.pick(clients[1]) == bound[1]
        assert rig.pick(clients[2]) == bound[2]
        assert rig.balancer.affinity_table is not None
        assert rig.balancer.affinity_table.evicted == 1

    def test_random_gives_every_backend_its_share(self) -> None:
        rig = Rig([A, B, C], strategy=RANDOM, seed=11)
        shares = collections.Counter(rig.picks(3000))
        assert sum((n - 1000) ** 2 / 1000 for n in shares.values()) < 13.82
        assert set(shares) == {A, B, C}

    def test_random_honours_affinity(self) -> None:
        rig = Rig([A, B, C], strategy=RANDOM, affinity=TTL)
        bound = {f"192.0.2.{i}": rig.pick(f"192.0.2.{i}") for i in range(50)}
        assert set(bound.values()) == {A, B, C}
        assert all(rig.pick(client) == backend for client, backend in bound.items())


class TestUpdate:
    """Decision 6: what does not change stays as it was."""

    @pytest.mark.parametrize("picked", [0, 1, 2, 3, 4])
    @pytest.mark.parametrize(
        ("removed", "added"),
        [
            pytest.param([0], [], id="first removed"),
            pytest.param([1], [], id="second removed"),
            pytest.param([0, 1, 3], [], id="one kept"),
            pytest.param([], [D, E], id="two added"),
            pytest.param([2], [E], id="one exchanged"),
            pytest.param([0, 1], [D, E], id="two exchanged"),
        ],
    )
    def test_kept_backends_keep_order_and_turn_and_new_ones_come_last(
        self, picked: int, removed: list[int], added: list[addresses.SocketAddress]
    ) -> None:
        rig = Rig(backends("6789"))
        order = list(rig.balancer.backends)
        rig.picks(picked)
        upcoming = order[picked % 4 :] + order[: picked % 4]
        kept = [b for b in upcoming if order.index(b) not in removed]
        rig.balancer.update(sorted(kept) + added)
        rotation = rig.picks(len(kept) + len(added))
        assert rotation[: len(kept)] == kept
        assert sorted(rotation[len(kept) :]) == sorted(added)
        assert rig.picks(len(rotation)) == rotation

    def test_an_equal_set_changes_nothing(self) -> None:
        """Section 2, item 10."""
        rig = Rig([A, B, C, D], affinity=TTL)
        order = rig.balancer.backends
        bound = rig.pick("192.0.2.1")
        rig.balancer.update([D, C, B, A, A])
        assert rig.balancer.backends == order
        assert rig.pick("192.0.2.1") == bound
        assert [rig.pick(f"192.0.2.{i}") for i in (2, 3, 4, 5)] == [*order[1:], order[0]]

    def test_duplicates_count_once(self) -> None:
        rig = Rig([A, B, A, A])
        assert sorted(rig.picks(4)) == [A, A, B, B]

    def test_the_list_is_shuffled_at_first_sight(self) -> None:
        """Section 2, items 9 and 17: a fresh uniform permutation for each balancer."""
        orders = collections.Counter(
            Rig([A, B, C], seed=seed).balancer.backends for seed in range(600)
        )
        assert len(orders) == 6
        assert sum((n - 100) ** 2 / 100 for n in orders.values()) < 20.52

    def test_later_arrivals_are_shuffled_too(self) -> None:
        orders = set()
        for seed in range(50):
            rig = Rig([A], seed=seed)
            rig.balancer.update([A, B, C, D])
            assert rig.pick() == A
            orders.add(tuple(rig.picks(3)))
        assert len(orders) == 6

    def test_bindings_survive_unless_their_endpoint_leaves(self) -> None:
        """A03 and A05: the client moves at once, sticks, and does not go back."""
        rig = Rig([A, B, C], affinity=TTL)
        bound = {f"192.0.2.{i}": rig.pick(f"192.0.2.{i}") for i in range(6)}
        rig.balancer.update([A, B])
        moved = {client: rig.pick(client) for client in bound}
        assert all(moved[client] == bound[client] for client in bound if bound[client] != C)
        assert C not in moved.values()
        rig.balancer.update([A, B, C])
        assert {client: rig.pick(client) for client in bound} == moved

    def test_a_backend_that_leaves_and_returns_gets_none_of_its_clients_back(self) -> None:
        """A05, for a client that did not connect in between."""
        rig = Rig([A, B], affinity=TTL)
        clients = [f"192.0.2.{i}" for i in range(10)]
        of_b = [client for client in clients if rig.pick(client) == B]
        rig.balancer.update([A])
        rig.balancer.update([A, B])
        table = rig.balancer.affinity_table
        assert table is not None
        assert len(table) == len(clients) - len(of_b)
        assert {rig.pick(client) for client in of_b} == {A, B}

    def test_emptying_the_set_voids_every_binding(self) -> None:
        """Section 2, items 11 and 12."""
        rig = Rig([A, B], affinity=TTL)
        rig.pick()
        rig.balancer.update([])
        assert rig.balancer.affinity_table is not None
        assert len(rig.balancer.affinity_table) == 0
        rig.balancer.update([A, B])
        assert len(rig.balancer.affinity_table) == 0

    def test_each_port_of_a_service_gets_an_order_of_its_own(self) -> None:
        """Section 2, item 17: ports share the source of randomness, not the permutation."""
        box, rng = penalty.PenaltyBox(), random.Random(1)
        orders = set()
        for _ in range(5):
            port = balancer.ServicePortBalancer(forwarding.Policy(), box, rng)
            port.update(backends("123456789"))
            orders.add(port.backends)
        assert len(orders) == 5

    def test_a_backend_that_is_boxed_already_is_avoided_from_the_start(self) -> None:
        rig = Rig([A])
        rig.fail(A)
        other = balancer.ServicePortBalancer(forwarding.Policy(), rig.box, random.Random(1))
        other.update([A, B])
        assert {other.pick("192.0.2.1", rig.now) for _ in range(4)} == {B}


class TestConfigure:
    """Changes of policy take effect on the next connection (row 19; section 2, item 8)."""

    @pytest.mark.parametrize("seconds", [5, 3600])
    def test_a_changed_window_applies_to_existing_bindings_at_once(self, seconds: int) -> None:
        """A07; upstream never updated it."""
        rig = Rig([A, B], affinity=60)
        first, second = rig.balancer.backends
        assert rig.pick() == first
        rig.configure(affinity=seconds)
        rig.now += seconds - 1
        assert rig.pick() == first
        rig.now += seconds
        assert rig.pick() == second

    def test_affinity_off_rotates_at_once_and_frees_the_table(self) -> None:
        rig = Rig([A, B], affinity=TTL)
        rig.picks(3)
        rig.configure(affinity=None)
        assert rig.balancer.affinity_table is None
        assert sorted(rig.picks(2)) == [A, B]

    def test_affinity_on_again_starts_with_an_empty_table(self) -> None:
        rig = Rig([A, B], affinity=TTL)
        first, second = rig.balancer.backends
        assert rig.pick() == first
        rig.configure(affinity=None)
        rig.configure(affinity=TTL)
        table = rig.balancer.affinity_table
        assert table is not None
        assert len(table) == 0
        assert rig.picks(2) == [second, second]
        rig.balancer.update([first])
        assert len(table) == 0

    def test_a_new_strategy_keeps_the_bindings_and_the_rotation(self) -> None:
        rig = Rig([A, B, C], affinity=TTL)
        bound = {f"192.0.2.{i}": rig.pick(f"192.0.2.{i}") for i in range(4)}
        rig.configure(affinity=TTL, strategy=RANDOM)
        assert {client: rig.pick(client) for client in bound} == bound
        assert rig.balancer.policy == forwarding.Policy(RANDOM, TTL)
        rig.configure(affinity=TTL, strategy=ROUND_ROBIN)
        assert {client: rig.pick(client) for client in bound} == bound
        assert len({rig.pick(f"198.51.100.{i}") for i in range(3)}) == 3

    def test_a_new_strategy_decides_the_next_pick(self) -> None:
        rig = Rig([A, B, C])
        rig.configure(strategy=RANDOM)
        drawn = rig.picks(300)
        assert any(before == after for before, after in itertools.pairwise(drawn))
        rig.configure(strategy=ROUND_ROBIN)
        assert len(set(rig.picks(3))) == 3

    def test_an_unchanged_policy_changes_nothing(self) -> None:
        rig = Rig([A, B, C])
        order = rig.balancer.backends
        rig.pick()
        rig.configure()
        assert rig.picks(2) == list(order[1:])

    def test_a_strategy_can_change_without_backends(self) -> None:
        rig = Rig()
        rig.configure(strategy=RANDOM)
        assert rig.balancer.pick("192.0.2.1", 0.0) is None


class TestPenalties:
    def test_a_boxed_backend_is_not_picked_until_it_is_freed(self) -> None:
        rig = Rig([A, B, C])
        rig.fail(B)
        assert set(rig.picks(30)) == {A, C}
        assert set(rig.balancer.active) == {A, C}
        rig.now += 1000
        assert set(rig.picks(30)) == {A, C}
        rig.box.succeed(B)
        assert set(rig.picks(3)) == {A, B, C}

    @pytest.mark.parametrize("strategy", [ROUND_ROBIN, RANDOM])
    def test_penalties_are_ignored_when_everything_is_boxed(
        self, strategy: services.Strategy
    ) -> None:
        rig = Rig([A, B, C], strategy=strategy)
        rig.fail(A, B, C)
        assert set(rig.picks(60)) == {A, B, C}
        rig.box.succeed(C)
        assert set(rig.picks(60)) == {C}

    @pytest.mark.parametrize("picked", [0, 1, 2, 3])
    @pytest.mark.parametrize("boxed", [0, 1, 2, 3])
    def test_the_rotation_goes_on_where_it_was(self, picked: int, boxed: int) -> None:
        rig = Rig(backends("6789"))
        order = list(rig.balancer.backends)
        rig.picks(picked)
        upcoming = order[picked:] + order[:picked]
        rig.fail(order[boxed])
        left = [b for b in upcoming if b != order[boxed]]
        assert rig.picks(6) == left * 2
        rig.box.succeed(order[boxed])
        turn = order.index(left[0])
        assert rig.picks(4) == order[turn:] + order[:turn]

    def test_a_client_bound_to_a_boxed_backend_moves_at_once_and_stays(self) -> None:
        """A04: no client pays for an endpoint that is known to be dead."""
        rig = Rig([A, B], affinity=TTL)
        first, second = rig.balancer.backends
        assert rig.pick() == first
        rig.fail(first)
        assert rig.pick() == second
        rig.box.succeed(first)
        assert rig.pick() == second

    def test_a_client_keeps_its_boxed_backend_when_everything_is_boxed(self) -> None:
        rig = Rig([A, B], affinity=TTL)
        bound = rig.pick()
        rig.fail(A, B)
        assert rig.picks(3) == [bound] * 3

    def test_a_backend_that_leaves_takes_its_penalty_along(self) -> None:
        rig = Rig([A, B])
        rig.fail(A)
        rig.balancer.update([B])
        assert not rig.box
        rig.balancer.update([A, B])
        assert set(rig.picks(2)) == {A, B}

    def test_a_penalty_outlives_a_balancer_that_shares_it(self) -> None:
        rig = Rig([A, B])
        other = balancer.ServicePortBalancer(forwarding.Policy(), rig.box, random.Random(1))
        other.update([A])
        rig.fail(A)
        rig.balancer.update([B])
        assert A in rig.box
        other.close()
        assert not rig.box


class TestRepick:
    def test_backends_are_tried_in_rotation_order_and_none_twice_before_all_were(self) -> None:
        """D11."""
        rig = Rig([A, B, C, D])
        order = list(rig.balancer.backends)
        tried = [rig.pick()]
        while len(tried) < 4:
            tried.append(rig.repick(tried))
        assert tried == order
        assert rig.repick(tried) == order[0]

    @pytest.mark.parametrize("strategy", [ROUND_ROBIN, RANDOM])
    @pytest.mark.parametrize("seed", range(10))
    def test_untried_ones_first_with_every_failure_boxed(
        self, seed: int, strategy: services.Strategy
    ) -> None:
        """D11 as the data path does it: what failed is boxed before the next choice."""
        rig = Rig([A, B, C], strategy=strategy, seed=seed)
        tried = [rig.pick()]
        for _ in range(2):
            rig.fail(tried[-1])
            tried.append(rig.repick(tried))
        assert sorted(tried) == [A, B, C]
        rig.fail(tried[-1])
        assert rig.repick(tried) in {A, B, C}

    @pytest.mark.parametrize("strategy", [ROUND_ROBIN, RANDOM])
    @pytest.mark.parametrize("seed", range(10))
    def test_free_ones_first_then_boxed_ones_then_tried_ones(
        self, seed: int, strategy: services.Strategy
    ) -> None:
        rig = Rig([A, B, C, D], strategy=strategy, seed=seed)
        rig.fail(C, D)
        assert rig.repick([A]) == B
        assert rig.repick([B]) == A
        assert rig.repick([A, B]) in {C, D}
        assert rig.repick([A, B, C]) == D
        assert rig.repick([A, B, C, D]) in {A, B}

    def test_a_service_of_one_endpoint_gets_it_again(self) -> None:
        """Section 2, item 6: the same one is tried while rungs are left."""
        rig = Rig([A], affinity=TTL)
        assert rig.pick() == A
        for tried in ([A], [A, A], [A, A, A]):
            rig.fail(A)
            assert rig.repick(tried) == A

    @pytest.mark.parametrize("strategy", [ROUND_ROBIN, RANDOM])
    def test_a_retry_among_many_is_spread_over_all_of_them(
        self, strategy: services.Strategy
    ) -> None:
        rig = Rig([A, B, C, D], strategy=strategy)
        shares = collections.Counter(rig.repick([A]) for _ in range(3000))
        assert set(shares) == {B, C, D}
        assert min(shares.values()) > 600

    def test_it_binds_the_client_to_its_choice(self) -> None:
        """Decision 4: a dial failure re-binds, and the client sticks to the new one."""
        rig = Rig([A, B, C], affinity=TTL)
        bound = rig.pick()
        moved = rig.repick([bound])
        assert moved != bound
        rig.now += TTL - 1
        assert rig.picks(3) == [moved] * 3

    def test_backends_that_left_while_they_were_dialled_do_not_come_back(self) -> None:
        """D09: the next try never picks the removed endpoint."""
        rig = Rig([A, B])
        rig.balancer.update([B, C])
        rig.fail(A)
        assert not rig.box
        assert {rig.repick([A]) for _ in range(10)} == {B, C}
        assert rig.repick([A, B]) == C
        assert rig.repick([A, B, C]) in {B, C}

    def test_nothing_is_left_when_the_service_went_away(self) -> None:
        """D10."""
        rig = Rig([A, B], affinity=TTL)
        rig.balancer.update([])
        assert rig.balancer.repick("192.0.2.1", [A], rig.now) is None


@pytest.mark.parametrize(
    ("boxed", "tried", "expected"),
    [
        pytest.param([], [], True, id="nothing tried"),
        pytest.param([], [A], True, id="others left"),
        pytest.param([], [A, B, C], False, id="all tried"),
        pytest.param([B, C], [A], False, id="others boxed"),
        pytest.param([C], [A], True, id="one free and untried"),
        pytest.param([A, B, C], [], False, id="all boxed: moving on cannot help"),
        pytest.param([A], [A, A, A, A], True, id="repeats in tried do not count"),
        pytest.param([], [D, E, A], True, id="strangers in tried do not count"),
    ],
)
def test_an_alternative_is_a_backend_neither_tried_nor_boxed(
    boxed: list[addresses.SocketAddress], tried: list[addresses.SocketAddress], *, expected: bool
) -> None:
    rig = Rig([A, B, C])
    rig.fail(*boxed)
    assert rig.balancer.has_alternative("10.0.0.9", tried) is expected


class TestClose:
    def test_a_closed_balancer_has_no_backends_and_no_subscriptions(self) -> None:
        rig = Rig([A, B], affinity=TTL)
        rig.pick()
        rig.fail(A)
        rig.balancer.close()
        assert rig.balancer.pick("192.0.2.1", rig.now) is None
        assert rig.balancer.backends == rig.balancer.active == ()
        assert rig.balancer.affinity_table is None
        assert not rig.box
        assert rig.box.fail(A, rig.now) is False

    def test_closing_twice_is_closing_once(self) -> None:
        rig = Rig([A])
        rig.balancer.close()
        rig.balancer.close()
        assert rig.balancer.backends == ()


class TestOwnAddresses:
    """A backend on which kproxy itself listens is never given to a client."""

    @pytest.mark.parametrize("strategy", [ROUND_ROBIN, RANDOM])
    @pytest.mark.parametrize("is_barred_first", [False, True])
    def test_it_is_passed_over(self, strategy: services.Strategy, *, is_barred_first: bool) -> None:
        rig = Rig(strategy=strategy)
        if is_barred_first:
            rig.box.bar(B, "default/db")
        rig.balancer.update([A, B, C])
        rig.box.bar(B, "default/db")
        assert set(rig.picks(20)) == {A, C}
        assert {rig.repick([A, C]), rig.repick([A])} <= {A, C}
        assert not rig.balancer.is_free(B)
        rig.fail(A, C)
        assert set(rig.picks(20)) == {A, C}, "not even when every other one is boxed"
        assert not rig.balancer.has_alternative("10.0.0.9", [A, C])

    def test_with_nothing_else_there_is_no_backend(self) -> None:
        rig = Rig([A], affinity=TTL)
        assert rig.pick() == A
        rig.box.bar(A, "default/db")
        assert rig.balancer.pick("192.0.2.1", rig.now) is None
        assert rig.balancer.repick("192.0.2.1", [], rig.now) is None
        assert rig.balancer.active == ()
        assert rig.balancer.backends == (A,)
        rig.box.unbar(A)
        assert rig.pick() == A

    def test_a_client_that_is_bound_to_it_moves(self) -> None:
        rig = Rig([A, B], affinity=TTL)
        first = rig.pick()
        rig.box.bar(first, "default/db")
        other = B if first == A else A
        rig.fail(other)
        assert rig.pick() == other

    def test_it_is_reported_once_for_each_stay(self) -> None:
        reported: list[addresses.SocketAddress] = []
        box = penalty.PenaltyBox()
        made = balancer.ServicePortBalancer(
            forwarding.Policy(), box, random.Random(1), on_barred=reported.extend
        )
        box.bar(A, "default/db")
        made.update([A, B])
        made.update([A, B, C])
        box.bar(B, "kproxy's healthz")
        box.bar(B, "kproxy's healthz")
        assert reported == [A, B]
        made.update([C])
        made.update([A, C])
        assert reported == [A, B, A]
