"""Every strategy that a policy can name, and the members that a strategy chooses from."""

import itertools
import operator
import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from kproxy.balancer import least, member, source_hash, strategies, weighted
from kproxy.model import addresses
from kproxy.model.kinds import services

STRATEGIES: Mapping[services.Strategy, strategies.Strategy] = {
    services.Strategy.ROUND_ROBIN: strategies.Strategy(weighted.rotate),
    services.Strategy.RANDOM: strategies.Strategy(weighted.draw, strategies.lots_in_steps),
    services.Strategy.LEAST_CONNECTIONS: strategies.Strategy(
        least.least_connections, least.order_in_steps, least.empty_in_steps, counts=True
    ),
    services.Strategy.POWER_OF_TWO: strategies.Strategy(
        least.power_of_two, strategies.lots_in_steps, counts=True
    ),
    services.Strategy.SOURCE_HASH: strategies.Strategy(
        source_hash.select, source_hash.circles_in_steps
    ),
}

FEW = 500
"""Members that a list is made of whenever one of them is boxed or freed: some 50 us."""

_is_boxed = operator.attrgetter("boxed")


class Active:
    """The members that picks go over: those of a rotation that are not boxed, or if all are, all.

    Never those that are kproxy's own addresses, nor those of weight 0. If they are more than `FEW`,
    the boxed ones are among them, and picks skip those: otherwise one dead endpoint of 100,000
    would hold up every client of kproxy for some 100 ms.
    """

    __slots__ = ("_turns", "is_large", "members")

    def __init__(self, rotation: Sequence[member.Member] = ()) -> None:
        usable = [m for m in rotation if m.weight and not m.barred]  # `is_usable`, without calls
        self.is_large = len(usable) > FEW
        free = usable if self.is_large else [m for m in usable if not m.boxed]
        self.members = free or usable
        self._turns: Iterator[member.Member] | None = None

    def choose_free(self, selection: strategies.Selection, client: str) -> member.Member:
        """The next choice for `client`, of those that are not boxed if there are any.

        The strategy's, unless nearly all are boxed: then the free ones take turns.
        """
        free = selection.choose_free(client) or self._next_free()
        return free or selection.chooser_for(client)()

    def choose_free_other(
        self, selection: strategies.Selection, client: str, tried: strategies.Tried
    ) -> member.Member | None:
        """A choice that is neither boxed nor in `tried`, which are few; None if there is none."""
        # Those that take turns are distinct: one of so many is not in `tried`.
        turns = (self._next_free() for _ in range(len(tried) + 1))
        drawn = itertools.chain((selection.choose_free(client),), turns)
        return next((each for each in drawn if each and each.backend not in tried), None)

    def draw_other(
        self,
        selection: strategies.Selection,
        client: str,
        tried: strategies.Tried,
        rng: random.Random,
    ) -> member.Member | None:
        """A choice that is not in `tried`, by the strategy where that can be had cheaply."""
        if len(self.members) <= len(tried) and all(m.backend in tried for m in self.members):
            return None
        return selection.choose_other(client, tried) or draw_untried(self.members, tried, rng)

    def _next_free(self) -> member.Member | None:
        """Those that are not boxed, one after the other."""
        if self._turns is None:
            self._turns = itertools.cycle(self.members)
        once_round = itertools.islice(self._turns, len(self.members))
        return next(itertools.filterfalse(_is_boxed, once_round), None)


NONE = Active()


def draw_untried(
    members: Collection[member.Member],
    tried: Collection[addresses.SocketAddress],
    rng: random.Random,
) -> member.Member | None:
    """A usable one of `members` that is not in `tried`, by weight; None if there is none."""
    untried = [m for m in members if m.backend not in tried and m.is_usable]
    return rng.choices(untried, [m.weight for m in untried])[0] if untried else None
