"""Choose a backend for each connection of one service port: rotation, affinity, penalties.

The rules are those of kube-proxy's userspace balancer (`roundrobin.go`, docs/behaviour.md
section 2) with three departures: an endpoint update keeps the rotation where it was
(decision 6), a change of the affinity window takes effect at once (decision 4), and a retry
goes to an endpoint that this client has not tried yet (decision 5).
"""

import functools
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, KeysView, Sequence
from typing import TypeAlias

from kproxy.balancer import affinity, loads, member, penalty, selecting, strategies
from kproxy.model import addresses, forwarding, steps
from kproxy.model.kinds import services

_STEP = 500
"""Backends dealt with in one step of an update: some 0.5 ms."""

_Policy: TypeAlias = forwarding.Policy
_Weights: TypeAlias = dict[addresses.SocketAddress, int]
_Reweighed: TypeAlias = list[tuple[member.Member, int]]
"""Members with the weight that they are to have."""


class ServicePortBalancer:
    """The balancer of one service port, for one scope. Satisfies `penalty.Watcher`.

    The *rotation* is every backend of the set, in an order shuffled at first sight. Picks go
    over the *active* ones: those outside the penalty box, or all of them when all are boxed, but
    never those that are kproxy's own addresses, nor those of weight 0. When the set, a weight, the
    strategy or a penalty changes, the next pick makes the active list anew, beginning with the
    backend whose turn it was: many changes at once cost no more than one.

    Subscribes to `box` for each of its backends; `close` ends that. `on_barred` is called with
    the backends found to be kproxy's own addresses, once for each stay of a backend in the set.
    `counted` holds the connections of the service port, for strategies that go by them.
    """

    __slots__ = (
        "_active",
        "_affinity",
        "_box",
        "_choose",
        "_free",
        "_is_stale",
        "_is_turn_taken",
        "_loads",
        "_max_clients",
        "_members",
        "_on_barred",
        "_policy",
        "_prepared",
        "_rng",
        "_rotation",
        "_selection",
        "_weights",
    )

    def __init__(
        self,
        policy: forwarding.Policy,
        box: penalty.PenaltyBox,
        rng: random.Random,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
        on_barred: Callable[[Sequence[addresses.SocketAddress]], None] = lambda _: None,
        counted: loads.Loads | None = None,
    ) -> None:
        self._policy = policy
        self._loads = loads.Loads() if counted is None else counted
        self._box = box
        self._rng = rng
        self._max_clients = max_affinity_clients
        self._on_barred = on_barred
        self._members: dict[addresses.SocketAddress, member.Member] = {}
        self._rotation: list[member.Member] = []
        self._active = selecting.NONE
        self._free = 0  # members of the rotation that are not boxed
        self._weights: dict[addresses.SocketAddress, int] = {}  # those that are not 1
        self._selection: strategies.Selection | None = None
        self._prepared: object = None  # what the strategy has prepared for the whole set
        self._is_turn_taken = True  # the selection was asked whose turn it is, or there is none
        # None while stale, without backends, and where the client decides.
        self._choose: strategies.Chooser | None = None
        self._is_stale = False
        self._affinity: affinity.AffinityTable | None = None
        self._configure_affinity(policy.affinity_seconds)

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        """A new connection's first choice; None if there are no backends.

        With affinity, the backend that `client` is bound to, whose window this restarts; the
        rotation does not move. A client without a binding gets the strategy's choice and is
        bound to it. So does one whose backend is boxed, while any other is not: no client pays
        for an endpoint that is known to be dead. And so does one whose backend is of weight 0.
        """
        choose = self._choose
        if choose is None:
            selection = self._renew()
            if selection is None:
                return None
            choose = self._chooser(selection, client)
        table = self._affinity
        if table is None:
            return choose().backend
        chosen = table.lookup(client, now)
        if chosen is None or (chosen.boxed and (self._free or not chosen.is_usable)):
            chosen = choose()
            table.bind(client, chosen, now)
        return chosen.backend

    def peek(self, client: str, now: float) -> tuple[addresses.SocketAddress | None, float | None]:
        """What `pick` would give now, without picking; None where that is chance.

        With it comes for how many seconds more affinity holds `client` there, None if it does not.
        Takes as long as a pick after a change of the set.
        """
        bound = self._affinity.peek(client, now) if self._affinity is not None else None
        if bound is not None and self.is_free(bound.backend):
            return bound.backend, bound.seconds_left
        strategy = self._policy.strategy
        if strategy is services.Strategy.ROUND_ROBIN:
            self._invalidate()  # the active list then begins with the one whose turn it is
        selection = self._renew()
        if selection is None:
            return None, None
        if strategy is services.Strategy.SOURCE_HASH:
            return self._chooser(selection, client)().backend, None
        active = [m for m in self._active.members if not (m.boxed and self._free)]
        is_known = strategy is services.Strategy.ROUND_ROBIN and strategies.are_equal(active)
        return (active[0].backend if is_known or len(active) == 1 else None), None

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        """The next choice after the dials in `tried` failed; None only without backends.

        A backend not in `tried` if there is one, those outside the penalty box first; else the
        next in rotation once more. `client` is re-bound to it (upstream's sessionAffinityReset,
        docs/behaviour.md section 2, item 6).
        """
        selection = self._renew()
        if selection is None:
            return None
        if self._skips and self.has_alternative(client, tried):
            chosen = self._active.choose_free_other(selection, client, tried)
        else:
            chosen = self._active.draw_other(selection, client, tried, self._rng)
            chosen = chosen or selecting.draw_untried(self._rotation, tried, self._rng)
        chosen = chosen or selection.chooser_for(client)()
        if self._affinity is not None:
            self._affinity.bind(client, chosen, now)
        return chosen.backend

    def has_alternative(self, _client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        """Whether some backend is neither in `tried` nor boxed: whether moving on may help."""
        return self._free > sum(map(self.is_free, set(tried)))

    def may_keep(self, _client: str, backend: addresses.SocketAddress) -> bool:
        """Whether a client that was sent to `backend` would be sent there again, all the same.

        Not if it has left the set, is barred or of weight 0, nor if it is boxed while another is
        not.
        """
        found = self._members.get(backend)
        if found is None or not found.is_usable:
            return False
        if not found.boxed:
            return True
        return not self._free

    def start(self, backends: Sequence[addresses.SocketAddress]) -> None:
        """The first set, of few backends, all of weight 1: what `update` comes to, in less time."""
        new = self._enter(backends, self._weights)
        steps.at_once(steps.shuffled_in_steps(new, self._rng))
        self._bar(m for m in new if m.boxed)
        self._rotation = new
        self._list(new)
        self._is_stale = True

    def update(
        self,
        backends: Sequence[addresses.SocketAddress],
        weights: Sequence[int] = (),
        policy: forwarding.Policy | None = None,
    ) -> None:
        """`update_steps`, all at once."""
        for _ in self.update_steps(backends, weights, policy):
            pass

    def update_steps(
        self,
        backends: Sequence[addresses.SocketAddress],
        weights: Sequence[int] = (),
        policy: forwarding.Policy | None = None,
    ) -> Iterator[None]:
        """Replace the set of backends; duplicates count once. An equal set changes nothing.

        `weights` are those of `backends`, one for one; without any all are 1. `policy` is followed
        from the same moment on, as by `configure`.

        The backends that stay keep their order, their turn and their clients. New ones come in
        shuffled, at the end of the rotation. The bindings of those that left are void, and stay
        void if the backend returns (docs/faults.md A05).

        Ten thousand backends are a long computation on a thread that also relays bytes: between
        two steps others may run, and pick among the old set or the new one, never a mixture.
        Every step must be taken, before another update begins.
        """
        policy = policy or self._policy
        wanted = dict.fromkeys(backends)
        weight_of = {}
        if weights:
            weight_of = {each: n for each, n in zip(backends, weights, strict=False) if n != 1}
        members = self._members
        is_same_set = wanted.keys() == members.keys() and weight_of == self._weights
        if is_same_set and policy.strategy is self._policy.strategy:
            self.configure(policy)
            return
        if len(wanted) + len(members) <= _STEP:
            self._replace(wanted, weight_of, policy)
        else:
            yield
            yield from self._replace_in_steps(wanted, weight_of, policy)

    def _replace(
        self, wanted: Collection[addresses.SocketAddress], weight_of: _Weights, policy: _Policy
    ) -> None:
        """Replace a set that is small enough for one step."""
        gone = [m for m in self._rotation if m.backend not in wanted]
        new = self._enter(wanted, weight_of)
        steps.at_once(steps.shuffled_in_steps(new, self._rng))
        self._bar(m for m in new if m.boxed)
        strategy = selecting.STRATEGIES[policy.strategy]
        whole, reweighed = self._sort_out(wanted, weight_of, strategy)
        prepared = steps.at_once(strategy.prepare(whole, weight_of, self._last(policy)))
        outdated = self._outdated()
        self._swap(gone, new, reweighed, policy)
        self._weights, self._prepared = weight_of, prepared
        if self._selection is not None:  # it may refer to the old set
            self._renew()
        steps.at_once(outdated)
        self._retire(gone)

    def _replace_in_steps(
        self, wanted: Collection[addresses.SocketAddress], weight_of: _Weights, policy: _Policy
    ) -> Iterator[None]:
        """Replace the set of backends, in steps that look at `_STEP` of them."""
        gone: list[member.Member] = []
        for present in steps.runs(tuple(self._rotation), _STEP):
            gone += [m for m in present if m.backend not in wanted]
            yield
        new: list[member.Member] = []
        for run in steps.runs(wanted, _STEP):
            new += self._enter(run, weight_of)
            yield
        yield from steps.shuffled_in_steps(new, self._rng)
        self._bar(m for m in new if m.boxed)
        yield
        strategy = selecting.STRATEGIES[policy.strategy]
        whole: list[member.Member] = []
        reweighed: _Reweighed = []
        for run in steps.runs(wanted, _STEP):
            part, changed = self._sort_out(run, weight_of, strategy)
            whole += part
            reweighed += changed
            yield
        prepared = yield from strategy.prepare(whole, weight_of, self._last(policy))
        outdated = self._outdated()
        self._swap(frozenset(gone), new, reweighed, policy)
        self._weights, self._prepared = weight_of, prepared
        yield
        self._renew()
        yield
        yield from outdated
        while gone:
            yield
            # Nothing else refers to them: they are freed here, and not all at the end.
            self._retire(gone[-_STEP:])
            del gone[-_STEP:]

    def _enter(
        self, wanted: Iterable[addresses.SocketAddress], weight_of: _Weights
    ) -> list[member.Member]:
        """Make members of the backends that are none yet."""
        new: list[member.Member] = []
        for backend in wanted:
            if backend not in self._members:
                weight = weight_of.get(backend, 1)
                is_boxed = self._box.watch(backend, self) or not weight
                made = member.Member(backend, boxed=is_boxed, weight=weight)
                self._members[backend] = made
                new.append(made)
        return new

    def _sort_out(
        self,
        wanted: Iterable[addresses.SocketAddress],
        weight_of: _Weights,
        strategy: strategies.Strategy,
    ) -> tuple[list[member.Member], _Reweighed]:
        """The members that are to be picked, and those that get another weight."""
        found = [(self._members[each], weight_of.get(each, 1)) for each in wanted]
        whole = [each for each, weight in found if weight]
        if strategy.counts:
            member.hold_loads(whole, self._loads)
        return whole, [(each, weight) for each, weight in found if weight != each.weight]

    def _outdated(self) -> Generator[None, None, None]:
        """Forget what has been prepared. The steps end it, once no selection goes by it."""
        prepared, self._prepared = self._prepared, None
        return selecting.STRATEGIES[self._policy.strategy].end(prepared)

    def _last(self, policy: _Policy) -> object:
        """What the strategy of `policy` has prepared before; None if it is another one."""
        return self._prepared if policy.strategy is self._policy.strategy else None

    def _swap(
        self,
        gone: Collection[member.Member],
        new: list[member.Member],
        reweighed: _Reweighed,
        policy: _Policy,
    ) -> None:
        """From one moment to the next, the set, its weights and the policy are others."""
        rotation = self._take_rotation()
        staying = [m for m in rotation if m not in gone] if gone else rotation
        self._rotation = staying + new
        for each in gone:
            each.listed = False
            self._free -= not each.boxed
        self._list(new)
        for each, weight in reweighed:
            before, each.weight = each.weight, weight
            if not before or not weight:
                is_barred = self._box.owner(each.backend) is not None
                boxed = not weight or is_barred or each.backend in self._box
                self._set_boxed(each, boxed=boxed)
        self.configure(policy)

    def configure(self, policy: forwarding.Policy) -> None:
        """Follow a changed policy, from the next connection on.

        A new strategy keeps the rotation and the affinity table. A new window applies to the
        existing bindings too. Affinity that is switched off frees the table, so that it starts
        empty when it is switched on again; upstream kept the bindings (row 19), and sent
        clients back to where they had not been for a while.
        """
        if policy.strategy is not self._policy.strategy:
            self._invalidate()
            steps.at_once(self._outdated())
        self._policy = policy
        self._configure_affinity(policy.affinity_seconds)

    def close(self) -> None:
        """End the subscriptions and free the table. Picks give None from now on."""
        self.update(())
        self._affinity = None

    def penalty_changed(self, backend: addresses.SocketAddress, *, boxed: bool) -> None:
        """The penalty box took `backend` in, or let it go."""
        changed = self._members.get(backend)
        if changed is None:
            return
        was_barred = changed.barred
        self._set_boxed(changed, boxed=boxed or not changed.weight)
        self._bar((changed,))
        self._choose = None
        if not self._active.is_large or was_barred != changed.barred:
            self._invalidate()

    @property
    def policy(self) -> forwarding.Policy:
        return self._policy

    @property
    def backends(self) -> tuple[addresses.SocketAddress, ...]:
        """The whole set, in rotation order; the first is not necessarily the next."""
        return tuple(m.backend for m in self._rotation)

    @property
    def members(self) -> KeysView[addresses.SocketAddress]:
        """The whole set, in no order, without a copy: it changes with the balancer."""
        return self._members.keys()

    @property
    def active(self) -> tuple[addresses.SocketAddress, ...]:
        """The backends that picks go over now, in rotation order."""
        self._renew()
        return tuple(m.backend for m in self._active.members if not (m.boxed and self._free))

    def is_free(self, backend: addresses.SocketAddress) -> bool:
        """Whether `backend` is in the set, outside the penalty box, not barred, not of weight 0."""
        found = self._members.get(backend)
        return found is not None and found.listed and not found.boxed

    @property
    def affinity_table(self) -> affinity.AffinityTable | None:
        """The affinity table, to read and to sweep; None without affinity."""
        return self._affinity

    def _take_rotation(self) -> list[member.Member]:
        """Every member in rotation order, beginning with the one whose turn it is.

        This uses up that turn: the caller must make what becomes of the list the rotation.
        """
        self._invalidate()
        if self._selection is None or self._is_turn_taken:
            return self._rotation
        self._is_turn_taken = True
        return self._selection.in_turn(self._rotation)

    def _invalidate(self) -> None:
        """The active list is out of date; the next pick makes a new one."""
        self._choose = None
        self._is_stale = True

    def _renew(self) -> strategies.Selection | None:
        """The selection over the active members, made anew if it is stale; None without any."""
        if not self._is_stale:
            return self._selection
        self._rotation = rotation = self._take_rotation()
        self._active = selecting.Active(rotation)
        self._is_stale = self._is_turn_taken = False
        previous, self._selection = self._selection, None
        if self._active.members:
            self._selection = self._select(previous)
            self._choose = None if self._skips else self._selection.choose
        return self._selection

    @property
    def _skips(self) -> bool:
        """Whether some of the active ones are to be skipped, for they are boxed."""
        return self._active.is_large and 0 < self._free < len(self._active.members)

    def _chooser(self, selection: strategies.Selection, client: str) -> strategies.Chooser:
        """Chooses for `client`, of those that are not boxed if there are any."""
        if self._skips:
            return functools.partial(self._active.choose_free, selection, client)
        self._choose = selection.choose
        return selection.chooser_for(client)

    def _select(self, previous: strategies.Selection | None) -> strategies.Selection:
        strategy = selecting.STRATEGIES[self._policy.strategy]
        if self._prepared is None:
            whole = [m for m in self._rotation if m.weight]
            if strategy.counts:
                member.hold_loads(whole, self._loads)
            self._prepared = steps.at_once(strategy.prepare(whole, self._weights, None))
        context = strategies.Context(
            self._rng, self._prepared, previous, is_weighted=bool(self._weights)
        )
        return strategy.select(self._active.members, context)

    def _set_boxed(self, each: member.Member, *, boxed: bool) -> None:
        if each.listed:
            self._free += each.boxed - boxed
        each.boxed = boxed
        if each.load is not None:
            each.load.penalty_changed()

    def _list(self, new: Collection[member.Member]) -> None:
        """The rotation has these from now on."""
        for each in new:
            each.listed = True
            self._free += not each.boxed

    def _bar(self, boxed: Iterable[member.Member]) -> None:
        """Find out which ones are kproxy's own addresses, and tell of those found just now."""
        found = []
        for each in boxed:
            was_barred = each.barred
            each.barred = each.boxed and self._box.owner(each.backend) is not None
            if each.barred and not was_barred:
                found.append(each.backend)
        if found:
            self._on_barred(found)

    def _retire(self, gone: Sequence[member.Member]) -> None:
        for leaving in gone:
            del self._members[leaving.backend]
            self._box.unwatch(leaving.backend, self)
            if self._affinity is None:
                leaving.alive = False
            else:
                self._affinity.retire(leaving)

    def _configure_affinity(self, seconds: int | None) -> None:
        if seconds is None:
            self._affinity = None
            for each in self._members.values():
                each.clients = 0
        elif self._affinity is None:
            self._affinity = affinity.AffinityTable(seconds, self._max_clients)
        elif self._affinity.ttl != seconds:
            self._affinity.ttl = seconds
