"""Strategies that look at the connections which each member has: least-connections, power-of-two.

Both compare what a member would have with one connection more, divided by its weight: members of
weight 9 and 1 come to have nine connections and one.
"""

import bisect
import functools
import heapq
import random
from collections import OrderedDict
from collections.abc import Generator, Iterable
from typing import TypeAlias, cast

from kproxy.balancer import loads, member, strategies
from kproxy.model import steps


def _level(each: member.Member) -> float:
    """How loaded a member is. Quotients of equal value are the same float: division is exact to
    the last bit."""
    return (_load(each).count + 1) / each.weight


def _load(each: member.Member) -> loads.Load:
    assert each.load is not None
    return each.load


_BOXED = 2.0**-40
"""A member in the penalty box counts as one of so little weight: it comes after all others. The
power of two keeps quotients of equal value equal."""


class _Seat:
    """Where a member is in the order."""

    __slots__ = ("level", "member", "weight")

    def __init__(self, seated: member.Member, load: loads.Load, weight: int) -> None:
        self.member = seated
        self.weight = weight * _BOXED if seated.boxed else weight
        self.level = (load.count + 1) / self.weight


_Row: TypeAlias = OrderedDict[loads.Load, member.Member]
_Rows: TypeAlias = dict[float, _Row]


class LeastConnections(strategies.Selection):
    """The least loaded member, with turns among equals. Satisfies `loads.Watcher`.

    Members are kept in rows of equal load. A pick takes the first one of the lowest row; a
    connection that begins or ends moves its member to the end of another row. Each is O(1), but
    for the heap of levels, of which there are few.

    It is prepared for the whole set and follows the loads from then on. It must be emptied in the
    end: loads refer to it.
    """

    def __init__(self) -> None:
        self._seats: dict[loads.Load, _Seat] = {}
        self._rows: _Rows = {}
        self._levels: list[float] = []  # a heap of the keys of `_rows`
        self._whole = 0
        # Bound to no method: an object that holds its own methods is freed late.
        self.choose: strategies.Chooser = functools.partial(_first, self._levels, self._rows)

    def enter(self, members: Iterable[member.Member], weights: strategies.Weights) -> None:
        """Take in those of the whole set that are not in yet. Their loads are held.

        A weight is 1 unless `weights` has another one, which the member is to have.
        """
        for each in members:
            self._enter(each, weights.get(each.backend, 1))
        self._whole = len(self._seats)

    def keep(self, members: strategies.Members) -> None:
        """Choose from these members, which are some of those that were taken in, or all."""
        if len(members) == len(self._seats) == self._whole:
            return
        for gone in self._seats.keys() - set(map(_load, members)):
            self._unseat(gone)
        for each in members:
            self._enter(each, each.weight)

    def load_changed(self, load: loads.Load) -> None:
        """See `loads.Watcher`."""
        seat = self._seats[load]
        del self._rows[seat.level][load]
        seat.level = (load.count + 1) / seat.weight
        self._append(load, seat)

    def penalty_changed(self, load: loads.Load) -> None:
        """See `loads.Watcher`."""
        seat = self._seats[load]
        # A weight is 1 or more, so that one below it tells that the member was boxed.
        if seat.member.boxed != (seat.weight < 1):
            seat.weight *= _BOXED if seat.member.boxed else 1 / _BOXED
            self.load_changed(load)

    def choose_other(self, _client: str, tried: strategies.Tried) -> member.Member | None:
        """The least loaded one that is not in `tried`."""
        for level in sorted(self._levels):
            for each in self._rows[level].values():
                if each.backend not in tried:
                    return each
        return None

    def ordered_in_steps(self) -> Generator[None, None, list[member.Member]]:
        """The members, the least loaded first, and equals in turn.

        Each row is turned round once, for an `OrderedDict` that changes between the steps cannot
        be iterated. Those that move meanwhile may be missing, or be there twice.
        """
        listed: list[member.Member] = []
        for row in [self._rows[level] for level in sorted(self._levels)]:
            for run in steps.runs(range(len(row))):
                listed += [_next(row) for _ in run[: len(row)]]
                yield
        return listed

    def empty_in_steps(self) -> Generator[None, None, None]:
        """Let go of all members: another selection has taken the place of this one."""
        for run in steps.runs(tuple(self._seats)):
            for load in run:
                self._unseat(load)
            yield

    def _enter(self, each: member.Member, weight: int) -> None:
        load = _load(each)
        if load not in self._seats:
            load.watchers.append(self)
            seat = self._seats[load] = _Seat(each, load, weight)
            self._append(load, seat)

    def _append(self, load: loads.Load, seat: _Seat) -> None:
        """Put a member at the end of its row."""
        row = self._rows.get(seat.level)
        if row is None:
            row = self._rows[seat.level] = OrderedDict()
            heapq.heappush(self._levels, seat.level)
        row[load] = seat.member

    def _unseat(self, load: loads.Load) -> None:
        seat = self._seats.pop(load)
        del self._rows[seat.level][load]
        load.watchers.remove(self)


def _first(levels: list[float], rows: _Rows) -> member.Member:
    while not (row := rows[levels[0]]):
        del rows[heapq.heappop(levels)]
    # Where nothing is counted, equals take turns all the same.
    load = next(iter(row))
    row.move_to_end(load)
    return row[load]


def _next(row: _Row) -> member.Member:
    """The first of a row, which becomes the last."""
    load = next(iter(row))
    row.move_to_end(load)
    return row[load]


def order_in_steps(
    members: strategies.Members, weights: strategies.Weights, last: object = None
) -> Generator[None, None, LeastConnections]:
    """The order of the whole set. Those that are in the last one keep their turns."""
    made = LeastConnections()
    if isinstance(last, LeastConnections):
        wanted: set[member.Member] = set()
        for run in steps.runs(members):
            wanted.update(run)
            yield
        before = yield from last.ordered_in_steps()
        for run in steps.runs(before):
            made.enter((each for each in run if each in wanted), weights)
            yield
    for run in steps.runs(members):
        made.enter(run, weights)
        yield
    return made


def empty_in_steps(prepared: object) -> Generator[None, None, None]:
    """End an order that another one has taken the place of."""
    if isinstance(prepared, LeastConnections):
        yield from prepared.empty_in_steps()


def least_connections(
    members: strategies.Members, context: strategies.Context
) -> strategies.Selection:
    """The least loaded member, of the order that `order_in_steps` has made of the whole set."""
    order = cast("LeastConnections", context.prepared)
    order.keep(members)
    return order


class TwoChoices(strategies.Selection):
    """The less loaded one of two members drawn at random (Mitzenmacher 2001), by weight.

    Many proxies that do this side by side do not all run to the member that is idle just now, as
    they would with least-connections.
    """

    def __init__(self, lots: strategies.Lots, rng: random.Random) -> None:
        members, bounds = lots
        draw, count = rng.random, len(members)

        def choose() -> member.Member:
            first = int(draw() * count)
            second = int(draw() * (count - 1))
            second += second >= first
            return _lighter(members[first], members[second])

        total, find = bounds[-1] if bounds else 0, bisect.bisect

        def choose_by_weight() -> member.Member:
            first = find(bounds, draw() * total)
            weight = members[first].weight
            # A second draw from the others: as if the first one's stretch were cut out.
            point = int(draw() * (total - weight))
            if point >= bounds[first] - weight:
                point += weight
            return _lighter(members[first], members[find(bounds, point)])

        self.choose: strategies.Chooser = choose_by_weight if bounds else choose
        if count == 1:
            self.choose = lambda: members[0]


def _lighter(one: member.Member, other: member.Member) -> member.Member:
    return one if _level(one) <= _level(other) else other


def power_of_two(members: strategies.Members, context: strategies.Context) -> strategies.Selection:
    """The less loaded one of two."""
    return TwoChoices(strategies.lots_of(members, context), context.rng)
