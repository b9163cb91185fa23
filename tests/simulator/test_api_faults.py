"""What can be made to go wrong with the API."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kproxy.simulator import certificates
from kproxy.simulator.api import apiserver, server_faults
from kproxy.simulator.api.server_faults import Kind
from kproxy.simulator.store import resources
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


async def test_retry_after_is_sent(api: Api) -> None:
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
    assert len(body["items"][0]["metadata"]["annotations"][server_faults.PADDING]) == 200_000


async def test_stalled_headers_never_come(api: Api) -> None:
    api.server.faults.set(Kind.STALLED_HEADERS, count=1)
    stalled = asyncio.ensure_future(api.get(SERVICES))
    async with asyncio.timeout(60):
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


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"kind": "gone", "count": "two"},
        {"kind": "gone", "x": 1},
        {"kind": {}},
        {"kind": "gone", "count": True},
        {"kind": "slow-list", "seconds": -1},
        {"kind": "oversized-objects", "size": 10**12},
    ],
)
def test_orders_that_make_no_sense(body: Any) -> None:
    with pytest.raises(Exception, match="a fault"):
        server_faults.parsed(body)


async def test_late_rbac_is_over_by_itself() -> None:
    clock = iter((0.0, 1.0, 2.0, 2.0))
    switches = server_faults.Faults(clock=lambda: next(clock))
    switches.set(Kind.LATE_RBAC, seconds=2)
    assert switches.take(server_faults.ANSWERS, "services", "list")
    assert switches.take(server_faults.ANSWERS, "services", "list") is None
    assert switches.active() == []


async def test_late_rbac_says_which_role_is_missing(api: Api) -> None:
    api.server.faults.set(Kind.LATE_RBAC, resource="services", seconds=3600)
    code, body = await api.get("/api/v1/services")
    assert (code, body["reason"], body["details"]) == (403, "Forbidden", {"kind": "services"})
    assert body["message"] == (
        'services is forbidden: User "admin" cannot list resource "services" in API group "" at '
        'the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io "cluster-admin" not found'
    )
    assert (await api.get("/api/v1/pods"))[0] == 200


async def test_revoked_tokens_are_refused_until_there_is_a_new_one(api: Api) -> None:
    changes: list[str] = []
    api.server.on_access_change(lambda: changes.append(next(iter(api.server.tokens))))
    api.server.faults.set(Kind.REVOKED_TOKENS)
    assert (await api.get(SERVICES))[0] == 401
    assert (await api.get("/version"))[0] == 401
    assert (await api.get("/simulator/faults"))[0] == 200  # else nothing could be switched off
    code, _ = await api.ask("POST", "/simulator/faults", json={"kind": "rotated-token"})
    assert code == 200
    await until(lambda: bool(changes))
    assert (await api.get(SERVICES))[0] == 401
    headers = {"Authorization": f"Bearer {changes[0]}"}
    assert (await api.ask("GET", SERVICES, headers=headers))[0] == 200


async def test_a_dead_server_answers_nothing_and_closes_nothing(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    async with api.watch(resourceVersion=version) as events:
        api.server.faults.set(Kind.SILENT_DEATH)
        stalled = [asyncio.ensure_future(api.get(path)) for path in (SERVICES, "/version")]
        api.make("web")
        for _ in range(3):
            assert (await api.get("/simulator/faults"))[0] == 200
        assert not any(each.done() for each in stalled)
        assert not events.answer.content.at_eof()
        assert events.answer.content.total_bytes == 0
        for each in stalled:
            each.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)


async def test_a_restart_forgets_what_a_watch_could_go_on_from(api: Api) -> None:
    url, old = api.server.url, api.registry.storage.resource_version
    api.make("web")
    new = api.registry.storage.resource_version
    async with api.watch(resourceVersion=str(new)) as events:
        order = {"kind": "restart", "seconds": 0}
        code, _ = await api.ask("POST", "/simulator/faults", json=order)
        assert code == 200
        assert await events.rest() == b""
    await until_up(api)
    assert api.server.url == url
    async with api.watch(resourceVersion=str(old)) as events:
        error = await events.next()
        assert error["object"]["message"] == f"too old resource version: {old} ({new})"
    async with api.watch(resourceVersion=str(new)) as events:
        api.make("more")
        assert await events.told(1) == [("ADDED", "more")]


async def test_compaction_takes_the_past_and_leaves_the_watches(api: Api) -> None:
    api.make("a", "b")
    version = str(api.registry.storage.resource_version)
    _, page = await api.get(SERVICES, limit="1")
    async with api.watch(resourceVersion=version) as events:
        api.make("c")
        await api.ask("POST", "/simulator/faults", json={"kind": "compaction"})
        await until(lambda: api.registry.storage.oldest_state(resources.SERVICES) > int(version))
        exact = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
        assert (await api.get(SERVICES, **exact))[0] == 410
        code, expired = await api.get(SERVICES, **{"continue": page["metadata"]["continue"]})
        assert (code, bool(expired["metadata"]["continue"])) == (410, True)
        assert await events.told(1) == [("ADDED", "c")]
    async with api.watch(resourceVersion=version) as events:
        assert await events.told(1) == [("ADDED", "c")]


async def test_a_new_key_comes_with_a_new_authority() -> None:
    def made() -> certificates.Certificate:
        return certificates.self_signed(["127.0.0.1"], ["localhost"], datetime.now(UTC))

    objects = new_registry()
    async with apiserver.ApiServer(
        objects, tokens={"secret": "admin"}, certificate=made(), renew=made
    ) as server:
        before, url = server.kubeconfig(), server.url
        changed = asyncio.Event()
        server.on_access_change(changed.set)
        server.faults.set(Kind.REKEY, seconds=0)
        async with asyncio.timeout(60):
            await changed.wait()
        assert server.url == url
        for config, is_trusted in ((before, False), (server.kubeconfig(), True)):
            entry = config["clusters"][0]["cluster"]
            authority = base64.b64decode(entry["certificate-authority-data"]).decode()
            context = ssl.create_default_context(cadata=authority)
            reader = asyncio.open_connection(server.address, server.port, ssl=context)
            if is_trusted:
                _, writer = await reader
                writer.transport.abort()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await reader


def test_bookmarks_can_be_left_out() -> None:
    async def main() -> None:
        objects = new_registry()
        async with apiserver.ApiServer(
            objects, tokens={"secret": "admin"}, bookmark_interval=1.0
        ) as server:
            api = Api(server, objects)
            async with api.session:
                api.server.faults.set(Kind.NO_BOOKMARKS, resource="services")
                query = {"allowWatchBookmarks": "true", "timeoutSeconds": "10"}
                version = str(objects.storage.resource_version)
                async with api.watch(resourceVersion=version, **query) as events:
                    assert await events.rest() == b""
                async with api.watch("/api/v1/pods", resourceVersion=version, **query) as events:
                    assert (await events.next())["type"] == "BOOKMARK"
                streaming = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
                async with api.watch(**query, **streaming) as events:
                    end = await events.next()
                    assert "k8s.io/initial-events-end" in end["object"]["metadata"]["annotations"]

    virtual_time.run(main)


async def test_a_streaming_list_can_be_ignored(api: Api) -> None:
    api.make("a")
    api.server.faults.set(Kind.IGNORED_INITIAL_EVENTS)
    streaming = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    async with api.watch(**streaming, allowWatchBookmarks="true") as events:
        assert await events.told(1) == [("ADDED", "a")]
        api.make("b")  # and no bookmark in between
        assert await events.told(1) == [("ADDED", "b")]


@pytest.mark.parametrize(
    ("kind", "has_token"), [("expired-continue", True), ("lost-continue", False)]
)
async def test_no_continue_token_is_good(api: Api, kind: str, has_token: bool) -> None:
    api.make("a", "b")
    api.server.faults.set(Kind(kind))
    _, page = await api.get(SERVICES, limit="1")
    code, body = await api.get(SERVICES, limit="1", **{"continue": page["metadata"]["continue"]})
    assert (code, body["reason"]) == (410, "Expired")
    assert ("continue" in body["metadata"]) is has_token
    if has_token:
        again = {"limit": "1", "continue": body["metadata"]["continue"]}
        assert (await api.get(SERVICES, **again))[0] == 410
        api.server.faults.clear()
        _, rest = await api.get(SERVICES, **again)
        assert names(rest) == ["b"]


async def test_a_continue_token_that_leads_to_the_same_page(api: Api) -> None:
    api.make("a", "b", "c")
    api.server.faults.set(Kind.REPEATED_CONTINUE)
    _, page = await api.get(SERVICES, limit="2")
    token = page["metadata"]["continue"]
    _, again = await api.get(SERVICES, limit="2", **{"continue": token})
    assert names(page) == names(again) == ["a", "b"]
    assert again["metadata"]["continue"] == token


async def test_pages_without_end(api: Api) -> None:
    api.make("a")
    api.server.faults.set(Kind.ENDLESS_PAGES)
    token, seen = "", set[str]()
    for number in range(20):
        query = {"limit": "3", **({"continue": token} if token else {})}
        code, page = await api.get(SERVICES, **query)
        assert (code, page["metadata"]["continue"] != token) == (200, True)
        assert not seen & set(names(page))
        seen |= set(names(page))
        assert len(names(page)) == (3 if number else 1)
        token = page["metadata"]["continue"]


async def test_fields_without_end_stop_with_the_client(api: Api) -> None:
    api.server.faults.set(Kind.ENDLESS_FIELDS, count=1)
    async with api.session.get(api.server.url + SERVICES) as answer:
        head = await answer.content.readexactly(1_000_000)
    assert head.startswith(b'{"kind":"ServiceList","apiVersion":"v1","metadata":{"field-0":')
    assert (await api.get(SERVICES))[0] == 200


def test_a_list_that_drips() -> None:
    async def main() -> None:
        objects = new_registry()
        clock = asyncio.get_running_loop().time
        async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
            api = Api(server, objects)
            async with api.session:
                server.faults.set(Kind.DRIPPED_LIST, count=1, seconds=2)
                async with api.session.get(server.url + SERVICES) as answer:
                    body = await answer.read()
                assert json.loads(body)["items"] == []
                assert clock() == pytest.approx(2 * len(body), abs=2)

    virtual_time.run(main)


async def test_an_error_event_without_a_code(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    async with api.watch(resourceVersion=version) as events:
        api.server.faults.set(Kind.ERROR_EVENT, count=1)
        error = await events.next()
        assert (error["type"], error["object"]["kind"]) == ("ERROR", "Status")
        assert "code" not in error["object"]
        assert await events.rest() == b""


async def test_a_cache_that_is_behind(api: Api) -> None:
    api.make("a", "b", "c")
    api.server.faults.set(Kind.STALE_CACHE, size=1)
    _, old = await api.get(SERVICES, resourceVersion="0")
    assert names(old) == ["a", "b"]
    _, newest = await api.get(SERVICES)
    assert names(newest) == ["a", "b", "c"]
    assert int(old["metadata"]["resourceVersion"]) < int(newest["metadata"]["resourceVersion"])


async def test_a_storm_of_410() -> None:
    """`gone` without a count: lists and watches alike, again and again."""
    objects = new_registry()
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
        api = Api(server, objects)
        async with api.session:
            server.faults.set(Kind.GONE, resource="services")
            for _ in range(5):
                assert (await api.get(SERVICES))[0] == 410
                async with api.watch(resourceVersion="1") as events:
                    assert (await events.next())["object"]["code"] == 410


async def test_watches_fail_while_lists_go_well(api: Api) -> None:
    api.server.faults.set(Kind.INTERNAL_ERROR, resource="services", verb="watch")
    assert (await api.get(SERVICES))[0] == 200
    assert (await api.get(SERVICES, watch="true"))[0] == 500


def test_every_fault_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    assert [kind for kind in Kind if f"| `{kind}` |" not in text] == []


def names(page: Any) -> list[str]:
    return [each["metadata"]["name"] for each in page["items"]]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # nothing tells when
            await asyncio.sleep(0.01)


async def until_up(api: Api) -> None:
    """Return once the server answers again."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                if (await api.get(SERVICES))[0] == 200:
                    return
            await asyncio.sleep(0.01)
