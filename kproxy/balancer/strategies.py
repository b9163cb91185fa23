"""How an endpoint is chosen for a connection that no affinity entry decides.

A strategy makes a *selection* over the members that picks go over. The selection is asked once
for each new connection, so it must not look at every member. It is thrown away when the list
changes, and a new one is made, which may take over what the old one knew.

What takes a look at every member is done ahead, in steps, by the strategy's `prepare`.
"""

import itertools
import random
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from kproxy.balancer import member
from kproxy.model import addresses, steps

Chooser: TypeAlias = Callable[[], member.Member]
Members: TypeAlias = Sequence[member.Member]
Weights: TypeAlias = Mapping[addresses.SocketAddress, int]
Tried: TypeAlias = Collection[addresses.SocketAddress]


_DRAWS = 64
"""Draws for a member that is not boxed: not in vain but where nearly all of them are."""


class Selection:
    """A strategy at work over some members. They are at least one, and of positive weight."""

    choose: Chooser | None
    """The next choice; None if the client decides. The balancer calls it without a detour."""

    def chooser_for(self, _client: str) -> Chooser:
        """The same as `choose`, unless the client decides."""
        assert self.choose is not None
        return self.choose

    def choose_other(self, client: str, tried: Tried) -> member.Member | None:
        """A choice that is not in `tried`, which are few; None if none was met in some draws.

        Members are distinct, so a rotation meets an untried one within one draw more than there
        are tried ones. Other strategies may be unlucky that often.
        """
        choose = self.chooser_for(client)
        for _ in range(len(tried) + 1):
            drawn = choose()
            if drawn.backend not in tried:
                return drawn
        return None

    def choose_free(self, client: str) -> member.Member | None:
        """A choice that is not boxed; None if none was met in some draws."""
        choose = self.chooser_for(client)
        for _ in range(_DRAWS):
            drawn = choose()
            if not drawn.boxed:
                return drawn
        return None

    def in_turn(self, rotation: list[member.Member]) -> list[member.Member]:
        """`rotation`, which has these members and maybe others, from the next one's turn on.

        The selection is of no use afterwards.
        """
        return rotation


class Context(NamedTuple):
    """What a selection is made with.

    `prepared` is what `Strategy.prepare` returned for the set that the members are taken from.
    `previous` is the selection before, whatever its
    strategy was. Where not `is_weighted`, every weight is 1.
    """

    rng: random.Random
    prepared: object = None
    previous: Selection | None = None
    is_weighted: bool = True


def _nothing(
    _members: Members, _weights: Weights, _previous: object, /
) -> Generator[None, None, object]:
    """Prepares nothing."""
    yield from ()
    return ()


def _nothing_to_end(_prepared: object, /) -> Generator[None, None, None]:
    """Ends nothing."""
    yield from ()


class Strategy(NamedTuple):
    """How selections are made. The members are in rotation order; the first one's turn is next.

    `prepare` does in steps what takes long for a large set. It gets every member whose weight is
    to be above 0, the weights to come that are not 1, and what it returned last, None at first,
    which is in use and must not change. `end` takes, in steps, what `prepare` returned, or None,
    once nothing uses it. `counts` says whether the selections go by the connections that each
    member has: then their loads are held.
    """

    select: Callable[[Members, Context], Selection]
    prepare: Callable[[Members, Weights, object], Generator[None, None, object]] = _nothing
    end: Callable[[object], Generator[None, None, None]] = _nothing_to_end
    counts: bool = False


class Rotation(Selection):
    """Strict rotation, as in userspace mode (docs/behaviour.md row 23; section 2, item 2).

    Any run of picks gives each member its share, at most one apart. `itertools.cycle` rotates
    in C, in two thirds of the time of a Python index.
    """

    def __init__(self, members: Members) -> None:
        self.choose: Chooser = itertools.cycle(members).__next__

    def in_turn(self, rotation: list[member.Member]) -> list[member.Member]:
        """See `Selection`."""
        turn = rotation.index(self.choose())
        return rotation[turn:] + rotation[:turn]


class Draw(Selection):
    """Every member equally likely, each time anew, as in iptables mode (row 23)."""

    def __init__(self, members: Members, rng: random.Random) -> None:
        draw = rng.random
        count = len(members)
        self.choose: Chooser = lambda: members[int(draw() * count)]


def are_equal(members: Members) -> bool:
    """Whether all members have the same weight."""
    return len({each.weight for each in members}) == 1


class Lots(NamedTuple):
    """Members to draw from, each with a stretch as long as its weight. `bounds` are the ends of
    the stretches; none where all weights are equal."""

    members: Members
    bounds: Sequence[int] = ()


def lots_in_steps(
    members: Members, weights: Weights, _last: object = None
) -> Generator[None, None, Lots]:
    """The lots of the whole set."""
    if not weights:
        return Lots(members)
    of_members: list[int] = []
    for run in steps.runs(members):
        of_members += [weights.get(each.backend, 1) for each in run]
        yield
    if len(set(of_members)) <= 1:
        return Lots(members)
    return Lots(members, list(itertools.accumulate(of_members)))


def lots_of(members: Members, context: Context) -> Lots:
    """Lots for `members`: those of the whole set, where these are all."""
    whole = cast("Lots", context.prepared)
    if len(whole.members) == len(members):
        return whole
    if not context.is_weighted or are_equal(members):
        return Lots(members)
    return Lots(members, list(itertools.accumulate(each.weight for each in members)))
