"""A random history of an API server, with its faults, ends in the same state as a fresh start.

And on the way (docs/faults.md K26): while the server can be reached, no endpoint is balanced
over for longer than `GRACE_SECONDS` after its removal was acknowledged.

Histories have either what cuts a stream off or what reorders its events, never both. A client
resumes from the newest version that it has seen; if the events of two objects have changed
places, and the stream breaks between the two, then the older one is before that version and is
not sent again. No client can tell, and a real API server sends its events in order.
"""

import asyncio
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.simulator.api import server_faults
from kproxy.simulator.api.server_faults import Kind
from kproxy.simulator.store import resources
from kproxy.sources.access import kubeconfig
from kproxy.sources.api import api_bounds
from tests.sources.api.rig import simulated_api

GRACE_SECONDS = 5.0
RECOVERY_SECONDS = 100.0
"""Headers of a request may be waited for as long as 30 s, of a watch, of the list that follows,
and of the watch after it."""

BOUNDS = api_bounds.Bounds(objects=50, pages=20, list_bytes=100_000)
"""Far more than a history has, and soon reached by a server that sends without end."""

SERVICES = ["a", "b", "c"]
SLICES = ["s1", "s2", "s3", "s4"]
SERVICE_IPS = ["10.0.9.1", "11.0.9.1", "10.0.9.2"]  # the first two are 127.0.0.1
BACKENDS = ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
CUTS = sorted(set(Kind) - {Kind.REORDER_EVENTS})
DISORDERS = [Kind.DUPLICATE_EVENTS, Kind.REORDER_EVENTS, Kind.OVERSIZED_OBJECTS]

Pair: TypeAlias = tuple[str, str]


class World:
    """An API, the proxy beside it, and what the API has acknowledged."""

    def __init__(self, api: simulated_api.Api, proxy: simulated_api.Proxy) -> None:
        self.api = api
        self.proxy = proxy
        self._truth = self._pairs()
        self._removed: dict[Pair, float] = {}
        self._reachable_from = 0.0
        self.checks = 0

    def changed(self) -> None:
        """Something was acknowledged."""
        now = asyncio.get_running_loop().time()
        before, self._truth = self._truth, self._pairs()
        self._removed.update(dict.fromkeys(before - self._truth, now))

    def disturb(self) -> None:
        """From now on the API may not be reachable, until some time has passed undisturbed."""
        self._reachable_from = asyncio.get_running_loop().time() + RECOVERY_SECONDS

    async def wait(self, seconds: float) -> None:
        """Let time pass, and look at the table every second."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            await asyncio.sleep(min(1.0, end - loop.time()))
            if self.api.faults.active():
                self.disturb()
            if self.proxy.informed.has_synced and loop.time() > self._reachable_from:
                self._check(loop.time())

    def _check(self, now: float) -> None:
        self.checks += 1
        for service, addresses in self.proxy.table().items():
            for pair in ((service, address) for address in addresses):
                if pair not in self._truth:
                    assert now - self._removed[pair] <= GRACE_SECONDS, pair

    def _pairs(self) -> set[Pair]:
        listed = self.api.registry.list
        services = {each["metadata"]["name"] for each in listed(resources.SERVICES)}
        return {
            (service, address)
            for each in listed(resources.ENDPOINT_SLICES)
            for endpoint in each["endpoints"]
            for address in endpoint["addresses"]
            if (service := each["metadata"]["labels"]["kubernetes.io/service-name"]) in services
        }


@dataclasses.dataclass(frozen=True)
class PutService:
    """A Service is made, or moves."""

    name: str
    ip: str

    async def play(self, world: World) -> None:
        world.api.put_service(self.name, self.ip)
        world.changed()


@dataclasses.dataclass(frozen=True)
class PutSlice:
    """A slice is made, has other endpoints, or goes over to another Service."""

    name: str
    of: str
    addresses: tuple[str, ...]

    async def play(self, world: World) -> None:
        world.api.put_slice(self.name, self.of, *self.addresses)
        world.changed()


@dataclasses.dataclass(frozen=True)
class Remove:
    """An object goes, if it was there."""

    resource: resources.Resource
    name: str

    async def play(self, world: World) -> None:
        if world.api.registry.find(self.resource, self.name, "default"):
            world.api.registry.delete(self.resource, self.name, "default")
            world.changed()


@dataclasses.dataclass(frozen=True)
class Wait:
    """Nothing happens for a while."""

    seconds: float

    async def play(self, world: World) -> None:
        await world.wait(self.seconds)


@dataclasses.dataclass(frozen=True)
class Break:
    """A switch is on, for so many requests or until the next `Mend`."""

    kind: Kind
    count: int | None

    async def play(self, world: World) -> None:
        world.disturb()
        world.api.faults.set(self.kind, count=self.count, size=1000)


@dataclasses.dataclass(frozen=True)
class Mend:
    """All switches are off."""

    async def play(self, world: World) -> None:
        world.api.faults.clear()


@dataclasses.dataclass(frozen=True)
class Restart:
    """The server is away for a while; `changes` are acknowledged by another one meanwhile."""

    seconds: float
    changes: tuple["Change", ...]

    async def play(self, world: World) -> None:
        world.disturb()
        await world.api.server.stop()
        for change in self.changes:
            await change.play(world)
        await asyncio.sleep(self.seconds)
        await world.api.server.start()
        world.disturb()


@dataclasses.dataclass(frozen=True)
class Forget:
    """The server compacts its history."""

    async def play(self, world: World) -> None:
        world.api.forget_history()


Change: TypeAlias = PutService | PutSlice | Remove
Step: TypeAlias = Change | Wait | Break | Mend | Restart | Forget

services = st.builds(PutService, st.sampled_from(SERVICES), st.sampled_from(SERVICE_IPS))
slices = st.builds(
    PutSlice,
    st.sampled_from(SLICES),
    st.sampled_from(SERVICES),
    st.lists(st.sampled_from(BACKENDS), unique=True).map(tuple),
)
removals = st.one_of(
    st.builds(Remove, st.just(resources.SERVICES), st.sampled_from(SERVICES)),
    st.builds(Remove, st.just(resources.ENDPOINT_SLICES), st.sampled_from(SLICES)),
)
changes: st.SearchStrategy[Change] = st.one_of(services, slices, slices, removals)
waits: st.SearchStrategy[Step] = st.builds(Wait, st.sampled_from([0.0, 0.01, 1.0, 10.0, 200.0]))
restarts = st.builds(
    Restart, st.sampled_from([0.0, 3.0, 60.0]), st.lists(changes, max_size=3).map(tuple)
)


def breaks(kinds: Sequence[Kind]) -> st.SearchStrategy[Step]:
    return st.builds(Break, st.sampled_from(kinds), st.sampled_from([1, 2, 5, None]))


mends: st.SearchStrategy[Step] = st.builds(Mend)
cut: st.SearchStrategy[Step] = st.one_of(
    *(changes, changes, changes, waits, waits),
    *(
        breaks(CUTS),
        breaks(sorted(server_faults.STREAMS)),
        mends,
        restarts,
        st.builds(Forget),
    ),
)
disordered: st.SearchStrategy[Step] = st.one_of(changes, changes, waits, breaks(DISORDERS), mends)
openings = st.tuples(
    *(st.builds(PutService, st.just(name), st.sampled_from(SERVICE_IPS)) for name in SERVICES),
    *(
        st.builds(PutSlice, st.just(name), st.just(of), st.just(tuple(BACKENDS)))
        for name, of in zip(SLICES, SERVICES, strict=False)
    ),
)


def histories(
    steps: st.SearchStrategy[Step], least: int = 5, most: int = 30
) -> st.SearchStrategy[list[Step]]:
    """Histories that begin with a world in which everything is there."""
    rest = st.lists(steps, min_size=least, max_size=most)
    return st.builds(lambda opening, later: [*opening, *later], openings, rest)


def check(history: Sequence[Step], *, streaming: bool) -> None:
    """Play a history; then its end must be that of a fresh start."""

    async def scenario(api: simulated_api.Api) -> None:
        with tempfile.TemporaryDirectory() as directory:
            access = api.access_by_file(Path(directory) / "token")
            await play(api, access)

    async def play(api: simulated_api.Api, access: kubeconfig.ClusterAccess) -> None:
        async with simulated_api.beside(api, access=access, limits=BOUNDS) as proxy:
            world = World(api, proxy)
            await world.wait(1)
            for step in history:
                await step.play(world)
            await Mend().play(world)
            await world.wait(2 * RECOVERY_SECONDS)
            assert world.checks >= RECOVERY_SECONDS / 2
            assert proxy.state() == await simulated_api.fresh_start(api)
            assert proxy.informed.problems() == ()

    simulated_api.run(scenario, streaming_lists=streaming)


@hypothesis.settings(max_examples=15)
@hypothesis.given(histories(cut), st.booleans())
def test_any_history_of_faults_and_restarts_ends_like_a_fresh_start(
    history: Sequence[Step], streaming: bool
) -> None:
    check(history, streaming=streaming)


@pytest.mark.extra
@hypothesis.settings(max_examples=60)
@hypothesis.given(histories(cut), st.booleans())
def test_more_histories_of_faults_and_restarts_end_like_fresh_starts(
    history: Sequence[Step], streaming: bool
) -> None:
    check(history, streaming=streaming)


@hypothesis.settings(max_examples=8)
@hypothesis.given(histories(disordered), st.booleans())
def test_any_history_in_disorder_ends_like_a_fresh_start(
    history: Sequence[Step], streaming: bool
) -> None:
    check(history, streaming=streaming)


@pytest.mark.extra
@hypothesis.settings(max_examples=30)
@hypothesis.given(histories(disordered), st.booleans())
def test_more_histories_in_disorder_end_like_fresh_starts(
    history: Sequence[Step], streaming: bool
) -> None:
    check(history, streaming=streaming)


@pytest.mark.long
@hypothesis.settings(max_examples=1000, deadline=None)
@hypothesis.given(histories(cut, 30, 100), st.booleans())
def test_many_long_histories_end_like_fresh_starts(
    history: Sequence[Step], streaming: bool
) -> None:
    check(history, streaming=streaming)


@pytest.mark.parametrize("kind", sorted(server_faults.INCIDENTS))
def test_an_incident_just_before_a_restart_ends_like_a_fresh_start(kind: Kind) -> None:
    opening: list[Step] = [
        PutService("a", SERVICE_IPS[0]),
        PutSlice("s1", "a", tuple(BACKENDS)),
    ]
    check([*opening, Break(kind, 1), Restart(3.0, ())], streaming=False)
