"""The habits of old and new servers, over HTTP; those of 1.20.2 against its recordings."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kproxy.simulator.api import apiserver, emulation
from kproxy.simulator.api.reading import watches
from kproxy.simulator.store import api_versions, resources
from tests import virtual_time
from tests.simulator.api_client import SERVICES, Api
from tests.simulator.objects import new_registry

RECORDED = (
    Path(__file__).parent.parent.parent / "fixtures" / "recordings" / "kube-apiserver-v1.20.2"
)
STREAMING = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


@contextlib.asynccontextmanager
async def serving(emulate: emulation.Emulation, **options: Any) -> AsyncIterator[Api]:
    """A server, and a client of it, at a time when the server has its roles."""
    objects = new_registry()
    options = {"draw": lambda low, _: low, **options}
    async with apiserver.ApiServer(
        objects, tokens={"secret": "admin"}, emulate=emulate, **options
    ) as server:
        server.faults.clear()
        api = Api(server, objects)
        async with api.session:
            yield api


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual_time.run(main)


async def test_discovery_of_slices_is_as_recorded() -> None:
    async with serving(emulation.V1_20) as api:
        assert await api.get("/apis/discovery.k8s.io") == (200, recorded("discovery-group.json"))
        assert await api.get("/apis/discovery.k8s.io/v1") == (
            404,
            recorded("discovery-v1-absent.txt"),
        )
        _, served = await api.get("/apis/discovery.k8s.io/v1beta1")
        (slices,) = served["resources"]
        (known,) = recorded("discovery-v1beta1-resources.json")["resources"]
        for field in ("name", "kind", "namespaced", "verbs"):
            assert slices[field] == known[field]
        known = {each["name"]: each for each in recorded("apis.json")["groups"]}
        for name in ("networking.k8s.io", "extensions"):
            _, group = await api.get(f"/apis/{name}")
            assert group == {"kind": "APIGroup", "apiVersion": "v1", **known[name]}
        _, version = await api.get("/version")
        assert (version["minor"], version["gitVersion"][:8]) == ("20", "v1.20.2+")
        assert (await api.get("/openapi/v3"))[0] == 404


async def test_the_document_of_groups_is_the_classic_one_before_1_26() -> None:
    wanted = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
    async with serving(emulation.V1_20) as api:
        assert (await api.ask("GET", "/apis", headers=wanted))[1]["kind"] == "APIGroupList"
    async with serving(emulation.V1_33) as api:
        assert (await api.ask("GET", "/apis", headers=wanted))[1]["kind"] == "APIGroupDiscoveryList"


def test_an_old_server_has_no_bookmark_for_what_is_quiet() -> None:
    """Ten minutes of nothing, and then one change: as `watch-services.jsonl` ends."""

    async def main() -> None:
        async with serving(emulation.V1_20) as api:
            version = str(api.registry.storage.resource_version)
            query = {"allowWatchBookmarks": "true", "resourceVersion": version}
            clock = asyncio.get_running_loop()
            async with api.watch(**query, timeoutSeconds="600") as events:
                assert await events.rest_for_long() == b""
            async with api.watch(**query, timeoutSeconds="90") as events:
                api.make("web")
                changed = str(api.registry.storage.resource_version)
                clock.call_later(1, api.registry.create, resources.PODS, pod())
                told = [json.loads(line) for line in (await events.rest_for_long()).splitlines()]
            assert [each["type"] for each in told] == ["ADDED", "BOOKMARK", "BOOKMARK"]
            # The version of the last Service: the Pod's is not known to this cache.
            assert {each["object"]["metadata"]["resourceVersion"] for each in told} == {changed}

    run(main)


def test_a_new_server_has_a_bookmark_each_minute() -> None:
    async def main() -> None:
        async with serving(emulation.V1_33) as api:
            version = str(api.registry.storage.resource_version)
            query = {"allowWatchBookmarks": "true", "resourceVersion": version}
            async with api.watch(**query, timeoutSeconds="130") as events:
                told = [json.loads(line) for line in (await events.rest_for_long()).splitlines()]
            assert [each["type"] for each in told] == ["BOOKMARK"] * 3

    run(main)


async def test_a_streaming_list_of_an_old_server_is_an_ordinary_watch() -> None:
    async with serving(emulation.V1_20) as api:
        api.make("a")
        code, refused = await api.get(SERVICES, watch="true", **STREAMING)
        assert (code, refused["message"]) == (
            422,
            (
                'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                "resourceVersionMatch is forbidden for watch"
            ),
        )
        async with api.watch(sendInitialEvents="true", allowWatchBookmarks="true") as events:
            assert await events.told(1) == [("ADDED", "a")]
            api.make("b")
            assert await events.told(1) == [("ADDED", "b")]
        assert (await api.get(SERVICES, sendInitialEvents="true"))[0] == 200
    async with serving(emulation.V1_33) as api:
        code, refused = await api.get(SERVICES, sendInitialEvents="true")
        assert (code, "sendInitialEvents is forbidden for list" in refused["message"]) == (
            422,
            True,
        )


def test_an_old_server_forbids_everything_until_it_has_its_roles() -> None:
    async def main() -> None:
        async with serving(emulation.V1_20) as api:
            await api.server.restart()
            code, refused = await api.get("/api/v1/services")
            assert code == 403
            known = recorded("forbidden-403.json")
            words = known["message"].replace("nobody", "admin")
            assert refused.pop("message").startswith(f"{words}: RBAC: ")
            assert refused == {field: known[field] for field in known if field != "message"}
            await asyncio.sleep(0.11)
            assert (await api.get("/api/v1/services"))[0] == 200

    run(main)


def test_a_restarted_old_server_knows_no_event_from_before() -> None:
    async def main() -> None:
        async with serving(emulation.V1_20) as api:
            api.make("a")
            old = api.registry.storage.resource_version
            api.registry.create(resources.PODS, pod())
            await api.server.restart()
            await asyncio.sleep(1)
            started = old + 1
            async with api.watch(resourceVersion=str(old)) as events:
                error = await events.next()
            known = recorded("watch-too-old-resourceversion.jsonl")
            words = f"too old resource version: {old} ({started})"
            assert error == {**known, "object": {**known["object"], "message": words}}
            versions = []
            for query in (
                {"limit": "500"},
                {},
                {"limit": "500", "resourceVersionMatch": "NotOlderThan"},
            ):
                _, page = await api.get("/api/v1/services", resourceVersion=str(old), **query)
                versions.append(int(page["metadata"]["resourceVersion"]))
            assert versions == [old, started, started]
            _, page = await api.get("/api/v1/services", resourceVersion="0")
            assert page["metadata"]["resourceVersion"] == str(started)

    run(main)


async def test_an_old_cache_has_not_reached_what_other_resources_have() -> None:
    async with serving(emulation.V1_20) as api:
        api.make("a")
        api.registry.create(resources.PODS, pod())
        _, page = await api.get(SERVICES)
        version = page["metadata"]["resourceVersion"]
        code, body = await api.get(SERVICES, resourceVersion=version)
        assert (code, body["details"]["causes"][0]["reason"]) == (504, "ResourceVersionTooLarge")
        assert (await api.get(f"{SERVICES}/a", resourceVersion=version))[0] == 504
        assert (await api.get(f"{SERVICES}/a", resourceVersion="0"))[0] == 200
    async with serving(emulation.V1_33) as api:
        api.make("a")
        api.registry.create(resources.PODS, pod())
        _, page = await api.get(SERVICES)
        version = page["metadata"]["resourceVersion"]
        assert (await api.get(SERVICES, resourceVersion=version))[0] == 200
        assert (await api.get(f"{SERVICES}/a", resourceVersion=version))[0] == 200


def put(api: Api, *names: str, resource: resources.Resource = resources.SERVICES) -> None:
    """Store the objects of recorded lists, as far as clients give them."""
    if api.registry.find(resources.NAMESPACES, "rec") is None:
        api.registry.create(resources.NAMESPACES, {"metadata": {"name": "rec"}})
    for name in names:
        for item in recorded(name)["items"]:
            metadata = given(item)["metadata"]
            new = (
                api_versions.to_stored(
                    api_versions.ENDPOINT_SLICES_V1BETA1, {**given(item), "metadata": metadata}
                )
                if resource == resources.ENDPOINT_SLICES
                else {**item, "metadata": metadata}
            )
            api.registry.create(resource, new)


def given(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what the server has set in its metadata."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata = {field: item["metadata"][field] for field in kept if field in item["metadata"]}
    return {**item, "metadata": metadata}


def token(page: Any) -> dict[str, Any]:
    """The continue token of a page, without its version."""
    encoded = page["metadata"]["continue"]
    read: dict[str, Any] = json.loads(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert read.pop("rv") == int(page["metadata"]["resourceVersion"])
    return read


PAGES = [f"list-services-page{number}.json" for number in (1, 2, 3, 4)]


async def test_pages_are_as_recorded() -> None:
    async with serving(emulation.V1_20) as api:
        put(api, *PAGES)
        query = {"limit": "5"}
        for name in PAGES:
            known = recorded(name)
            _, page = await api.get("/api/v1/services", **query)
            assert [given(each)["metadata"] for each in page["items"]] == [
                given(each)["metadata"] for each in known["items"]
            ]
            assert page.keys() == known.keys()
            assert page["metadata"].keys() == known["metadata"].keys()
            if "continue" in known["metadata"]:
                assert token(page) == token(known)
                remaining = "remainingItemCount"
                assert page["metadata"][remaining] == known["metadata"][remaining]
                query["continue"] = page["metadata"]["continue"]


async def test_an_expired_token_is_as_recorded() -> None:
    async with serving(emulation.V1_20) as api:
        put(api, *PAGES)
        _, page = await api.get("/api/v1/services", limit="5")
        api.make("later")
        api.registry.storage.compact()
        query = {"limit": "5", "continue": page["metadata"]["continue"]}
        assert await api.get("/api/v1/services", **query) == (
            410,
            recorded("continue-expired-410.json"),
        )


async def test_the_selector_of_kube_proxy_chooses_as_recorded() -> None:
    async with serving(emulation.V1_20) as api:
        put(api, *PAGES)
        selector = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
        _, chosen = await api.get("/api/v1/services", labelSelector=selector)
        known = recorded("list-services-kube-proxy-selector.json")
        names = [[each["metadata"]["name"] for each in page["items"]] for page in (chosen, known)]
        assert names[0] == names[1]


async def test_slices_are_as_recorded() -> None:
    async with serving(emulation.V1_20) as api:
        name = "list-endpointslices-v1beta1.json"
        put(api, name, resource=resources.ENDPOINT_SLICES)
        _, listed = await api.get("/apis/discovery.k8s.io/v1beta1/endpointslices")
        known = recorded(name)
        assert (listed["kind"], listed["apiVersion"]) == (known["kind"], known["apiVersion"])
        for one, other in zip(listed["items"], known["items"], strict=True):
            assert given(one) == given(other)


def test_a_bookmark_is_as_recorded() -> None:
    line = (RECORDED / "watch-services.jsonl").read_text().splitlines()[-1]
    known = json.loads(line)
    version = int(known["object"]["metadata"]["resourceVersion"])
    mark = watches.bookmark(resources.SERVICES, version)
    assert {"type": mark.type, "object": mark.object} == known


@pytest.mark.parametrize("version", emulation.Version)
def test_a_version_is_what_its_name_says(version: emulation.Version) -> None:
    assert version == f"1.{version.emulation.minor}"
    assert version.emulation.git_version.startswith(f"v{version}.")


def pod() -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": {}}
