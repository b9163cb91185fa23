"""From the Store to the data plane, without a server above.

Behaviour: row 47 of docs/behaviour.md.
"""

import asyncio
import contextlib
import gc
import ipaddress
from collections.abc import AsyncIterator, Iterator, Sequence

from kproxy.model import addresses, forwarding
from kproxy.model.kinds import node_kind, registry, service_cidr_kind
from kproxy.ops import health
from kproxy.portal import loopback, portal
from kproxy.reconcile import reconciler
from kproxy.sources import store
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
    def __init__(self, **options: str) -> None:
        self.source = observing.StillSource(())
        self.source.store = store.Store((*registry.KINDS, node_kind.KIND))
        self.plane = Plane()
        self.syncs = health.SyncRecord()
        self.reconciler = reconciler.Reconciler(
            self.source, self.plane, builders.options(**options), self.syncs
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

    def backends(self) -> tuple[addresses.SocketAddress, ...]:
        """What the Service's port is balanced over."""
        found = self.plane.backends.get(builders.port_of("web"))
        pools = found.pools if found else ()
        return forwarding.backends_of(pools, forwarding.Scope.CLUSTER, addresses.Family.IPV4)

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


def node(zone: str = "", *, is_leaving: bool = False) -> node_kind.Node:
    return node_kind.Node(node_kind.KIND.key("n1"), zone, is_leaving)


HINTED = builders.sliced(
    "web",
    [
        builders.endpoint("10.1.0.1", for_zones=("z1",)),
        builders.endpoint("10.1.0.2", for_zones=("z2",)),
    ],
)


async def test_row_33_the_zone_of_the_node_is_followed() -> None:
    world = World(node="n1")
    kept = world.source.store

    async def until(backends: str) -> None:
        while world.backends() != builders.backends(backends):
            world.plane.heard.clear()
            await world.plane.heard.wait()

    async with world.running():
        kept.announce(kept.apply(builders.service()) | kept.apply(HINTED))
        await until("10.1.0.1 10.1.0.2")
        for zone, backends in (("z1", "10.1.0.1"), ("z2", "10.1.0.2"), ("", "10.1.0.1 10.1.0.2")):
            kept.apply(node(zone))
            await until(backends)
        kept.apply(node("z1"))
        await until("10.1.0.1")
        kept.delete("Node", node_kind.KIND.key("n1"))
        await until("10.1.0.1 10.1.0.2")


async def test_row_33_a_zone_that_the_operator_gives_stays() -> None:
    world = World(node="n1", zone="z2")
    kept = world.source.store
    async with world.running():
        kept.apply(node("z1"))
        kept.announce(kept.apply(builders.service()) | kept.apply(HINTED))
        await world.until(BOUND)
        assert world.backends() == builders.backends("10.1.0.2")


def test_row_49_another_node_is_no_matter() -> None:
    world = World(node="n1")
    kept = world.source.store
    with world.syncs.sync():
        pass
    kept.apply(node_kind.Node(node_kind.KIND.key("n2"), is_leaving=True))
    assert world.syncs.is_eligible
    kept.apply(node(is_leaving=True))
    assert not world.syncs.is_eligible
    kept.apply(node())
    assert world.syncs.is_eligible


class Ranged(loopback.LoopbackPortal):
    """Remembers which ranges it was given last."""

    def __init__(self) -> None:
        super().__init__(1)
        self.ranges: list[str] = []
        self.heard = asyncio.Event()

    def take_ranges(self, ranges: Sequence[portal.Network]) -> Iterator[None]:
        self.ranges = sorted(map(str, ranges))
        self.heard.set()
        yield


def cidrs(name: str, *networks: str) -> service_cidr_kind.ServiceCidr:
    return service_cidr_kind.ServiceCidr(
        builders.named(name), tuple(map(ipaddress.ip_network, networks))
    )


async def test_the_portal_has_the_ranges_of_all_service_cidrs() -> None:
    taking = Ranged()
    world = World()
    world.source.store = kept = store.Store((*registry.KINDS, service_cidr_kind.KIND))
    world.reconciler = reconciler.Reconciler(
        world.source, world.plane, builders.options(portal=taking), world.syncs
    )

    async def until(*ranges: str) -> None:
        while taking.ranges != list(ranges):
            taking.heard.clear()
            await taking.heard.wait()

    kept.apply(cidrs("a", "10.96.0.0/16", "fd00::/112"))
    async with world.running():
        world.put()
        await until("10.96.0.0/16", "fd00::/112")
        kept.apply(cidrs("b", "10.97.0.0/16"))
        await until("10.96.0.0/16", "10.97.0.0/16", "fd00::/112")
        kept.delete("ServiceCIDR", builders.named("a"))
        await until("10.97.0.0/16")
        kept.delete("ServiceCIDR", builders.named("b"))
        await until()
