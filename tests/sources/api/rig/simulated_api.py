"""A simulated API server whose objects a test sets, and a proxy beside it without sockets.

The server is the one of `kproxy simulate`, without its controllers and without its rules: what a
test puts is what clients read, be it nonsense. Time is the event loop's, which jumps.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog.testing

from kproxy import metrics
from kproxy.model import addresses, forwarding, names
from kproxy.portal import loopback
from kproxy.reconcile import proxier
from kproxy.reconcile.planning import rules
from kproxy.simulator.api import apiserver, server_faults
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from kproxy.sources.access import kubeconfig
from kproxy.sources.api import informer
from tests import virtual_time
from tests.reconcile import recording
from tests.simulator import objects
from tests.sources.api.rig import fake_api

if TYPE_CHECKING:
    from kproxy.sources import source

_T = TypeVar("_T")
TOKEN = "secret"


class Api:
    """An API server that may be stopped and started, and the objects that outlive it.

    `address` and `port` are where it listens; `options` are an `ApiServer`'s.
    """

    def __init__(self, **options: Any) -> None:
        self.registry = objects.new_registry()
        self.server = apiserver.ApiServer(self.registry, tokens={TOKEN: "kproxy"}, **options)

    @property
    def faults(self) -> server_faults.Faults:
        """The switches."""
        return self.server.faults

    @property
    def version(self) -> int:
        """The newest resourceVersion."""
        return self.registry.storage.resource_version

    def put_service(self, name: str, ip: str = "10.96.0.1", **spec: Any) -> None:
        """Create or change a Service of one port named http."""
        made = fake_api.service(ip)
        self.put(resources.SERVICES, name, {**made, "spec": {**made["spec"], **spec}})

    def put_slice(self, name: str, of: str, *ips: str, **fields: Any) -> None:
        """Create or change an EndpointSlice of the Service `of`."""
        self.put(resources.ENDPOINT_SLICES, name, {**fake_api.sliced(of, *ips), **fields})

    def put(self, resource: resources.Resource, name: str, body: Object) -> None:
        """Create or change an object, whatever it is."""
        metadata = {**body.get("metadata", {}), "name": name, "namespace": "default"}
        new = {**body, "metadata": metadata}
        if self.registry.find(resource, name, "default") is None:
            self.registry.create(resource, new)
        else:
            self.registry.update(resource, new)

    def serve_web(self, *ips: str) -> None:
        """Create a Service named web, and its one slice."""
        self.put_service("web")
        self.put_slice("web-1", "web", *ips)

    def remove_service(self, name: str) -> None:
        """Delete a Service, and none of its slices."""
        self.registry.delete(resources.SERVICES, name, "default")

    def remove_slice(self, name: str) -> None:
        """Delete an EndpointSlice."""
        self.registry.delete(resources.ENDPOINT_SLICES, name, "default")

    def forget_history(self) -> None:
        """Who asks for an older version than the present one gets 410."""
        self.registry.storage.compact()
        self.server.cache.restart()

    def access(self) -> kubeconfig.ClusterAccess:
        """How clients get here, once it has been started."""
        token = next(iter(self.server.tokens))
        return kubeconfig.ClusterAccess(self.server.url, "test", kubeconfig.User(token=token))

    def access_by_file(self, path: Path) -> kubeconfig.ClusterAccess:
        """The same with a token that is read from `path`, where each new token is written."""

        def write() -> None:
            path.write_text(next(iter(self.server.tokens)))

        write()
        self.server.on_access_change(write)
        return kubeconfig.ClusterAccess(self.server.url, "test", kubeconfig.User(token_file=path))

    async def reserve_port(self) -> None:
        """Settle the port for a server that is not there yet: it refuses until it is started."""
        await self.server.start()
        await self.server.stop()


class Proxy:
    """An informer, and a proxier that makes true at once whatever it hears of."""

    def __init__(self, access: kubeconfig.ClusterAccess, *, seed: int = 1, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.told: list[source.Problem] = []
        self.changes: list[tuple[float, frozenset[names.NamespacedName]]] = []
        self.informed = informer.InformerSource(
            access,
            on_problem=self.told.append,
            **{"clock": loop.time, "rng": random.Random(seed), **options},
        )
        self.informed.store.subscribe(self._on_change)
        self.plane = recording.RecordingPlane()
        self.proxier = proxier.Proxier(
            self.informed.store, self.plane, rules.Options(portal=loopback.LoopbackPortal(1))
        )

    def _on_change(self, changed: frozenset[names.NamespacedName]) -> None:
        self.changes.append((asyncio.get_running_loop().time(), changed))
        with structlog.testing.capture_logs():
            self.proxier.mark(changed)
            self.proxier.sync()

    @property
    def counters(self) -> tuple[metrics.ReflectorCounters, metrics.ReflectorCounters]:
        """Of Services, and of endpoints."""
        of_services, of_endpoints = self.informed.counters()
        return of_services, of_endpoints

    def failures(self) -> Counter[str]:
        """How often lists and watches failed, by reason."""
        return sum((each.failures for each in self.counters), start=Counter[str]())

    def relists(self) -> Counter[str]:
        """How often there was a list, by cause."""
        return sum((each.relists for each in self.counters), start=Counter[str]())

    def table(self) -> dict[str, set[str]]:
        """What connections are balanced over: addresses by Service."""
        return {
            name.service.name: {
                backend.address
                for backend in forwarding.backends_of(
                    message.pools, forwarding.Scope.CLUSTER, addresses.Family.IPV4
                )
            }
            for name, message in self.plane.backends.items()
        }

    def sentences(self) -> list[str]:
        """All problems reported so far."""
        return [str(problem) for problem in self.told]

    def state(self) -> dict[str, Any]:
        """All that a fresh start must come to as well."""
        rules = self.proxier.rules()
        return {
            "rules": rules,
            "open": dict(self.plane.open),
            "backends": dict(self.plane.backends),
            "frontends": {name: self.proxier.frontends(name) for name in rules},
        }

    async def synced(self) -> None:
        """Wait until everything has been listed."""
        await until(lambda: self.informed.has_synced)


async def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return as soon as `condition` holds; TimeoutError after `seconds` of the clock."""
    await virtual_time.until(condition, seconds)


@contextlib.asynccontextmanager
async def beside(api: Api, **options: Any) -> AsyncIterator[Proxy]:
    """A proxy that follows `api` until the end of the block; `options` are its own."""
    made = Proxy(options.pop("access", None) or api.access(), **options)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.informed.run())
        try:
            yield made
        finally:
            running.cancel()


async def fresh_start(api: Api) -> dict[str, Any]:
    """The state of a proxy that starts now."""
    async with beside(api) as fresh:
        await fresh.synced()
    return fresh.state()


def run(scenario: Callable[[Api], Awaitable[_T]], **options: Any) -> _T:
    """Run a scenario on an API server that listens; what waits an hour takes no time."""

    async def main() -> _T:
        api = Api(**options)
        async with api.server:
            return await scenario(api)

    return virtual_time.run(main)
