"""From the Store to the data plane, without a server above.

Behaviour: row 47 of docs/behaviour.md.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

from kproxy.model import forwarding
from kproxy.ops import health
from kproxy.reconcile import reconciler
from tests.ops import observing
from tests.reconcile import builders, recording

DEADLINE = 30.0
BOUND = "127.0.9.1:80"


class Plane(recording.RecordingPlane):
    """Says when a message came."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    def send(self, message: forwarding.Message) -> None:
        super().send(message)
        self.heard.set()


class World:
    def __init__(self) -> None:
        self.source = observing.StillSource(())
        self.plane = Plane()
        self.syncs = health.SyncRecord()
        self.reconciler = reconciler.Reconciler(
            self.source, self.plane, builders.options(), self.syncs
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
                running = group.create_task(self.reconciler.run())
                yield
                running.cancel()
        finally:
            gc.unfreeze()

    def put(self) -> None:
        store = self.source.store
        store.announce(store.apply(builders.service()) | store.apply(builders.sliced("web")))

    def remove(self) -> None:
        store = self.source.store
        store.announce(store.delete("Service", builders.named("web")))

    async def until(self, *opened: str) -> None:
        while {str(each) for each in self.plane.open} != set(opened):
            self.plane.heard.clear()
            await self.plane.heard.wait()


async def test_a_change_in_the_store_reaches_the_data_plane() -> None:
    world = World()
    async with world.running():
        world.put()
        await world.until(BOUND)
        world.remove()
        await world.until()


async def test_nothing_is_opened_before_the_source_is_complete() -> None:
    world = World()
    world.source.has_synced = False
    world.put()
    assert world.syncs.last_queued is None
    async with world.running():
        world.source.has_synced = True
        world.reconciler.look_again()
        await world.reconciler.is_served.wait()
        await world.until(BOUND)


async def test_it_is_served_once_the_first_sync_is_done() -> None:
    world = World()
    assert not world.reconciler.is_served.is_set()
    async with world.running():
        world.put()
        await world.reconciler.is_served.wait()
        assert {str(each) for each in world.plane.open} == {BOUND}
        assert world.syncs.is_ready
