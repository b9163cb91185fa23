"""Long computations in steps: a generator that pauses, so that a caller can let others run."""

import heapq
import itertools
import random
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_RUN = 256
"""Items handled between two pauses: some 100 us."""


def at_once(steps: Generator[None, None, _Result]) -> _Result:
    """Take all steps of a computation, and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _Result = done.value
            return result


def runs(items: Iterable[_Item], size: int = _RUN) -> Iterator[list[_Item]]:
    """`items`, as many at a time as may be handled between two pauses."""
    left = iter(items)
    while run := list(islice(left, size)):
        yield run


def shuffled_in_steps(items: list[_Item], rng: random.Random) -> Generator[None, None, None]:
    """As `rng.shuffle(items)`. The list must not change meanwhile."""
    draw = rng.random
    for last in range(len(items) - 1, 0, -1):
        other = int(draw() * (last + 1))
        items[last], items[other] = items[other], items[last]
        if last % _RUN == 0:
            yield


def sorted_in_steps(
    items: Iterable[_Item], key: Callable[[_Item], Any] | None = None
) -> Generator[None, None, list[_Item]]:
    """As `sorted`: runs are sorted, then merged."""
    runs: list[list[Any]] = [[]]
    for item in items:
        if len(runs[-1]) == _RUN:
            runs[-1].sort(key=key)
            runs.append([])
            yield
        runs[-1].append(item)
    runs[-1].sort(key=key)
    if all(_is_before(one[-1], other[0], key) for one, other in itertools.pairwise(runs)):
        return list(itertools.chain.from_iterable(runs))
    made = []
    # Without a key a merge compares in C alone.
    merged = heapq.merge(*runs) if key is None else heapq.merge(*runs, key=key)
    for count, item in enumerate(merged, 1):
        made.append(item)
        if count % _RUN == 0:
            yield
    return made


def _is_before(one: Any, other: Any, key: Callable[[Any], Any] | None) -> bool:
    """Whether `one` may come before `other`."""
    return bool(one <= other if key is None else key(one) <= key(other))
