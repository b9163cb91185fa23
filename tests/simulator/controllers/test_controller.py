"""A controller coalesces, contains what raises, and tries again with a backoff."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog

from kproxy.model.names import NamespacedName
from kproxy.simulator.controllers import controller
from tests import virtual_time

A, B = NamespacedName("default", "a"), NamespacedName("default", "b")


def run(
    reconcile: Callable[[NamespacedName], float | None],
    script: Callable[[controller.Controller], Awaitable[None]],
) -> None:
    async def main() -> None:
        made = controller.Controller("test", reconcile)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.run())
            await script(made)
            task.cancel()

    virtual_time.run(main)


def test_a_key_that_is_dirty_several_times_is_reconciled_once() -> None:
    seen: list[NamespacedName] = []

    async def script(made: controller.Controller) -> None:
        for key in (A, B, A, A):
            made.enqueue(key)
        await asyncio.sleep(1)

    run(lambda key: seen.append(key), script)
    assert seen == [A, B]


def test_a_key_that_becomes_dirty_while_it_is_reconciled_is_reconciled_again() -> None:
    seen: list[NamespacedName] = []
    holder: list[controller.Controller] = []

    def reconcile(key: NamespacedName) -> None:
        seen.append(key)
        if len(seen) == 1:
            holder[0].enqueue(key)

    async def script(made: controller.Controller) -> None:
        holder.append(made)
        made.enqueue(A)
        await asyncio.sleep(1)

    run(reconcile, script)
    assert seen == [A, A]


def test_it_comes_back_when_asked_to_and_not_twice() -> None:
    times: list[float] = []

    def reconcile(_: NamespacedName) -> float | None:
        times.append(asyncio.get_running_loop().time())
        return 10.0 if len(times) < 3 else None

    async def script(made: controller.Controller) -> None:
        made.enqueue(A)
        await asyncio.sleep(4)
        made.enqueue(A)
        await asyncio.sleep(100)

    run(reconcile, script)
    assert times == [0.0, 4.0, 14.0]


def test_a_failure_is_logged_once_affects_no_other_key_and_is_retried_less_and_less() -> None:
    times: list[float] = []
    others: list[NamespacedName] = []

    def reconcile(key: NamespacedName) -> None:
        if key == B:
            others.append(key)
            return
        times.append(asyncio.get_running_loop().time())
        raise ValueError("no")

    async def script(made: controller.Controller) -> None:
        made.enqueue(A)
        made.enqueue(B)
        await asyncio.sleep(1000)

    with structlog.testing.capture_logs() as logs:
        run(reconcile, script)
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    assert others == [B]
    assert gaps[:4] == [0.05, 0.1, 0.2, 0.4]
    assert gaps[-1] == controller.LONGEST_RETRY
    assert [each["error"] for each in logs] == ["ValueError: no"]
