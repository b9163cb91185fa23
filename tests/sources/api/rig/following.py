"""An informer under test: what it said, and a deadline for what it is to do."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from kproxy import metrics
from kproxy.model import names
from kproxy.sources import source, store
from kproxy.sources.access import kubeconfig
from kproxy.sources.api import informer
from tests import virtual_time
from tests.sources.api.rig import fake_api


@dataclass
class Following:
    """An informer that runs, with all it has reported."""

    api: fake_api.FakeApi
    informed: informer.InformerSource
    changes: list[frozenset[names.NamespacedName]] = field(default_factory=list)
    told: list[source.Problem] = field(default_factory=list)
    consumer: store.Listener | None = None
    """Called with changes, beside their being kept."""

    def on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        """What the informer calls."""
        self.changes.append(changed)
        if self.consumer is not None:
            self.consumer(changed)

    async def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait for `condition`. Raises TimeoutError."""
        await virtual_time.until(condition, seconds)

    async def synced(self) -> None:
        """Wait until everything has been listed."""
        await self.until(lambda: self.informed.has_synced)

    def services(self) -> set[str]:
        """The names of the Services it has."""
        return {each.name for each in self.informed.store.service_names()}

    def backends(self, service: str) -> set[str]:
        """The addresses behind a Service's port named http."""
        port = names.ServicePortName(names.NamespacedName("default", service), "http")
        return {endpoint.backend.address for endpoint in self.informed.store.endpoints(port)}

    def sentences(self) -> list[str]:
        """All problems reported so far."""
        return [str(problem) for problem in self.told]

    @property
    def of_services(self) -> metrics.ReflectorCounters:
        """Counters of the first reflector of Services."""
        return self.informed.counters()[0]


@contextlib.asynccontextmanager
async def following(
    api: fake_api.FakeApi,
    *,
    access: kubeconfig.ClusterAccess | None = None,
    seed: int = 1,
    **options: Any,
) -> AsyncIterator[Following]:
    """Run an informer on `api`, on the clock of the running loop."""
    made: list[Following] = []
    followed = informer.InformerSource(
        access or kubeconfig.ClusterAccess(api.url, "test"),
        on_problem=lambda problem: made[0].told.append(problem),
        clock=asyncio.get_running_loop().time,
        rng=random.Random(seed),
        **options,
    )
    made.append(Following(api, followed))
    followed.store.subscribe(made[0].on_change)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(followed.run())
        try:
            yield made[0]
        finally:
            running.cancel()


def on_fake_time(
    scenario: Callable[[fake_api.FakeApi], Awaitable[None]], api: fake_api.FakeApi | None = None
) -> None:
    """Run a scenario against a fake server; what waits an hour takes no time."""

    async def main() -> None:
        async with fake_api.serving(api or fake_api.FakeApi()) as served:
            await scenario(served)

    run: Callable[[], Coroutine[Any, Any, None]] = main
    virtual_time.run(run)
