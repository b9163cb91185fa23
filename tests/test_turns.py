"""Long computations leave the event loop to others, however many there are."""

import asyncio
import itertools
from collections.abc import Generator, Iterator

import pytest

from kproxy import turns


@pytest.fixture(autouse=True)
def _shortest_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every item uses a slice up."""
    monkeypatch.setattr(turns, "SLICE", 0.0)


async def collected(shared: turns.Turns, count: int) -> list[int]:
    return [item async for batch in shared.batches(range(count)) for item in batch]


async def test_every_item_comes_once_and_in_order() -> None:
    assert await collected(turns.Turns(), 100) == list(range(100))
    assert await collected(turns.Turns(), 0) == []


async def test_a_slice_takes_as_many_items_as_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", 3600.0)

    assert [batch async for batch in turns.Turns().batches(range(9))] == [list(range(9))]


async def test_others_run_between_slices_and_only_one_slice_a_turn() -> None:
    shared = turns.Turns()
    made = 0
    seen = [0]

    def counted() -> Iterator[int]:
        nonlocal made
        for item in range(50):
            made += 1
            yield item

    async def consume() -> None:
        async for _ in shared.batches(counted()):
            pass

    async def watch() -> None:
        while made < 150:
            seen.append(made)
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(consume())
        group.create_task(watch())

    assert made == 150
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 1


async def test_a_computation_that_fails_does_not_hold_up_the_others() -> None:
    shared = turns.Turns()

    with pytest.raises(ZeroDivisionError):
        async for _ in shared.batches(1 // number for number in (1, 0)):
            pass

    assert await collected(shared, 5) == [0, 1, 2, 3, 4]


async def test_steps_are_taken_a_slice_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each step moves by a second."""
    monkeypatch.setattr(turns, "SLICE", 3.0)
    taken = 0
    seen = [0]

    def steps() -> Iterator[None]:
        nonlocal taken
        for _ in range(30):
            taken += 1
            yield

    async def watch() -> None:
        while taken < 30:
            seen.append(taken)
            await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(turns.in_slices(steps(), lambda: float(taken)))
        group.create_task(watch())

    assert taken == 30
    assert max(after - before for before, after in itertools.pairwise(seen)) == 3


async def test_steps_that_fail_end_there() -> None:
    with pytest.raises(ZeroDivisionError):
        await turns.in_slices(1 // number for number in (1, 0))


async def test_the_result_of_steps_is_what_they_return() -> None:
    def steps() -> Generator[None, None, str]:
        for _ in range(3):
            yield
        return "done"

    assert await turns.Turns().result(steps()) == "done"
