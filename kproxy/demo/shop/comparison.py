"""The two architectures side by side: the same pods, the same deaths, the same clients.

Half of the requests go through a node (Ingress, Service, kproxy), half through a gateway that has a
registry of heartbeats. Here a request is sent once and never repeated: what is shown is what the
architecture does, and not what a client makes up for.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from kproxy.demo import stage
from kproxy.demo.shop import application, http_client, registry, trouble
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import registry as objects
from kproxy.simulator.store import resources, storage
from kproxy.simulator.store.storage import Object

RATE = 20.0
"""Requests in a second, on each way."""

PATH = "/user/7"
_AFTER_SECONDS = registry.EXPIRY_SECONDS + 2 * registry.BEAT_SECONDS
"""How long requests go on after a death: until the registry has noticed, and a little longer."""

_PODS = 3

Get = Callable[[], Awaitable[http_client.Answer]]
"""Sends one request. Raises NoAnswerError."""


@dataclass(slots=True)
class Outcome:
    """What came of the requests of one way after one death."""

    requests: int = 0
    failed: int = 0
    slowest: float = 0.0
    failing_for: float = 0.0
    """Seconds from the death to the last request that failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A death, and what came of it on both ways."""

    death: trouble.Way
    through_service: Outcome
    through_registry: Outcome


class Comparison:
    """Lets a pod of UserMgr end in each way, and counts what clients meet meanwhile."""

    def __init__(
        self, stored: objects.Registry, through_service: Get, port: int, ends: trouble.Trouble
    ) -> None:
        """`port` is that of the pods."""
        self._objects = stored
        self._service = through_service
        self._port = port
        self._trouble = ends
        self._registry = registry.Registry(asyncio.get_running_loop().time)
        self._gateway = registry.Gateway(self._registry)

    async def run(self) -> list[Row]:
        """A row for each way to end. Raises KproxyError when a pod does not come back."""
        rows = []
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat())
            with self._signing_off():
                for way in trouble.Way:
                    await stage.until(
                        self._objects,
                        lambda: len(self._living()) == _PODS,
                        f"{_PODS} pods of {application.USERS}",
                    )
                    self._register()
                    rows.append(await self._death(way))
            beating.cancel()
        return rows

    async def _death(self, way: trouble.Way) -> Row:
        """One pod ends, under load."""
        service, gateway = Outcome(), Outcome()
        victim = str(self._living()[0]["metadata"]["name"])

        async def through_gateway() -> http_client.Answer:
            return await self._gateway.get(application.USERS, PATH)

        async with asyncio.TaskGroup() as group:
            group.create_task(_load(self._service, service))
            group.create_task(_load(through_gateway, gateway))
            group.create_task(self._trouble.end(victim, way))
        return Row(way, service, gateway)

    async def _beat(self) -> None:
        """The heartbeats of all pods, which are sent here on their behalf."""
        while True:
            self._register()
            await asyncio.sleep(registry.BEAT_SECONDS)

    def _register(self) -> None:
        """Every pod that lives sends a heartbeat; one that is lost, or gone, cannot."""
        for pod in self._living():
            self._registry.beat(application.USERS, self._instance(pod))

    @contextlib.contextmanager
    def _signing_off(self) -> Iterator[None]:
        """A pod that ends in good order signs off first, as a shutdown hook does."""

        def follow(event: storage.Event) -> None:
            if event.resource is resources.PODS and event.type == "MODIFIED":
                pod = event.object
                if pods.is_terminating(pod) and _address(pod):
                    self._registry.sign_off(application.USERS, self._instance(pod))

        unsubscribe = self._objects.storage.subscribe(follow)
        try:
            yield
        finally:
            unsubscribe()

    def _living(self) -> list[Object]:
        """The pods of UserMgr that are ready, and would answer."""
        found = application.pods_of(self._objects, application.USERS)
        return list(filter(trouble.is_well, found))

    def _instance(self, pod: Object) -> registry.Instance:
        return registry.Instance(pod["metadata"]["name"], _address(pod), self._port)


def _address(pod: Object) -> str:
    return str((pod.get("status") or {}).get("podIP") or "")


async def _load(get: Get, outcome: Outcome) -> None:
    """Send requests at a steady rate, whether the earlier ones are answered or not."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def ask() -> None:
        sent = loop.time()
        outcome.requests += 1
        try:
            answer = await get()
            is_good = answer.status == 200  # OK
        except http_client.NoAnswerError:
            is_good = False
        outcome.slowest = max(outcome.slowest, loop.time() - sent)
        if not is_good:
            outcome.failed += 1
            outcome.failing_for = sent - began

    async with asyncio.TaskGroup() as group:
        for number in range(round(RATE * _AFTER_SECONDS)):
            await asyncio.sleep(began + number / RATE - loop.time())
            group.create_task(ask())
