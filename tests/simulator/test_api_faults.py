"""What can be made to go wrong with the API."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kproxy.simulator import apiserver, faults, resources
from kproxy.simulator.faults import Kind
from tests import virtual_time
from tests.simulator.api_client import SERVICES, Api
from tests.simulator.objects import new_registry


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    objects = new_registry()
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
        made = Api(server, objects)
        async with made.session:
            yield made


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Kind.TOO_MANY_REQUESTS, 429),
        (Kind.INTERNAL_ERROR, 500),
        (Kind.UNAUTHORIZED, 401),
        (Kind.FORBIDDEN, 403),
        (Kind.GONE, 410),
        (Kind.TOO_LARGE_VERSION, 504),
    ],
)
async def test_an_answer_fails_as_often_as_was_ordered(api: Api, kind: Kind, code: int) -> None:
    api.server.faults.set(kind, resource="services", count=1, seconds=7)
    assert (await api.get("/api/v1/pods"))[0] == 200
    assert (await api.get(SERVICES))[0] == code
    assert (await api.get(SERVICES))[0] == 200


async def test_retry_after_is_told(api: Api) -> None:
    api.server.faults.set(Kind.TOO_MANY_REQUESTS, seconds=7)
    async with api.session.get(api.server.url + SERVICES) as answer:
        assert answer.headers["Retry-After"] == "7"


async def test_a_gateway_answers_in_html(api: Api) -> None:
    api.server.faults.set(Kind.BAD_GATEWAY)
    async with api.session.get(api.server.url + SERVICES) as answer:
        assert (answer.status, answer.content_type) == (502, "text/html")


@pytest.mark.parametrize("kind", [Kind.ABRUPT_CLOSE, Kind.GONE, Kind.EMPTY_WATCH])
async def test_an_open_watch_is_ended(api: Api, kind: Kind) -> None:
    version = str(api.registry.storage.resource_version)
    async with api.watch(resourceVersion=version) as events:
        api.server.faults.set(kind, resource="services", count=1)
        if kind == Kind.ABRUPT_CLOSE:
            with pytest.raises(aiohttp.ClientError):
                await events.rest()
        elif kind == Kind.GONE:
            assert json.loads(await events.rest())["object"]["code"] == 410
        else:
            assert await events.rest() == b""


async def test_a_list_is_cut_off(api: Api) -> None:
    api.server.faults.set(Kind.ABRUPT_CLOSE, count=1)
    with pytest.raises(aiohttp.ClientError):
        await api.get(SERVICES)
    assert (await api.get(SERVICES))[0] == 200


async def test_a_watch_is_answered_with_410_instead_of_begun(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    api.server.faults.set(Kind.GONE_STATUS, resource="services", count=1)
    code, answer = await api.get(SERVICES, watch="true", resourceVersion=version)
    assert (code, answer["kind"], answer["code"]) == (410, "Status", 410)
    api.make("web")
    async with api.watch(resourceVersion=version) as events:
        assert await events.told(1) == [("ADDED", "web")]


def test_a_slow_list_takes_as_long_as_was_ordered() -> None:
    async def main() -> None:
        objects = new_registry()
        clock = asyncio.get_running_loop().time
        async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
            api = Api(server, objects)
            async with api.session:
                server.faults.set(Kind.SLOW_LIST, resource="services", count=1, seconds=200)
                slow = asyncio.ensure_future(api.get(SERVICES))
                assert (await api.get("/api/v1/pods"))[0] == 200
                assert clock() < 200
                assert not slow.done()
                assert (await slow)[0] == 200
                assert clock() == pytest.approx(200, abs=1)
                assert (await api.get(SERVICES))[0] == 200
                assert clock() == pytest.approx(200, abs=1)

    virtual_time.run(main)


async def test_a_silent_watch_says_nothing_any_more(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    async with api.watch(resourceVersion=version) as silent:
        api.server.faults.set(Kind.SILENT_WATCH, count=1)
        api.make("web")
        async with api.watch(resourceVersion=version) as other:
            assert await other.told(1) == [("ADDED", "web")]
        await api.server.stop()
        assert await silent.rest() == b""


async def test_half_a_line(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    api.server.faults.set(Kind.HALF_LINE, count=1)
    api.make("web")
    async with api.watch(resourceVersion=version) as events:
        cut = await events.rest()
    assert cut.startswith(b'{"type":"ADDED"')
    assert not cut.endswith(b"\n")


async def test_duplicated_and_reordered_events(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    api.make("a", "b")
    api.registry.delete(resources.SERVICES, "a", "default")
    api.server.faults.set(Kind.DUPLICATE_EVENTS, count=1)
    async with api.watch(resourceVersion=version) as events:
        told = await events.told(6)
    once = [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    assert told == [each for each in once for _ in range(2)]
    api.server.faults.set(Kind.REORDER_EVENTS, count=1, seconds=0)
    async with api.watch(resourceVersion=version) as events:
        assert await events.told(3) == [("ADDED", "b"), ("ADDED", "a"), ("DELETED", "a")]


async def test_oversized_objects(api: Api) -> None:
    api.make("web")
    api.server.faults.set(Kind.OVERSIZED_OBJECTS, size=200_000)
    _, body = await api.get(SERVICES)
    assert len(body["items"][0]["metadata"]["annotations"][faults.PADDING]) == 200_000


async def test_stalled_headers_never_come(api: Api) -> None:
    api.server.faults.set(Kind.STALLED_HEADERS, count=1)
    stalled = asyncio.ensure_future(api.get(SERVICES))
    async with asyncio.timeout(10):
        while (await api.get("/simulator/faults"))[1]["items"]:
            pass
    assert (await api.get(SERVICES))[0] == 200
    assert not stalled.done()
    stalled.cancel()


async def test_the_switches_over_http(api: Api) -> None:
    path = "/simulator/faults"
    order = {"kind": "slow-list", "resource": "pods", "count": 2, "seconds": 0.5}
    _, answer = await api.ask("POST", path, json=order)
    assert [each["kind"] for each in answer["items"]] == ["slow-list"]
    code, _ = await api.ask("POST", path, json={"kind": "mischief"})
    assert code == 400
    _, cleared = await api.ask("DELETE", path)
    assert cleared["items"] == []


@pytest.mark.parametrize("body", [[], {"kind": "gone", "count": "two"}, {"kind": "gone", "x": 1}])
def test_orders_that_make_no_sense(body: Any) -> None:
    with pytest.raises(Exception, match="a fault"):
        faults.Faults().set_from(body)
