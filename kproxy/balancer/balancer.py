"""Choose a backend for each connection of one service port: rotation, affinity, penalties.

The rules are those of kube-proxy's userspace balancer (`roundrobin.go`, docs/behaviour.md
section 2) with three departures: an endpoint update keeps the rotation where it was
(decision 6), a change of the affinity window takes effect at once (decision 4), and a retry
goes to an endpoint that this client has not tried yet (decision 5).
"""

import random
from collections.abc import Callable, Collection, Iterator, KeysView, Sequence
from typing import TypeVar

from kproxy.balancer import affinity, member, penalty, strategies
from kproxy.model import addresses, forwarding

_STEP = 500
"""Backends dealt with in one step of an update: some 0.5 ms."""

_Item = TypeVar("_Item")


class ServicePortBalancer:
    """The balancer of one service port, for one scope. Satisfies `penalty.Watcher`.

    The *rotation* is every backend of the set, in an order shuffled at first sight. Picks go
    over the *active* ones: those outside the penalty box, or all of them when all are boxed, but
    never those that are kproxy's own addresses. When the set, the strategy or a penalty changes,
    the next pick makes the active list anew, beginning with the backend whose turn it was: many
    changes at once cost no more than one.

    Subscribes to `box` for each of its backends; `close` ends that. `on_barred` is called with
    the backends found to be kproxy's own addresses, once for each stay of a backend in the set.
    """

    __slots__ = (
        "_active",
        "_affinity",
        "_any_free",
        "_box",
        "_choose",
        "_is_stale",
        "_max_clients",
        "_members",
        "_on_barred",
        "_policy",
        "_previous",
        "_rng",
        "_rotation",
    )

    def __init__(
        self,
        policy: forwarding.Policy,
        box: penalty.PenaltyBox,
        rng: random.Random,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
        on_barred: Callable[[Sequence[addresses.SocketAddress]], None] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._box = box
        self._rng = rng
        self._max_clients = max_affinity_clients
        self._on_barred = on_barred
        self._members: dict[addresses.SocketAddress, member.Member] = {}
        self._rotation: list[member.Member] = []
        self._active: list[member.Member] = []
        self._any_free = False
        self._choose: strategies.Chooser | None = None  # None while stale, and without backends
        self._previous: strategies.Chooser | None = None  # knows whose turn it is, while stale
        self._is_stale = False
        self._affinity: affinity.AffinityTable | None = None
        self._configure_affinity(policy.affinity_seconds)

    def pick(self, client: str, now: float) -> addresses.SocketAddress | None:
        """A new connection's first choice; None if there are no backends.

        With affinity, the backend that `client` is bound to, whose window this restarts; the
        rotation does not move. A client without a binding gets the strategy's choice and is
        bound to it. So does one whose backend is boxed, while any other is not: no client pays
        for an endpoint that is known to be dead.
        """
        choose = self._choose
        if choose is None:
            choose = self._renew()
            if choose is None:
                return None
        table = self._affinity
        if table is None:
            return choose().backend
        chosen = table.lookup(client, now)
        if chosen is None or (chosen.boxed and (self._any_free or chosen.barred)):
            chosen = choose()
            table.bind(client, chosen, now)
        return chosen.backend

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress | None:
        """The next choice after the dials in `tried` failed; None only without backends.

        A backend not in `tried` if there is one, those outside the penalty box first; else the
        next in rotation once more. `client` is re-bound to it (upstream's sessionAffinityReset,
        docs/behaviour.md section 2, item 6).
        """
        choose = self._renew()
        if choose is None:
            return None
        chosen = self._draw_untried(choose, tried) or choose()
        if self._affinity is not None:
            self._affinity.bind(client, chosen, now)
        return chosen.backend

    def has_alternative(self, _client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        """Whether some backend is neither in `tried` nor boxed: whether moving on may help."""
        self._renew()
        return self._any_free and _holds_untried(self._active, tried)

    def may_keep(self, _client: str, backend: addresses.SocketAddress) -> bool:
        """Whether a client that was sent to `backend` would be sent there again, all the same.

        Not if it has left the set or is barred, nor if it is boxed while another one is not.
        """
        found = self._members.get(backend)
        if found is None or found.barred:
            return False
        if not found.boxed:
            return True
        self._renew()
        return not self._any_free

    def update(self, backends: Sequence[addresses.SocketAddress]) -> None:
        """`update_steps`, all at once."""
        for _ in self.update_steps(backends):
            pass

    def update_steps(self, backends: Sequence[addresses.SocketAddress]) -> Iterator[None]:
        """Replace the set of backends; duplicates count once. An equal set changes nothing.

        The backends that stay keep their order, their turn and their clients. New ones come in
        shuffled, at the end of the rotation. The bindings of those that left are void, and stay
        void if the backend returns (docs/faults.md A05).

        Ten thousand backends are a long computation on a thread that also relays bytes: between
        two steps others may run, and pick among the old set or the new one, never a mixture.
        Every step must be taken, before another update begins.
        """
        wanted = dict.fromkeys(backends)
        members = self._members
        if wanted.keys() == members.keys():
            return
        yield
        added = [backend for backend in wanted if backend not in members]
        yield
        gone = [m for m in self._rotation if m.backend not in wanted]
        yield
        new: list[member.Member] = []
        for part in _parts(added):
            for backend in part:
                new.append(member.Member(backend, boxed=self._box.watch(backend, self)))
                members[backend] = new[-1]
            yield
        yield from self._shuffle(new)
        barred = [m.backend for m in new if m.boxed and self._bar(m)]
        if barred:
            self._on_barred(barred)
        rotation = self._take_rotation()
        staying = [m for m in rotation if m.backend in wanted] if gone else rotation
        self._rotation = staying + new
        yield
        self._renew()
        for part_gone in _parts(gone):
            yield
            self._retire(part_gone)

    def configure(self, policy: forwarding.Policy) -> None:
        """Follow a changed policy, from the next connection on.

        A new strategy keeps the rotation and the affinity table. A new window applies to the
        existing bindings too. Affinity that is switched off frees the table, so that it starts
        empty when it is switched on again; upstream kept the bindings (row 19), and sent
        clients back to where they had not been for a while.
        """
        if policy.strategy is not self._policy.strategy:
            self._invalidate()
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
        changed.boxed = boxed
        if self._bar(changed):
            self._on_barred((backend,))
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
        return tuple(m.backend for m in self._active)

    def is_free(self, backend: addresses.SocketAddress) -> bool:
        """Whether `backend` is in the set, outside the penalty box, and not barred."""
        found = self._members.get(backend)
        return found is not None and not found.boxed

    @property
    def affinity_table(self) -> affinity.AffinityTable | None:
        """The affinity table, to read and to sweep; None without affinity."""
        return self._affinity

    def _take_rotation(self) -> list[member.Member]:
        """Every member in rotation order, beginning with the one whose turn it is.

        This uses up that turn: the caller must make what becomes of the list the rotation.
        """
        self._invalidate()
        rotation = self._rotation
        if self._previous is not None:
            turn = rotation.index(self._previous())
            rotation = rotation[turn:] + rotation[:turn]
            self._previous = None
        return rotation

    def _invalidate(self) -> None:
        """The active list is out of date; the next pick makes a new one."""
        if self._choose is not None:
            self._previous, self._choose = self._choose, None
        self._is_stale = True

    def _renew(self) -> strategies.Chooser | None:
        """The chooser over the active members, made anew if it is stale; None without any."""
        if self._is_stale:
            self._rotation = rotation = self._take_rotation()
            self._is_stale = False
            usable = [m for m in rotation if not m.barred]
            free = [m for m in usable if not m.boxed]
            self._any_free = bool(free)
            self._active = free or usable
            strategy = strategies.STRATEGIES[self._policy.strategy]
            self._choose = strategy(self._active, self._rng) if self._active else None
        return self._choose

    def _bar(self, each: member.Member) -> bool:
        """Whether a member has just been found to be one of kproxy's own addresses."""
        was_barred = each.barred
        each.barred = each.boxed and self._box.owner(each.backend) is not None
        return each.barred and not was_barred

    def _shuffle(self, new: list[member.Member]) -> Iterator[None]:
        """As `random.shuffle`, in steps."""
        draw = self._rng.random
        for last in range(len(new) - 1, 0, -1):
            other = int(draw() * (last + 1))
            new[last], new[other] = new[other], new[last]
            if last % _STEP == 0:
                yield

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

    def _draw_untried(
        self, choose: strategies.Chooser, tried: Sequence[addresses.SocketAddress]
    ) -> member.Member | None:
        """A member that is not in `tried`, by the strategy where that can be had cheaply.

        Active members are distinct, so a rotation meets an untried one within one draw more
        than there are tried ones. Other strategies may be unlucky that often.
        """
        untried: list[member.Member]
        if _holds_untried(self._active, tried):
            for _ in range(len(tried) + 1):
                drawn = choose()
                if drawn.backend not in tried:
                    return drawn
            untried = [m for m in self._active if m.backend not in tried]
        else:
            untried = [m for m in self._rotation if m.backend not in tried and not m.barred]
        return self._rng.choice(untried) if untried else None


def _parts(whole: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """`whole`, as much at a time as one step deals with."""
    for start in range(0, len(whole), _STEP):
        yield whole[start : start + _STEP]


def _holds_untried(
    members: Collection[member.Member], tried: Collection[addresses.SocketAddress]
) -> bool:
    """Whether one of `members`, which are distinct, is not in `tried`, which is short."""
    return len(members) > len(tried) or any(m.backend not in tried for m in members)
