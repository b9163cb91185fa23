"""The affinity table by itself: the window, the bound, and what happens when members leave.

Behaviour: row 18 of docs/behaviour.md.
"""

import collections
from typing import TYPE_CHECKING

import pytest

from kproxy.balancer import affinity, member
from kproxy.model import addresses

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR3 = 10800


def new_member(last: int = 1) -> member.Member:
    return member.Member(addresses.SocketAddress(f"10.0.0.{last}", 80))


@pytest.mark.parametrize(
    ("ttl", "elapsed", "holds"),
    [
        pytest.param(HOUR3, 0.0, True, id="at once"),
        pytest.param(HOUR3, 10799.0, True, id="A01: a second before the end"),
        pytest.param(HOUR3, 10799.999, True, id="the floor of the elapsed time counts"),
        pytest.param(HOUR3, 10800.0, False, id="at the end"),
        pytest.param(HOUR3, 10801.0, False, id="A01: a second after the end"),
        pytest.param(1, 0.999, True, id="shortest window, inside"),
        pytest.param(1, 1.0, False, id="shortest window, outside"),
        pytest.param(86400, 86399.9, True, id="longest window, inside"),
        pytest.param(86400, 86400.0, False, id="longest window, outside"),
    ],
)
def test_a_binding_holds_while_whole_seconds_elapsed_are_fewer_than_the_ttl(
    ttl: int, elapsed: float, holds: bool
) -> None:
    assert holds is (int(elapsed) < ttl), "the table must agree with upstream's formula"
    table = affinity.AffinityTable(ttl)
    bound = new_member()
    table.bind("192.0.2.1", bound, 64.0)
    assert table.lookup("192.0.2.1", 64.0 + elapsed) is (bound if holds else None)


def test_every_hit_restarts_the_window() -> None:
    """A02: a client that returns each 10,000 s sticks for 50,000 s and more."""
    table = affinity.AffinityTable(HOUR3)
    bound = new_member()
    table.bind("192.0.2.1", bound, 0.0)
    for now in range(10_000, 60_000, 10_000):
        assert table.lookup("192.0.2.1", float(now)) is bound
    assert table.lookup("192.0.2.1", 50_000.0 + HOUR3) is None


def test_a_miss_does_not_restart_the_window() -> None:
    table = affinity.AffinityTable(10)
    table.bind("192.0.2.1", new_member(), 0.0)
    assert table.lookup("192.0.2.1", 10.0) is None
    assert table.lookup("192.0.2.1", 10.0) is None


def test_an_expired_binding_that_is_still_held_does_not_hold() -> None:
    table = affinity.AffinityTable(10)
    for i in range(20):
        table.bind(f"192.0.2.{i}", new_member(), 0.0)
    assert table.lookup("192.0.2.19", 10.0) is None
    assert table.held > 1


def test_clients_are_bound_independently() -> None:
    table = affinity.AffinityTable(10)
    first, second = new_member(1), new_member(2)
    table.bind("192.0.2.1", first, 0.0)
    table.bind("192.0.2.2", second, 5.0)
    assert table.lookup("192.0.2.3", 5.0) is None
    assert table.lookup("192.0.2.1", 12.0) is None
    assert table.lookup("192.0.2.2", 12.0) is second


def test_binding_again_replaces_the_binding_and_restarts_the_window() -> None:
    table = affinity.AffinityTable(10)
    first, second = new_member(1), new_member(2)
    table.bind("192.0.2.1", first, 0.0)
    table.bind("192.0.2.1", second, 9.0)
    assert table.lookup("192.0.2.1", 18.0) is second
    assert (first.clients, second.clients, len(table)) == (0, 1, 1)


def test_a_shorter_ttl_ends_existing_bindings_at_once() -> None:
    table = affinity.AffinityTable(HOUR3)
    table.bind("192.0.2.1", new_member(), 0.0)
    table.ttl = 10
    assert table.lookup("192.0.2.1", 10.0) is None


def test_a_longer_ttl_prolongs_existing_bindings_at_once() -> None:
    table = affinity.AffinityTable(10)
    bound = new_member()
    table.bind("192.0.2.1", bound, 0.0)
    table.ttl = HOUR3
    assert table.lookup("192.0.2.1", 10_799.0) is bound


class TestDepartedMembers:
    def test_bindings_to_a_departed_member_do_not_hold(self) -> None:
        table = affinity.AffinityTable(HOUR3)
        gone = new_member()
        table.bind("192.0.2.1", gone, 0.0)
        table.retire(gone)
        assert table.lookup("192.0.2.1", 1.0) is None

    def test_they_do_not_revive_when_the_backend_returns(self) -> None:
        """A05: the backend comes back as a new member."""
        table = affinity.AffinityTable(HOUR3)
        gone = new_member(1)
        table.bind("192.0.2.1", gone, 0.0)
        table.retire(gone)
        back = new_member(1)
        assert back.backend == gone.backend
        table.bind("192.0.2.2", back, 1.0)
        assert table.lookup("192.0.2.1", 2.0) is None
        assert table.lookup("192.0.2.2", 2.0) is back

    def test_length_counts_only_bindings_to_members_that_are_there(self) -> None:
        table = affinity.AffinityTable(HOUR3)
        gone, stays = new_member(1), new_member(2)
        for i in range(20):
            table.bind(f"192.0.2.{i}", gone if i % 2 else stays, 0.0)
        table.retire(gone)
        assert len(table) == 10
        table.bind("192.0.2.1", stays, 1.0)
        assert len(table) == 11
        assert stays.clients == 11

    def test_their_entries_are_freed_a_few_per_operation(self) -> None:
        table = affinity.AffinityTable(HOUR3)
        gone, stays = new_member(1), new_member(2)
        for i in range(100):
            table.bind(f"192.0.2.{i}", gone, 0.0)
        table.retire(gone)
        for i in range(100):
            held = table.held
            table.lookup(f"198.51.100.{i}", 1.0)
            assert held - table.held <= affinity.SWEEP
        assert table.held == len(table) == 0
        table.bind("192.0.2.1", stays, 1.0)
        assert len(table) == 1

    def test_room_made_by_dropping_them_is_not_an_eviction(self) -> None:
        table = affinity.AffinityTable(HOUR3, max_clients=10)
        gone, stays = new_member(1), new_member(2)
        for i in range(10):
            table.bind(f"192.0.2.{i}", gone, 0.0)
        table.retire(gone)
        for i in range(10):
            table.bind(f"198.51.100.{i}", stays, 1.0)
        assert (len(table), table.held, table.evicted, table.expired) == (10, 10, 0, 10)


class TestBound:
    def test_the_client_longest_away_goes_first(self) -> None:
        table = affinity.AffinityTable(HOUR3, max_clients=3)
        bound = new_member()
        for now, client in enumerate(["a", "b", "c"]):
            table.bind(client, bound, float(now))
        assert table.lookup("a", 3.0) is bound
        table.bind("d", bound, 4.0)
        assert [client for client in "abcd" if table.lookup(client, 5.0)] == ["a", "c", "d"]
        assert table.evicted == 1
        assert bound.clients == len(table) == 3

    def test_binding_again_counts_as_use(self) -> None:
        table = affinity.AffinityTable(HOUR3, max_clients=2)
        bound = new_member()
        for client in "abac":
            table.bind(client, bound, 0.0)
        assert [client for client in "abc" if table.lookup(client, 0.0)] == ["a", "c"]

    def test_binding_a_known_client_in_a_full_table_evicts_no_client(self) -> None:
        table = affinity.AffinityTable(HOUR3, max_clients=2)
        bound = new_member()
        for client in "abab":
            table.bind(client, bound, 0.0)
        assert (len(table), table.evicted) == (2, 0)

    def test_expired_bindings_make_room_before_good_ones(self) -> None:
        table = affinity.AffinityTable(10, max_clients=3)
        bound = new_member()
        for now, client in ((0.0, "a"), (0.0, "b"), (9.0, "c"), (11.0, "d"), (11.0, "e")):
            table.bind(client, bound, now)
        assert [client for client in "abcde" if table.lookup(client, 12.0)] == ["c", "d", "e"]
        assert (table.evicted, table.expired) == (0, 2)

    def test_there_must_be_room_for_a_client(self) -> None:
        with pytest.raises(ValueError, match="max_clients is 0"):
            affinity.AffinityTable(HOUR3, max_clients=0)

    def test_a_million_clients_stay_within_the_bound_and_evictions_are_counted(self) -> None:
        """A06: memory is bounded, the oldest go first."""
        cap, clients = 65536, 1_000_000
        table = affinity.AffinityTable(HOUR3, max_clients=cap)
        bound = new_member()
        most = 0
        for i in range(clients):
            table.bind(f"{i}", bound, i * 1e-3)
            if table.held > most:
                most = table.held
        assert most == len(table) == bound.clients == cap
        assert table.evicted == clients - cap
        assert table.expired == 0
        assert table.lookup(f"{clients - cap}", clients * 1e-3) is bound
        assert table.lookup(f"{clients - cap - 1}", clients * 1e-3) is None


class CountingMember(member.Member):
    """Counts how often it is asked whether it is alive: once per entry that is looked at."""

    looks = 0
    living = True

    @property
    def alive(self) -> bool:
        type(self).looks += 1
        return self.living

    @alive.setter
    def alive(self, value: bool) -> None:
        self.living = value


class TestNoOperationScans:
    """A06: no pause grows with the table; upstream scanned all of it every 30 s."""

    @pytest.mark.parametrize("size", [100, 10_000])
    @pytest.mark.parametrize(
        "event", ["nothing", "all expired", "shorter ttl", "member left", "full"]
    )
    def test_each_operation_looks_at_a_few_entries_whatever_the_size(
        self, size: int, event: str
    ) -> None:
        table = affinity.AffinityTable(HOUR3, max_clients=size if event == "full" else 2 * size)
        bound = CountingMember(addresses.SocketAddress("10.0.0.1", 80))
        other = CountingMember(addresses.SocketAddress("10.0.0.2", 80))
        for i in range(size):
            table.bind(f"a{i}", bound, i * 1e-3)
        now = size * 1e-3
        operations: list[Callable[[], object]] = [
            lambda: table.bind("b0", other, now),
            lambda: table.lookup("a1", now),
        ]
        if event == "all expired":
            now += HOUR3
        elif event == "shorter ttl":
            operations.insert(0, lambda: setattr(table, "ttl", 1))
        elif event == "member left":
            operations.insert(0, lambda: table.retire(bound))
        for operation in operations * 3:
            before, held = CountingMember.looks, table.held
            operation()
            assert CountingMember.looks - before <= 2 * affinity.SWEEP + 3
            assert held - table.held <= affinity.SWEEP

    def test_operations_free_expired_entries_faster_than_they_add_new_ones(self) -> None:
        table = affinity.AffinityTable(10)
        bound = new_member()
        for i in range(1000):
            table.bind(f"a{i}", bound, 0.0)
        for i in range(1000):
            table.bind(f"b{i}", bound, 10.0)
            assert table.held <= 1000
        assert table.held == len(table) == bound.clients == 1000
        assert table.expired == 1000

    def test_a_shorter_ttl_lets_them_be_freed_sooner(self) -> None:
        table = affinity.AffinityTable(HOUR3)
        bound = new_member()
        for i in range(10):
            table.bind(f"a{i}", bound, 0.0)
        table.lookup("b", 0.0)
        table.ttl = 10
        for _ in range(5):
            table.lookup("b", 10.0)
        assert table.held == len(table) == 0

    def test_hits_free_them_too(self) -> None:
        table = affinity.AffinityTable(10)
        bound = new_member()
        for i in range(100):
            table.bind(f"a{i}", bound, 0.0)
        table.bind("regular", bound, 5.0)
        for _ in range(50):
            assert table.lookup("regular", 12.0) is bound
        assert table.held == len(table) == 1


class TestSweep:
    def test_an_idle_table_can_be_emptied_in_bounded_slices(self) -> None:
        table = affinity.AffinityTable(10)
        bound = new_member()
        for i in range(100):
            table.bind(f"a{i}", bound, float(i >= 70))
        assert table.sweep(10.5, limit=50) == 50
        assert table.sweep(10.5, limit=50) == 20
        assert table.sweep(10.5, limit=50) == 0
        assert table.held == 30
        assert table.sweep(11.0, limit=50) == 30
        assert (table.held, bound.clients) == (0, 0)

    def test_entries_that_come_later_are_swept_when_their_time_comes(self) -> None:
        table = affinity.AffinityTable(10)
        bound = new_member()
        assert table.lookup("a", 0.0) is None
        table.bind("a", bound, 3.0)
        table.bind("b", bound, 8.0)
        assert table.lookup("c", 13.0) is None
        assert table.held == 1
        assert table.lookup("c", 18.0) is None
        assert table.held == 0


class TestBindings:
    def test_it_names_client_backend_and_seconds_left_latest_first(self) -> None:
        table = affinity.AffinityTable(10)
        first, second = new_member(1), new_member(2)
        table.bind("a", first, 0.0)
        table.bind("b", second, 4.0)
        table.bind("c", first, 5.0)
        table.lookup("b", 6.0)
        assert list(table.bindings(7.0, limit=10)) == [
            affinity.Binding("b", second.backend, 9.0),
            affinity.Binding("c", first.backend, 8.0),
            affinity.Binding("a", first.backend, 3.0),
        ]

    @pytest.mark.parametrize(("limit", "clients"), [(0, ""), (1, "d"), (2, "dc"), (9, "dcb")])
    def test_it_is_bounded_and_leaves_out_what_does_not_hold(
        self, limit: int, clients: str
    ) -> None:
        table = affinity.AffinityTable(10)
        gone, stays = new_member(1), new_member(2)
        for now, (client, bound) in enumerate(
            [("a", stays), ("x", gone), ("b", stays), ("c", stays), ("y", gone), ("d", stays)]
        ):
            table.bind(client, bound, float(now))
        table.retire(gone)
        found = table.bindings(10.0, limit)
        assert "".join(binding.client for binding in found) == clients

    def test_each_is_as_it_stands_when_its_turn_comes(self) -> None:
        """Ten thousand take longer than the event loop may be held up."""
        table = affinity.AffinityTable(10)
        stays, gone = new_member(1), new_member(2)
        for client, bound in (("a", stays), ("b", gone), ("c", stays), ("d", stays)):
            table.bind(client, bound, 0.0)
        found = table.bindings(1.0, limit=10)
        assert next(found).client == "d"
        table.bind("e", stays, 1.0)
        table.bind("a", stays, 1.0)
        table.retire(gone)
        assert [(each.client, each.seconds_left) for each in found] == [("c", 9.0), ("a", 10.0)]

    def test_it_changes_nothing(self) -> None:
        table = affinity.AffinityTable(10)
        bound = new_member()
        table.bind("a", bound, 0.0)
        assert len(list(table.bindings(9.0, limit=1))) == 1
        assert table.lookup("a", 10.0) is None


def test_counts_stay_right_through_a_mixed_life() -> None:
    table = affinity.AffinityTable(50, max_clients=20)
    stay = [new_member(i) for i in range(3)]
    for step in range(3000):
        if step % 100 == 99:
            leaving = step // 100 % 3
            table.retire(stay[leaving])
            stay[leaving] = new_member(leaving)
        client = f"c{step * 7919 % 31}"
        if table.lookup(client, step * 0.5) is None:
            table.bind(client, stay[step % 3], step * 0.5)
        shown = collections.Counter(b.backend for b in table.bindings(0.0, limit=100))
        assert len(table) == sum(m.clients for m in stay) == shown.total()
        assert {m.backend: m.clients for m in stay if m.clients} == dict(shown)
