"""The share of each endpoint, of the weights of the backends that they belong to.

A backend's weight is shared evenly by its endpoints. The weight of a backend without endpoints, or
that cannot be used, is that of clients that are turned away: the others do not get its share.
"""

import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

from kproxy.model import addresses, forwarding, steps

_MOST = 1 << 40
"""The greatest weight that a data plane gets. Greater ones are rounded."""

_MANY = 64
"""Different weights that a data plane may get, which looks at each of them for a connection.

Backends whose endpoints overlap can have one for each endpoint: then weights are rounded to four
binary digits, over a range of 1 to 256, which leaves no more than 72.
"""
_DIGITS = 4
_RANGE = 8


class Share(NamedTuple):
    """A backend's weight, and the endpoints that share it."""

    weight: int
    endpoints: tuple[addresses.SocketAddress, ...]


def pool_in_steps(
    family: addresses.Family, backends: Sequence[Share]
) -> Generator[None, None, forwarding.Pool | None]:
    """The pool over these backends; None if no endpoint may get connections.

    Weights are whole numbers in exact proportion, unless these would be very large. An endpoint of
    several backends gets the sum of its shares.
    """
    counts = [len(each.endpoints) for each in backends if each.weight and each.endpoints]
    if not counts:
        return None
    unit = math.lcm(*counts)
    refused = sum(each.weight for each in backends if not each.endpoints) * unit
    weight_of: dict[addresses.SocketAddress, int] = {}
    for weight, endpoints in backends:
        if not weight or not endpoints:
            continue
        each_gets = weight * unit // len(endpoints)
        for run in steps.runs(endpoints):
            for each in run:
                weight_of[each] = weight_of.get(each, 0) + each_gets
            yield
    found = yield from steps.sorted_in_steps(weight_of, tuple)
    distinct = {*weight_of.values()}
    divisor = math.gcd(refused, *distinct)
    greatest = max(refused, *distinct) // divisor

    def scaled(weight: int) -> int:
        if greatest <= _MOST:
            return weight // divisor
        return max(weight // divisor * _MOST // greatest, 1) if weight else 0

    sent = scaled
    if len(distinct) > _MANY:
        least = min(greatest, _MOST) >> _RANGE

        def sent(weight: int) -> int:
            return _rounded(max(scaled(weight), least))

    yield
    is_even = len(distinct) == 1
    if is_even and not refused:
        return forwarding.Pool(forwarding.Scope.CLUSTER, family, tuple(found))
    weights: list[int] = []
    for run in steps.runs(found):
        weights += [sent(weight_of[each]) for each in run]
        yield
    return forwarding.Pool(
        forwarding.Scope.CLUSTER, family, tuple(found), tuple(weights), scaled(refused)
    )


def _rounded(weight: int) -> int:
    """A weight to as many binary digits as are kept."""
    dropped = max(weight.bit_length() - _DIGITS, 0)
    return (weight + (1 << dropped >> 1)) >> dropped << dropped
