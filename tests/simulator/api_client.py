"""A client of the simulated API server, for its tests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from kproxy.simulator.api import apiserver
from kproxy.simulator.store import registry, resources
from tests.simulator.objects import service

SERVICES = "/api/v1/namespaces/default/services"


class Api:
    """A server and a client of it."""

    def __init__(self, server: apiserver.ApiServer, objects: registry.Registry) -> None:
        self.server = server
        self.registry = objects
        self.session = aiohttp.ClientSession(headers={"Authorization": "Bearer secret"})

    def make(self, *names: str, namespace: str = "default", **metadata: Any) -> None:
        for name in names:
            self.registry.create(resources.SERVICES, service(name, namespace, **metadata))

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.server.url + path, **options) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        return await self.ask("GET", path, params=query)

    @contextlib.asynccontextmanager
    async def watch(self, path: str = SERVICES, **query: str) -> AsyncIterator["Events"]:
        url = self.server.url + path
        for_ever = aiohttp.ClientTimeout()
        params = {"watch": "true", **query}
        async with self.session.get(url, params=params, timeout=for_ever) as answer:
            yield Events(answer)


class Events:
    """The events of a watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> Any:
        async with asyncio.timeout(60):
            return json.loads(await self.answer.content.readline())

    async def told(self, count: int) -> list[tuple[str, str]]:
        events = [await self.next() for _ in range(count)]
        return [(each["type"], each["object"]["metadata"].get("name", "")) for each in events]

    async def rest(self) -> bytes:
        async with asyncio.timeout(60):
            return await self.answer.content.read()

    async def rest_for_long(self) -> bytes:
        """The rest, however long that takes: for clocks that jump."""
        return await self.answer.content.read()
