"""Round-robin and random where the members' weights differ."""

import bisect
import itertools
import random

from kproxy.balancer import member, strategies


class _Class:
    """The members of one weight, which take turns."""

    __slots__ = ("credit", "members", "share", "turn")

    def __init__(self, members: list[member.Member], share: int, credit: float) -> None:
        self.members = members
        self.share = share
        self.credit = credit
        self.turn = itertools.cycle(members).__next__


class SmoothRotation(strategies.Selection):
    """nginx's smooth weighted round-robin, over the classes of equal weight.

    At each pick every class earns its share, the sum of its members' weights; the richest is
    chosen, and pays what all have earned together. Within a class the members take turns. After
    as many picks as the weights add up to, each member was chosen exactly as often as its weight
    says, and never long in a row. nginx (`ngx_http_upstream_round_robin.c`) does this with single
    peers, which costs a look at each; classes are as many as there are different weights.

    Credits outlive a change of the set. Otherwise frequent changes would begin with the heaviest
    again and again, and the others would never be chosen.
    """

    def __init__(
        self, members: strategies.Members, previous: strategies.Selection | None = None
    ) -> None:
        by_weight: dict[int, list[member.Member]] = {}
        for each in members:
            by_weight.setdefault(each.weight, []).append(each)
        kept = previous.earned if isinstance(previous, SmoothRotation) else {}
        earned = [kept.get(weight, 0.0) for weight in by_weight]
        # They add up to nothing, or a class that comes would wait until it has caught up.
        middle = sum(earned) / len(earned)
        classes = [
            _Class(group, weight * len(group), credit - middle)
            for (weight, group), credit in zip(by_weight.items(), earned, strict=True)
        ]
        total = sum(each.share for each in classes)

        def choose() -> member.Member:
            best = classes[0]
            for each in classes:
                each.credit += each.share
                if each.credit > best.credit:
                    best = each
            best.credit -= total
            return best.turn()

        self.choose: strategies.Chooser = choose
        self._classes = classes

    @property
    def earned(self) -> dict[int, float]:
        """What each class has earned and not been chosen for, by weight."""
        return {each.members[0].weight: each.credit for each in self._classes}

    def in_turn(self, rotation: list[member.Member]) -> list[member.Member]:
        """See `Selection`. Each class begins with the member whose turn it is there."""
        ordered: list[member.Member] = []
        for each in self._classes:
            turn = each.members.index(each.turn())
            ordered += each.members[turn:] + each.members[:turn]
        chosen_from = set(ordered)
        return ordered + [each for each in rotation if each not in chosen_from]


class WeightedDraw(strategies.Selection):
    """Each member as likely as its weight says, each time anew."""

    def __init__(self, lots: strategies.Lots, rng: random.Random) -> None:
        members, bounds = lots
        draw, total, find = rng.random, bounds[-1], bisect.bisect

        def choose() -> member.Member:
            return members[find(bounds, draw() * total)]

        self.choose: strategies.Chooser = choose


def rotate(members: strategies.Members, context: strategies.Context) -> strategies.Selection:
    """Round-robin, smooth where weights differ."""
    if not context.is_weighted or strategies.are_equal(members):
        return strategies.Rotation(members)
    return SmoothRotation(members, context.previous)


def draw(members: strategies.Members, context: strategies.Context) -> strategies.Selection:
    """Random, by weight where weights differ."""
    lots = strategies.lots_of(members, context)
    if not lots.bounds:
        return strategies.Draw(lots.members, context.rng)
    return WeightedDraw(lots, context.rng)
