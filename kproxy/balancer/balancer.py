"""Choose a backend for each connection of one service port: rotation, affinity, penalties.

The rules are those of kube-proxy's userspace balancer (`roundrobin.go`, service-behaviour
section 2) with three departures: an endpoint update keeps the rotation where it was
(decision 6), a change of the affinity window takes effect at once (decision 4), and a retry
goes to an endpoint that this client has not tried yet (decision 5).
"""

import random
from collections.abc import Collection, Sequence

from kproxy.balancer import affinity, member, penalty, strategies
from kproxy.model import endpoints, forwarding


class ServicePortBalancer:
    """The balancer of one service port, for one scope. Satisfies `penalty.Watcher`.

    The *rotation* is every backend of the set, in an order shuffled at first sight. Picks go
    over the *active* ones: those outside the penalty box, or all of them when all are boxed.
    The active list is made anew when the set, the strategy or a penalty changes, never by a
    pick, and then begins with the backend whose turn it was.

    Subscribes to `box` for each of its backends; `close` ends that.
    """

    __slots__ = (
        "_active",
        "_affinity",
        "_any_free",
        "_box",
        "_choose",
        "_max_clients",
        "_members",
        "_policy",
        "_rng",
    )

    def __init__(
        self,
        policy: forwarding.Policy,
        box: penalty.PenaltyBox,
        rng: random.Random,
        max_affinity_clients: int = affinity.DEFAULT_MAX_CLIENTS,
    ) -> None:
        self._policy = policy
        self._box = box
        self._rng = rng
        self._max_clients = max_affinity_clients
        self._members: dict[endpoints.Backend, member.Member] = {}  # in rotation order
        self._active: list[member.Member] = []
        self._any_free = False
        self._choose: strategies.Chooser | None = None  # None without backends
        self._affinity: affinity.AffinityTable | None = None
        self._configure_affinity(policy.affinity_seconds)

    def pick(self, client: str, now: float) -> endpoints.Backend | None:
        """A new connection's first choice; None if there are no backends.

        With affinity, the backend that `client` is bound to, whose window this restarts; the
        rotation does not move. A client without a binding gets the strategy's choice and is
        bound to it. So does one whose backend is boxed, while any other is not: no client pays
        for an endpoint that is known to be dead.
        """
        choose = self._choose
        if choose is None:
            return None
        table = self._affinity
        if table is None:
            return choose().backend
        chosen = table.lookup(client, now)
        if chosen is None or (chosen.boxed and self._any_free):
            chosen = choose()
            table.bind(client, chosen, now)
        return chosen.backend

    def repick(
        self, client: str, tried: Sequence[endpoints.Backend], now: float
    ) -> endpoints.Backend | None:
        """The next choice after the dials in `tried` failed; None only without backends.

        A backend not in `tried` if there is one, those outside the penalty box first; else the
        next in rotation once more. `client` is re-bound to it (upstream's sessionAffinityReset,
        service-behaviour section 2, item 6).
        """
        choose = self._choose
        if choose is None:
            return None
        chosen = self._draw_untried(choose, tried) or choose()
        if self._affinity is not None:
            self._affinity.bind(client, chosen, now)
        return chosen.backend

    def has_alternative(self, tried: Sequence[endpoints.Backend]) -> bool:
        """Whether some backend is neither in `tried` nor boxed: whether moving on may help."""
        return self._any_free and _holds_untried(self._active, tried)

    def update(self, backends: Sequence[endpoints.Backend]) -> None:
        """Replace the set of backends; duplicates count once. An equal set changes nothing.

        The backends that stay keep their order, their turn and their clients. New ones come in
        shuffled, at the end of the rotation. The bindings of those that left are void at once,
        and stay void if the backend returns (fault-catalogue A05).
        """
        wanted = dict.fromkeys(backends)
        if wanted.keys() == self._members.keys():
            return
        rotation = self._take_rotation()
        self._retire([m for m in rotation if m.backend not in wanted])
        added = [backend for backend in wanted if backend not in self._members]
        self._rng.shuffle(added)
        rotation = [m for m in rotation if m.alive]
        rotation += [member.Member(b, boxed=self._box.watch(b, self)) for b in added]
        self._members = {m.backend: m for m in rotation}
        self._activate(rotation)

    def configure(self, policy: forwarding.Policy) -> None:
        """Follow a changed policy, from the next connection on.

        A new strategy keeps the rotation and the affinity table. A new window applies to the
        existing bindings too. Affinity that is switched off frees the table, so that it starts
        empty when it is switched on again; upstream kept the bindings (row 19), and sent
        clients back to where they had not been for a while.
        """
        if policy.strategy is not self._policy.strategy:
            rotation = self._take_rotation()
            self._policy = policy
            self._activate(rotation)
        self._policy = policy
        self._configure_affinity(policy.affinity_seconds)

    def close(self) -> None:
        """End the subscriptions and free the table. Picks give None from now on."""
        self.update(())
        self._affinity = None

    def penalty_changed(self, backend: endpoints.Backend, *, boxed: bool) -> None:
        """The penalty box took `backend` in, or let it go."""
        rotation = self._take_rotation()
        self._members[backend].boxed = boxed
        self._activate(rotation)

    @property
    def policy(self) -> forwarding.Policy:
        """The policy in force."""
        return self._policy

    @property
    def backends(self) -> tuple[endpoints.Backend, ...]:
        """The whole set, in rotation order; the first is not necessarily the next."""
        return tuple(self._members)

    @property
    def active(self) -> tuple[endpoints.Backend, ...]:
        """The backends that picks go over now, in rotation order."""
        return tuple(m.backend for m in self._active)

    @property
    def affinity_table(self) -> affinity.AffinityTable | None:
        """The affinity table, to read and to sweep; None without affinity."""
        return self._affinity

    def _take_rotation(self) -> list[member.Member]:
        """Every member in rotation order, beginning with the one whose turn it is.

        This uses up that turn: the caller must `_activate` what becomes of the list.
        """
        rotation = list(self._members.values())
        if self._choose is not None:
            turn = rotation.index(self._choose())
            rotation = rotation[turn:] + rotation[:turn]
        return rotation

    def _activate(self, rotation: list[member.Member]) -> None:
        """Balance over `rotation`, whose first member is the next, as far as it is not boxed."""
        free = [m for m in rotation if not m.boxed]
        self._any_free = bool(free)
        self._active = free or rotation
        strategy = strategies.STRATEGIES[self._policy.strategy]
        self._choose = strategy(self._active, self._rng) if rotation else None

    def _retire(self, gone: list[member.Member]) -> None:
        for leaving in gone:
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
        self, choose: strategies.Chooser, tried: Sequence[endpoints.Backend]
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
            untried = [m for m in self._members.values() if m.backend not in tried]
        return self._rng.choice(untried) if untried else None


def _holds_untried(
    members: Collection[member.Member], tried: Collection[endpoints.Backend]
) -> bool:
    """Whether one of `members`, which are distinct, is not in `tried`, which is short."""
    return len(members) > len(tried) or any(m.backend not in tried for m in members)
