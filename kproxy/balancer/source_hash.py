"""source-hash: the client's IP address decides, and every kproxy decides alike.

Each member has a *distance* to each client, a function of their two addresses alone, and the
nearest member is chosen. So a member that leaves or is boxed moves its own clients and no others,
and one that comes takes clients and moves none elsewhere; no choice depends on what was before.

That is rendezvous hashing. Usually the distance is a hash of both, and a pick has to compute it
for every member. Here it is one on a circle, as in multi-probe consistent hashing (Appleton and
O'Reilly 2015): a member has several points on it, a client several probes, and their distance is
the least way from a probe clockwise to a point. The nearest point after each probe is found by
bisection. A distance is divided by the member's weight; members of one weight have a circle of
their own, so that bisection still finds the nearest.
"""

import bisect
import functools
import hashlib
import itertools
import math
import operator
import struct
from collections import Counter
from collections.abc import Callable, Generator
from typing import TypeAlias, cast

from kproxy.balancer import member, strategies
from kproxy.model import addresses, steps

_POINTS = 8
"""Points of a member. With as many probes as below, shares deviate by 6 % (one sigma)."""
_PROBES = 16
"""Probes of a client."""
_CIRCLE = 1 << 64
_SHELVES = 256
_PIECE = 64
"""Members dealt with between two pauses."""
_FEW = 64
"""Members of which a change is worked into the circle; more of them make a new one."""
_NEAR = 64
"""Places on the circle that are searched for a member that is not boxed."""
_REMEMBERED = 4096
"""Clients whose member is kept."""

_weight = operator.attrgetter("weight")
_unpack_points = struct.Struct(f"<{_POINTS}Q").unpack
_unpack_probes = struct.Struct(f"<{_PROBES}Q").unpack


class _Circle:
    """The points of members of one weight, in order, with the members they belong to."""

    __slots__ = ("members", "owners", "points")

    def __init__(
        self, points: list[int], owners: list[member.Member], members: frozenset[member.Member]
    ) -> None:
        self.points = points
        self.owners = owners
        self.members = members


Circles: TypeAlias = dict[int, _Circle]


def circles_in_steps(
    members: strategies.Members, weights: strategies.Weights, last: object = None
) -> Generator[None, None, Circles]:
    """Where the points of `members` are: a circle for each weight that some of them are to have."""
    by_weight: dict[int, list[member.Member]] = {}
    for run in steps.runs(members):
        for each in run:
            by_weight.setdefault(weights.get(each.backend, 1), []).append(each)
        yield
    made: Circles = {}
    before = cast("Circles", last or {})
    for weight, group in by_weight.items():
        known, now = before.get(weight), frozenset(group)
        if known is not None and len(known.members ^ now) <= _FEW:
            made[weight] = yield from _changed_in_steps(known, now)
        else:
            made[weight] = yield from _circle_in_steps(group)
    return made


def _changed_in_steps(
    last: _Circle, members: frozenset[member.Member]
) -> Generator[None, None, _Circle]:
    """A circle for members of which few are others than in the last one."""
    points, owners = last.points.copy(), last.owners.copy()
    yield
    for gone in last.members - members:
        for point in points_of(gone.backend):
            place = bisect.bisect_left(points, point)
            del points[place], owners[place]
        yield
    for new in members - last.members:
        for point in points_of(new.backend):
            place = bisect.bisect_left(points, point)
            points.insert(place, point)
            owners.insert(place, new)
        yield
    return _Circle(points, owners, members)


def _circle_in_steps(members: strategies.Members) -> Generator[None, None, _Circle]:
    """Points are sorted shelf by shelf: a sort of all of them would be one long pause."""
    owner_of: dict[int, member.Member] = {}
    shelves: list[list[int]] = [[] for _ in range(_SHELVES)]
    for first in range(0, len(members), _PIECE):
        for each in members[first : first + _PIECE]:
            for point in points_of(each.backend):
                shelves[point * _SHELVES // _CIRCLE].append(point)
                owner_of[point] = each
        yield
    points: list[int] = []
    owners: list[member.Member] = []
    for shelf in shelves:
        shelf.sort()
        points += shelf
        owners += [owner_of[point] for point in shelf]
        if len(points) % _PIECE < len(shelf):
            yield
    return _Circle(points, owners, frozenset(members))


def points_of(backend: addresses.SocketAddress) -> tuple[int, ...]:
    text = f"{backend.address} {backend.port}".encode()
    return _unpack_points(hashlib.blake2b(text, digest_size=8 * _POINTS).digest())


def probes_of(client: str) -> tuple[int, ...]:
    return _unpack_probes(hashlib.shake_128(client.encode()).digest(8 * _PROBES))


class SourceHash(strategies.Selection):
    """The member that is nearest to the client, of those that picks go over.

    `circles` has these, and others, which are boxed or have left the set meanwhile.
    """

    choose = None

    def __init__(self, members: strategies.Members, circles: Circles) -> None:
        if len(members) == sum(len(each.members) for each in circles.values()):
            thinned = circles
            usable = frozenset().union(*(each.members for each in circles.values()))
        else:
            usable = frozenset(members)
            counts = Counter(map(_weight, members))
            thinned = {
                weight: _thinned(circles[weight], count, usable) for weight, count in counts.items()
            }
        # Bound to no method: an object that holds its own methods is freed late.
        self._find = functools.partial(_nearest, thinned, usable)
        self._chosen = cast(
            "Callable[[str], member.Member]", functools.lru_cache(_REMEMBERED)(self._find)
        )

    def chooser_for(self, client: str) -> strategies.Chooser:
        """See `Selection`."""
        return functools.partial(self._chosen, client)

    def choose_other(self, client: str, tried: strategies.Tried) -> member.Member | None:
        """The nearest one that is not in `tried`: where the client would go without these."""
        return self._find(client, frozenset(tried))

    def choose_free(self, client: str) -> member.Member | None:
        """The nearest one that is not boxed, where it is found soon."""
        chosen = self._chosen(client)
        return self._find(client, is_free=True) if chosen.boxed else chosen


def _thinned(circle: _Circle, count: int, usable: frozenset[member.Member]) -> _Circle:
    """A circle on which at least half of the points are of usable members, which are `count`.

    Otherwise a search for the next one of these could take long.
    """
    if 2 * count * _POINTS >= len(circle.points):
        return circle
    kept = [place for place, owner in enumerate(circle.owners) if owner in usable]
    points = [circle.points[each] for each in kept]
    return _Circle(points, [circle.owners[each] for each in kept], usable)


def _nearest(
    circles: Circles,
    usable: frozenset[member.Member],
    client: str,
    tried: frozenset[addresses.SocketAddress] = frozenset(),
    *,
    is_free: bool = False,
) -> member.Member | None:
    """The usable member nearest to `client` that is not in `tried`.

    With `is_free` one that is not boxed; None if none is near to a probe.
    """
    nearest, least = None, math.inf
    probes = probes_of(client)
    for weight, circle in circles.items():
        points, owners = circle.points, circle.owners
        for probe in probes:
            place = bisect.bisect(points, probe) % len(points)
            owner = owners[place]
            if is_free:
                found = _next_free(owners, place, usable)
                if found is None:
                    continue
                place, owner = found, owners[found]
            elif owner not in usable or owner.backend in tried:
                found = _next_usable(owners, place, usable, tried)
                if found is None:
                    break
                place, owner = found, owners[found]
            distance = (points[place] - probe) % _CIRCLE / weight
            if distance < least:
                nearest, least = owner, distance
    return nearest


def _next_usable(
    owners: list[member.Member],
    place: int,
    usable: frozenset[member.Member],
    tried: frozenset[addresses.SocketAddress],
) -> int | None:
    """The first place after this one whose owner may be chosen; None if there is none."""
    for each in itertools.chain(range(place + 1, len(owners)), range(place)):
        if owners[each] in usable and owners[each].backend not in tried:
            return each
    return None


def _next_free(
    owners: list[member.Member], place: int, usable: frozenset[member.Member]
) -> int | None:
    """The first of the next places whose owner is not boxed; None if all of those are."""
    for each in range(place, place + _NEAR):
        owner = owners[each % len(owners)]
        if not owner.boxed and owner in usable:
            return each % len(owners)
    return None


def select(members: strategies.Members, context: strategies.Context) -> strategies.Selection:
    """The nearest member, on the circles that `circles_in_steps` has made of the whole set."""
    circles = cast("Circles", context.prepared)
    return SourceHash(members, circles)
