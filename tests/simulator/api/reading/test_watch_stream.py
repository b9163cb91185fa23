"""Open watches in time: bookmarks, deadlines, and clients that do not read."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kproxy.simulator.api import apiserver
from kproxy.simulator.store import resources
from tests import virtual_time
from tests.simulator.api_client import Api
from tests.simulator.objects import new_registry, service


def run(main: Callable[[Api], Awaitable[None]], *, history: int = 1000) -> None:
    """Run `main` beside a server, on a clock that jumps; a watch without end lasts 40 minutes."""

    async def wrapped() -> None:
        objects = new_registry(history)
        async with apiserver.ApiServer(
            objects, tokens={"secret": "admin"}, draw=lambda low, high: (low + 2400 + high) / 3
        ) as server:
            api = Api(server, objects)
            async with api.session:
                await main(api)

    virtual_time.run(wrapped)


def now() -> float:
    return asyncio.get_running_loop().time()


async def all_of(answer: Any) -> list[tuple[float, Any]]:
    """The events until the end, each with its time."""
    return [(now(), json.loads(line)) async for line in answer.content]


def test_a_bookmark_comes_every_minute_and_before_the_end() -> None:
    async def main(api: Api) -> None:
        version = str(api.registry.storage.resource_version)
        query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
        async with api.watch(**query, timeoutSeconds="150") as events:
            asyncio.get_running_loop().call_later(90, api.make, "web")
            told = await all_of(events.answer)
        at = [(moment // 1, event["type"]) for moment, event in told]
        assert at == [(60, "BOOKMARK"), (90, "ADDED"), (120, "BOOKMARK"), (150, "BOOKMARK")]
        versions = [event["object"]["metadata"]["resourceVersion"] for _, event in told]
        assert versions == [version, *3 * [str(int(version) + 1)]]

    run(main)


def test_a_watch_that_did_not_ask_gets_no_bookmarks_and_ends_when_the_server_likes() -> None:
    async def main(api: Api) -> None:
        async with api.watch(resourceVersion="1") as events:
            assert await all_of(events.answer) == []
        assert now() == pytest.approx(2600, abs=1)

    run(main)


def test_a_bookmark_ends_the_initial_events() -> None:
    async def main(api: Api) -> None:
        api.make("a", "b")
        query = {
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "5",
        }
        async with api.watch(**query) as events:
            told = [event for _, event in await all_of(events.answer)]
        assert [each["type"] for each in told] == ["ADDED", "ADDED", "BOOKMARK", "BOOKMARK"]
        ends = ["annotations" in each["object"]["metadata"] for each in told]
        assert ends == [False, False, True, False]

    run(main)


def test_a_client_that_did_not_read_gets_410_once_it_does() -> None:
    big = "x" * 100_000

    async def main(api: Api) -> None:
        version = str(api.registry.storage.resource_version)
        async with api.watch(resourceVersion=version) as events:
            for number in range(200):  # more than all buffers on the way hold
                new = service(f"s{number}", annotations={"big": big})
                api.registry.create(resources.SERVICES, new)
                await asyncio.sleep(0.001)
            told = [event for _, event in await all_of_big(events.answer)]
        types = [event["type"] for event in told]
        assert types == ["ADDED"] * (len(types) - 1) + ["ERROR"]
        assert 0 < len(types) < 200
        assert (told[-1]["object"]["code"], told[-1]["object"]["reason"]) == (410, "Expired")

    run(main, history=5)


async def all_of_big(answer: Any) -> list[tuple[float, Any]]:
    """The same for lines that are longer than the client's buffer for lines."""
    whole = await answer.content.read()
    return [(now(), json.loads(line)) for line in whole.splitlines()]
