"""Strategies that look at the connections which each member has: least-connections, power-of-two.

Both compare what a member would have with one connection more, divided by its weight: members of
weight 9 and 1 come to have nine connections and one.
"""

import bisect
import heapq
import itertools
import random
from collections import OrderedDict

from kproxy.balancer import loads, member, strategies


def _level(each: member.Member) -> float:
    """How loaded a member is. Quotients of equal value are the same float: division is exact to
    the last bit."""
    return (_load(each).count + 1) / each.weight


def _load(each: member.Member) -> loads.Load:
    assert each.load is not None
    return each.load


def _hold_loads(members: strategies.Members, context: strategies.Context) -> None:
    assert context.counted is not None
    for each in members:
        if each.load is None:
            each.load = context.counted.of(each.backend)


class _Seat:
    """Where a member is in the order."""

    __slots__ = ("level", "member", "weight")

    def __init__(self, seated: member.Member) -> None:
        self.member = seated
        self.weight = seated.weight
        self.level = _level(seated)


class LeastConnections(strategies.Selection):
    """The least loaded member, with turns among equals. Satisfies `loads.Watcher`.

    Members are kept in rows of equal load. A pick takes the first one of the lowest row; a
    connection that begins or ends moves its member to the end of another row. Each is O(1), but
    for the heap of levels, of which there are few.

    `renew` follows a changed list of members. The selection must be closed: loads refer to it.
    """

    def __init__(self, members: strategies.Members) -> None:
        self._seats: dict[loads.Load, _Seat] = {}
        self._rows: dict[float, OrderedDict[loads.Load, member.Member]] = {}
        self._levels: list[float] = []  # a heap of the keys of `_rows`
        self.choose = self._choose
        self.renew(members)

    def renew(self, members: strategies.Members) -> None:
        """Choose from these members from now on. Their loads are held."""
        wanted = {_load(each): each for each in members}
        for gone in self._seats.keys() - wanted.keys():
            self._unseat(gone)
        for load, each in wanted.items():
            seat = self._seats.get(load)
            if seat is not None:
                if seat.member is each and seat.weight == each.weight:
                    continue
                self._unseat(load)
            load.watchers.append(self)
            seat = self._seats[load] = _Seat(each)
            self._enter(load, seat)

    def load_changed(self, load: loads.Load) -> None:
        """See `loads.Watcher`."""
        seat = self._seats[load]
        del self._rows[seat.level][load]
        seat.level = (load.count + 1) / seat.weight
        self._enter(load, seat)

    def choose_other(self, _client: str, tried: strategies.Tried) -> member.Member | None:
        """The least loaded one that is not in `tried`."""
        for level in sorted(self._levels):
            for each in self._rows[level].values():
                if each.backend not in tried:
                    return each
        return None

    def close(self) -> None:
        """See `Selection`."""
        for load in tuple(self._seats):
            self._unseat(load)
        self.choose = None  # what refers to itself is freed late

    def _choose(self) -> member.Member:
        levels, rows = self._levels, self._rows
        while not (row := rows[levels[0]]):
            del rows[heapq.heappop(levels)]
        load = next(iter(row))
        # Where nothing is counted, equals take turns all the same.
        row.move_to_end(load)
        return row[load]

    def _enter(self, load: loads.Load, seat: _Seat) -> None:
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


def least_connections(
    members: strategies.Members, context: strategies.Context
) -> strategies.Selection:
    """The least loaded member; the selection before goes on if it was one."""
    _hold_loads(members, context)
    if isinstance(context.previous, LeastConnections):
        context.previous.renew(members)
        return context.previous
    return LeastConnections(members)


class TwoChoices(strategies.Selection):
    """The less loaded one of two members drawn at random (Mitzenmacher 2001), by weight.

    Many proxies that do this side by side do not all run to the member that is idle just now, as
    they would with least-connections.
    """

    def __init__(self, members: strategies.Members, rng: random.Random) -> None:
        draw, count = rng.random, len(members)

        def choose() -> member.Member:
            first = int(draw() * count)
            second = int(draw() * (count - 1))
            second += second >= first
            return _lighter(members[first], members[second])

        bounds = list(itertools.accumulate(each.weight for each in members))
        total, find = bounds[-1], bisect.bisect

        def choose_by_weight() -> member.Member:
            first = find(bounds, draw() * total)
            weight = members[first].weight
            # A second draw from the others: as if the first one's stretch were cut out.
            point = int(draw() * (total - weight))
            if point >= bounds[first] - weight:
                point += weight
            return _lighter(members[first], members[find(bounds, point)])

        self.choose: strategies.Chooser = choose
        if count == 1:
            self.choose = lambda: members[0]
        elif not strategies.are_equal(members):
            self.choose = choose_by_weight


def _lighter(one: member.Member, other: member.Member) -> member.Member:
    return one if _level(one) <= _level(other) else other


def power_of_two(members: strategies.Members, context: strategies.Context) -> strategies.Selection:
    """The less loaded one of two."""
    _hold_loads(members, context)
    return TwoChoices(members, context.rng)
