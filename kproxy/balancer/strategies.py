"""How an endpoint is chosen for a connection that no affinity entry decides.

A strategy is a function: members in, a chooser out. The chooser is called once for each new
connection, so it must be O(1) and must not allocate. It is thrown away when the list changes,
and a new one is made; what a strategy wants to remember longer it keeps in the members.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from kproxy.balancer import member
from kproxy.model.kinds import services

Chooser = Callable[[], member.Member]


class Strategy(Protocol):
    """Makes a chooser over `members`."""

    def __call__(self, members: Sequence[member.Member], rng: random.Random, /) -> Chooser:
        """A chooser over `members`, which are at least one, are in rotation order, and stay as
        they are; the first one's turn is next.
        """


def round_robin(members: Sequence[member.Member], _rng: random.Random, /) -> Chooser:
    """Strict rotation, as in userspace mode (docs/behaviour.md row 23; section 2, item 2).

    Any run of picks gives each member its share, at most one apart. `itertools.cycle` rotates
    in C, in two thirds of the time of a Python index.
    """
    return itertools.cycle(members).__next__


def uniform_random(members: Sequence[member.Member], rng: random.Random, /) -> Chooser:
    """Every member equally likely, each time anew, as in iptables mode (row 23)."""
    draw = rng.random
    count = len(members)

    def choose() -> member.Member:
        return members[int(draw() * count)]

    return choose


STRATEGIES: Mapping[services.Strategy, Strategy] = {
    services.Strategy.ROUND_ROBIN: round_robin,
    services.Strategy.RANDOM: uniform_random,
}
"""Every strategy that a policy can name."""
