"""Any interleaving of picks, retries, updates, policies, failures and time, against a model."""

import collections
import dataclasses
import fractions
import random
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from kproxy.balancer import balancer, loads, penalty, selecting
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services

BACKENDS = [addresses.SocketAddress(f"10.0.0.{i}", 80) for i in range(1, 6)]
WEIGHTS = [0, 1, 2, 9]
CLIENTS = [f"192.0.2.{i}" for i in range(1, 7)]
MAX_CLIENTS = 4


@dataclasses.dataclass
class Bound:
    """What the model knows of a client: a plain record, looked through in full each time."""

    backend: addresses.SocketAddress
    used: float
    lapsed: bool = False
    """Outlived a window once. Under a longer one it may hold again, or have been removed."""
    gone: bool = False
    """Its backend left once: it never holds again, but takes up room for a while."""


class BalancerMachine(stateful.RuleBasedStateMachine):
    """One balancer beside a naive model of what it must do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.policy = forwarding.Policy()
        self.box = penalty.PenaltyBox()
        self.present: set[addresses.SocketAddress] = set()
        self.boxed: set[addresses.SocketAddress] = set()
        self.bound: dict[str, Bound] = {}  # the most recently used last
        self.shares: collections.Counter[addresses.SocketAddress] = collections.Counter()
        self.weights: dict[addresses.SocketAddress, int] = {}
        self.counted = loads.Loads()
        self.balancer = balancer.ServicePortBalancer(
            self.policy, self.box, random.Random(5), MAX_CLIENTS, counted=self.counted
        )
        self.connections: list[tuple[addresses.SocketAddress, loads.Load]] = []

    # What the model says.

    def usable(self) -> set[addresses.SocketAddress]:
        return {each for each in self.present if self.weights.get(each, 1)}

    def active(self) -> set[addresses.SocketAddress]:
        return (self.usable() - self.boxed) or self.usable()

    def load(self, backend: addresses.SocketAddress) -> fractions.Fraction:
        """What `backend` would have with one connection more, for its weight."""
        count = sum(at == backend for at, _ in self.connections)
        return fractions.Fraction(count + 1, self.weights.get(backend, 1))

    def holds(self, client: str) -> bool:
        """Whether `client` must get the backend that it had."""
        bound = self.bound.get(client)
        recent = list(self.bound)[-MAX_CLIENTS:]
        return (
            bound is not None
            and client in recent
            and not bound.lapsed
            and not bound.gone
            and bound.backend in self.active()
        )

    def may_hold(self, client: str) -> bool:
        bound = self.bound.get(client)
        ttl = self.policy.affinity_seconds
        return (
            bound is not None
            and ttl is not None
            and not bound.gone
            and int(self.now - bound.used) < ttl
            and bound.backend in self.active()
        )

    def note(self, client: str, backend: addresses.SocketAddress) -> None:
        if self.policy.affinity_seconds is not None:
            self.bound.pop(client, None)
            self.bound[client] = Bound(backend, self.now)

    def expire(self) -> None:
        ttl = self.policy.affinity_seconds
        for bound in self.bound.values():
            bound.lapsed |= ttl is not None and int(self.now - bound.used) >= ttl

    # What happens.

    @stateful.initialize(members=st.lists(st.sampled_from(BACKENDS), unique=True))
    def start(self, members: list[addresses.SocketAddress]) -> None:
        self.update(members)

    @stateful.rule(client=st.sampled_from(CLIENTS))
    def pick(self, client: str) -> None:
        picked = self.balancer.pick(client, self.now)
        if not self.usable():
            assert picked is None
            return
        assert picked in self.active()
        if self.holds(client):
            assert picked == self.bound[client].backend
        elif self.may_hold(client):
            self.shares.clear()
        else:
            self.shares[picked] += 1
            if self.policy.strategy is services.Strategy.LEAST_CONNECTIONS:
                assert self.load(picked) == min(map(self.load, self.active()))
        self.note(client, picked)
        self.connections.append((picked, self.counted.moved(None, picked)))

    @stateful.precondition(lambda self: self.connections)
    @stateful.rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A connection ends."""
        self.connections.pop(data.draw(st.integers(0, len(self.connections) - 1)))[1].leave()

    @stateful.rule(
        client=st.sampled_from(CLIENTS), tried=st.lists(st.sampled_from(BACKENDS), max_size=5)
    )
    def repick(self, client: str, tried: list[addresses.SocketAddress]) -> None:
        free = self.usable() - self.boxed
        assert self.balancer.has_alternative(client, tried) is bool(free - set(tried))
        picked = self.balancer.repick(client, tried, self.now)
        if not self.usable():
            assert picked is None
            return
        untried = self.usable() - set(tried)
        assert picked in ((untried & free) or untried or self.active())
        self.shares.clear()
        self.note(client, picked)

    @stateful.rule(
        members=st.lists(st.sampled_from(BACKENDS)),
        weights=st.none() | st.dictionaries(st.sampled_from(BACKENDS), st.sampled_from(WEIGHTS)),
    )
    def update(
        self,
        members: Sequence[addresses.SocketAddress],
        weights: dict[addresses.SocketAddress, int] | None = None,
    ) -> None:
        self.weights = weights or {}
        self.shares.clear()
        given = [] if weights is None else [weights.get(each, 1) for each in members]
        self.balancer.update(members, given)
        self.present = set(members)
        self.boxed &= self.present
        for bound in self.bound.values():
            bound.gone |= bound.backend not in self.present

    @stateful.rule(backend=st.sampled_from(BACKENDS))
    def fail(self, backend: addresses.SocketAddress) -> None:
        newly = backend in self.present - self.boxed
        assert self.box.fail(backend, self.now) is newly
        if newly:
            self.boxed.add(backend)
            self.shares.clear()

    @stateful.rule(backend=st.sampled_from(BACKENDS))
    def succeed(self, backend: addresses.SocketAddress) -> None:
        self.box.succeed(backend)
        if backend in self.boxed:
            self.boxed.discard(backend)
            self.shares.clear()

    @stateful.rule()
    def fail_every_due_probe(self) -> None:
        for backend in self.box.due_probes(self.now):
            self.box.probe_started(backend)
            assert self.box.fail(backend, self.now) is False

    @stateful.rule(seconds=st.sampled_from([0.25, 1.0, 4.5, 10.0, 11.0, 60.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        self.expire()

    @stateful.rule(
        strategy=st.sampled_from(services.Strategy),
        seconds=st.sampled_from([None, 1, 10, 11, 60]),
        together=st.booleans(),
    )
    def configure(
        self, strategy: services.Strategy, seconds: int | None, *, together: bool
    ) -> None:
        if strategy is not self.policy.strategy:
            self.shares.clear()
        self.policy = forwarding.Policy(strategy, seconds)
        self.configure_by(self.policy, together=together)
        if seconds is None:
            self.bound.clear()
        self.expire()

    def configure_by(self, policy: forwarding.Policy, *, together: bool) -> None:
        """By itself, or together with the set as it is."""
        if not together:
            self.balancer.configure(policy)
            return
        members = list(self.present)
        weights = [self.weights.get(each, 1) for each in members]
        self.balancer.update(members, weights, policy)

    # What is always so.

    @stateful.invariant()
    def the_sets_are_as_the_model_says(self) -> None:
        assert set(self.balancer.backends) == self.present
        assert len(self.balancer.backends) == len(self.present)
        assert set(self.balancer.active) == self.active()
        assert {p.backend for p in self.box.snapshot()} == self.boxed
        assert bool(self.box) is bool(self.boxed)

    @stateful.invariant()
    def round_robin_shares_are_at_most_one_apart(self) -> None:
        weights = {self.weights.get(each, 1) for each in self.active()}
        if self.policy.strategy is services.Strategy.ROUND_ROBIN and len(weights) == 1:
            shares = [self.shares[backend] for backend in self.active()]
            assert max(shares) - min(shares) <= 1

    @stateful.invariant()
    def loads_are_the_open_connections(self) -> None:
        counts = collections.Counter(at for at, _ in self.connections)
        assert {each: self.counted.of(each).count for each in BACKENDS} == {
            each: counts[each] for each in BACKENDS
        }

    @stateful.invariant()
    def source_hash_sends_every_client_where_a_fresh_start_would(self) -> None:
        if (
            self.policy.strategy is not services.Strategy.SOURCE_HASH
            or self.policy.affinity_seconds is not None
        ):
            return
        fresh = balancer.ServicePortBalancer(
            self.policy, penalty.PenaltyBox(), random.Random(6), MAX_CLIENTS
        )
        active = sorted(self.active())
        fresh.update(active, [self.weights.get(each, 1) for each in active])
        for client in CLIENTS:
            assert self.balancer.pick(client, self.now) == fresh.pick(client, self.now)
        fresh.close()

    @stateful.invariant()
    def the_affinity_table_is_bounded_and_names_only_what_is_there(self) -> None:
        table = self.balancer.affinity_table
        assert (table is None) is (self.policy.affinity_seconds is None)
        if table is not None:
            shown = list(table.bindings(self.now, limit=100))
            assert len(shown) <= len(table) <= table.held <= MAX_CLIENTS
            assert {binding.backend for binding in shown} <= self.present
            assert all(binding.seconds_left > 0 for binding in shown)

    @stateful.invariant()
    def every_boxed_backend_has_a_probe_to_come(self) -> None:
        due = self.box.next_due()
        assert (due is None) is (not self.boxed)
        assert all(p.until <= self.now + penalty.LONGEST_PENALTY for p in self.box.snapshot())

    def teardown(self) -> None:
        self.balancer.close()
        assert not self.box
        assert self.box.next_due() is None


class LargeSetsMachine(BalancerMachine):
    """The same, where every set counts as a large one: replaced in steps, boxed ones skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(selecting, "FEW", 0)
        self.patched.setattr(balancer, "_STEP", 1)

    def teardown(self) -> None:
        super().teardown()
        self.patched.undo()


SETTINGS = hypothesis.settings(
    max_examples=120, stateful_step_count=50, deadline=None, derandomize=True, database=None
)
TestBalancerMachine = BalancerMachine.TestCase
TestBalancerMachine.settings = SETTINGS
TestLargeSetsMachine = LargeSetsMachine.TestCase
TestLargeSetsMachine.settings = SETTINGS
