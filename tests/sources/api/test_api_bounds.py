"""Servers that send without end, or next to nothing: bounded, reported, and healed (H9).

Cases: K18 of docs/faults.md.
"""

import asyncio
import itertools
import json
import tracemalloc
from typing import Any

import pytest
from aiohttp import web

from kproxy.sources.api import api_bounds
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, SLICES
from tests.sources.api.rig.following import on_fake_time

SMALL = api_bounds.Bounds(objects=50, pages=20, list_bytes=200_000)


def listed(items: list[Any], token: str = "") -> fake_api.Object:
    metadata = {"resourceVersion": "500", **({"continue": token} if token else {})}
    return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}


def named(number: int) -> fake_api.Object:
    metadata = {"name": f"n-{number}", "namespace": "default", "resourceVersion": "400"}
    return {**fake_api.service(f"10.97.{number // 250}.{number % 250}"), "metadata": metadata}


async def dripped(request: web.BaseRequest) -> web.StreamResponse:
    response = await fake_api.begin(request)
    body = json.dumps(listed([named(number) for number in range(100)])).encode()
    for byte in body:
        await response.write(bytes((byte,)))
        await asyncio.sleep(1)
    return response


async def repeated(request: web.BaseRequest) -> web.StreamResponse:
    del request
    return fake_api.reply(listed([named(1)], "again"))


def endless_pages(*, size: int) -> fake_api.Behaviour:
    numbers, pages = itertools.count(), itertools.count()

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        del request
        items = [named(number) for number in itertools.islice(numbers, size)]
        return fake_api.reply(listed(items, f"page-{next(pages)}"))

    return behave


async def endless_fields(request: web.BaseRequest) -> web.StreamResponse:
    response = await fake_api.begin(request)
    await response.write(b'{"kind":"List"')
    for number in itertools.count():
        await response.write(b',"f%d":"%s"' % (number, b"x" * 1000))
    return response


async def endless_blanks(request: web.BaseRequest) -> web.StreamResponse:
    response = await fake_api.begin(request)
    while True:
        await response.write(b" " * 10_000)


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        pytest.param(dripped, "the list comes too slowly", id="dripped"),
        pytest.param(repeated, "the same continue token twice", id="repeated token"),
        pytest.param(endless_pages(size=0), "more than 20 pages", id="endless empty pages"),
        pytest.param(endless_pages(size=5), "more than 50 objects", id="endless pages"),
        pytest.param(endless_fields, "more fields than a list can have", id="endless fields"),
        pytest.param(endless_blanks, "longer than 200000 bytes", id="endless blanks"),
    ],
)
@pytest.mark.parametrize("is_first", [True, pytest.param(False, marks=pytest.mark.extra)])
def test_h9_lists_without_end_are_bounded_and_reported(
    behaviour: fake_api.Behaviour, said: str, is_first: bool
) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        if not is_first:
            api.script(SERVICES, "list", api.answer_list)
            api.script(SERVICES, "watch", fake_api.fails(500))
        api.script(SERVICES, "list", *[behaviour] * 10_000)
        async with following.following(api, limits=SMALL) as followed:
            await followed.until(lambda: any(said in each for each in followed.sentences()), 200)
            await asyncio.sleep(90)
            assert len(api.requests(SERVICES, "list")) <= 25 * 90
            assert len(followed.told) <= 4
            if is_first:
                assert not followed.informed.has_synced
            else:
                assert followed.backends("web") == {"10.1.0.1"}
                assert "out of contact" in followed.informed.describe()
            assert len(followed.services()) <= SMALL.objects + 1
            api.forget_scripts()
            await followed.until(lambda: followed.services() == {"web"}, 200)
            await followed.until(lambda: followed.informed.problems() == ())

    on_fake_time(scenario)


def test_an_event_that_comes_a_byte_a_second_is_given_up_after_half_a_minute() -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = await fake_api.begin(request)
        for _ in range(10_000):
            await response.write(b"x")
            await asyncio.sleep(1)
        return response

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", drip)
        async with following.following(api) as followed:
            await followed.synced()
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: followed.services() == {"web", "db"}, 40)
            assert "an event comes too slowly" in followed.sentences()[0]

    on_fake_time(scenario)


def test_a_watch_that_brings_ever_new_objects_stops_at_the_bound() -> None:
    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        response = await fake_api.begin(request)
        for number in range(1000):
            body = named(number)
            body["metadata"]["resourceVersion"] = str(1000 + number)
            await response.write(fake_api.event("ADDED", body))
        return response

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", flood)
        async with following.following(api, limits=SMALL) as followed:
            await followed.until(lambda: bool(followed.told))
            assert "more than 50 objects" in followed.sentences()[0]
            await followed.until(lambda: followed.services() == {"web"})  # the list that follows

    on_fake_time(scenario)


@pytest.mark.extra
@pytest.mark.parametrize("streams", [False, True])
def test_memory_stays_flat_while_a_server_sends_fields_and_deletions_without_end(
    streams: bool,
) -> None:
    async def deletions(request: web.BaseRequest) -> web.StreamResponse:
        response = await fake_api.begin(request)
        for number in range(20_000):
            body = named(number)
            body["metadata"]["resourceVersion"] = str(1000 + number)
            await response.write(fake_api.event("DELETED", body))
        return response

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api, limits=SMALL) as followed:
            await followed.synced()
            await asyncio.sleep(1)
            tracemalloc.start()
            api.script(SERVICES, "stream" if streams else "list", *[endless_fields] * 20)
            api.script(SLICES, "watch", deletions)
            api.emit(SERVICES, "ERROR", fake_api.status_object(500, "", "again"))
            await asyncio.sleep(60)
            grown, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert grown < 20_000_000
            assert followed.backends("web") == {"10.1.0.1"}

    on_fake_time(scenario, fake_api.FakeApi(streams=streams))
