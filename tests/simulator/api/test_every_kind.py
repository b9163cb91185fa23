"""Each kind that applications are made of, through every verb."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kproxy.simulator.api import apiserver
from kproxy.simulator.store import api_versions, resources
from kproxy.simulator.store.resources import Resource
from tests.simulator.api_client import Api
from tests.simulator.objects import ingress, ruled_registry

MERGE = {"Content-Type": "application/merge-patch+json"}
ROUTE = {"rules": [{"backendRefs": [{"name": "a", "port": 1}]}]}
LISTENER = {"name": "a", "port": 1, "protocol": "TCP"}
CONTENT: dict[Resource, dict[str, Any]] = {
    resources.INGRESSES: {"spec": ingress()["spec"]},
    resources.INGRESS_CLASSES: {"spec": {"controller": "a.io/b"}},
    resources.SECRETS: {"data": {"a": "YQ=="}},
    resources.CONFIG_MAPS: {"data": {"a": "b"}},
    resources.SERVICE_ACCOUNTS: {},
    resources.GATEWAY_CLASSES: {"spec": {"controllerName": "a.io/b"}},
    resources.GATEWAYS: {"spec": {"gatewayClassName": "a", "listeners": [LISTENER]}},
    resources.TCP_ROUTES: {"spec": ROUTE},
    resources.UDP_ROUTES: {"spec": ROUTE},
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    objects = ruled_registry()
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}) as server:
        made = Api(server, objects)
        async with made.session:
            yield made


def collection(resource: Resource) -> str:
    root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
    return f"{root}/{'namespaces/default/' if resource.namespaced else ''}{resource.plural}"


@pytest.mark.parametrize("resource", CONTENT, ids=str)
async def test_every_verb(api: Api, resource: Resource) -> None:
    path = collection(resource)
    body = {"metadata": {"name": "x", "labels": {"a": "b"}}, **CONTENT[resource]}
    dry = {"dryRun": "All"}
    assert (await api.ask("POST", path, json=body, params=dry))[0] == 201
    code, made = await api.ask("POST", path, json=body)
    assert (code, made["kind"], made["apiVersion"]) == (201, resource.kind, resource.api_version)
    assert await api.get(f"{path}/x") == (200, made)
    _, listed = await api.get(path, labelSelector="a=b", fieldSelector="metadata.name=x")
    (entry,) = listed["items"]
    assert entry["metadata"] == made["metadata"]
    async with api.watch(path, resourceVersion=made["metadata"]["resourceVersion"]) as events:
        change = {"metadata": {"annotations": {"c": "d"}}}
        code, patched = await api.ask("PATCH", f"{path}/x", json=change, headers=MERGE)
        assert code == 200
        code, replaced = await api.ask(
            "PUT", f"{path}/x", json={**patched, "metadata": made["metadata"]}
        )
        assert (code, replaced["reason"]) == (409, "Conflict")
        code, replaced = await api.ask("PUT", f"{path}/x", json={**patched, **body})
        assert (code, "annotations" in replaced["metadata"]) == (200, False)
        assert (await api.ask("DELETE", f"{path}/x"))[0] == 200
        assert await events.told(3) == [("MODIFIED", "x"), ("MODIFIED", "x"), ("DELETED", "x")]
    has_status = (await api.get(f"{path}/x/status"))[1]["message"].endswith("not found")
    assert has_status is resource.has_status


@pytest.mark.parametrize("resource", CONTENT, ids=str)
@pytest.mark.parametrize(
    "content",
    [
        {"spec": None, "data": None},
        {"spec": [], "data": []},
        {"spec": "text", "data": "text", "secrets": "text"},
        {"spec": {"rules": {}, "listeners": {}, "controller": 1, "controllerName": 1}},
        {"spec": {"rules": [None, 1, []], "listeners": [None, 1, []], "parameters": []}},
        {"spec": {"rules": [{"http": [], "backendRefs": [[]]}], "parentRefs": [1], "tls": [[]]}},
        {"data": {"a": []}, "stringData": {"a": {}}, "binaryData": 1, "immutable": 1},
    ],
    ids=range(7),
)
async def test_nothing_odd_is_a_bug_of_the_server(
    api: Api, resource: Resource, content: dict[str, Any]
) -> None:
    for served in api_versions.versions_of(resource):
        body = {**content, "metadata": {"name": "x", "namespace": "default"}}
        if not resource.namespaced:
            del body["metadata"]["namespace"]
        stored = api_versions.to_stored(served, body)
        code, answer = await api.ask("POST", collection(resource), json=stored)
        assert code in {201, 400, 422}, answer
        await api.ask("DELETE", f"{collection(resource)}/x")
