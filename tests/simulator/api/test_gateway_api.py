"""The resources of the Gateway API over HTTP."""

from collections.abc import AsyncIterator

import pytest

from kproxy.simulator.api import apiserver, emulation
from kproxy.simulator.store import resources
from tests.simulator.api_client import Api
from tests.simulator.objects import ruled_registry

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/default/tcproutes"
OLD_ROUTES = "/apis/gateway.networking.k8s.io/v1alpha2/namespaces/default/tcproutes"
ROUTE = {
    "metadata": {"name": "r"},
    "spec": {"rules": [{"backendRefs": [{"name": "a", "port": 1}]}]},
}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(params=[emulation.V1_20, emulation.V1_33], ids=["1.20", "1.33"])
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    objects = ruled_registry()
    tokens = {"secret": "admin"}
    async with apiserver.ApiServer(objects, tokens=tokens, emulate=request.param) as server:
        server.faults.clear()
        made = Api(server, objects)
        async with made.session:
            yield made


async def test_a_route_is_one_object_in_both_versions(api: Api) -> None:
    code, made = await api.ask("POST", OLD_ROUTES, json=ROUTE)
    assert (code, made["apiVersion"]) == (201, "gateway.networking.k8s.io/v1alpha2")
    _, new = await api.get(f"{ROUTES}/r")
    assert (new["apiVersion"], new["spec"]) == ("gateway.networking.k8s.io/v1", made["spec"])
    async with api.watch(OLD_ROUTES, resourceVersion="0") as events:
        seen = await events.next()
        assert seen["object"]["apiVersion"] == made["apiVersion"]
        rules = [{"backendRefs": [{"name": "b", "port": 2}]}]
        code, patched = await api.ask(
            "PATCH", f"{ROUTES}/r", json={"spec": {"rules": rules}}, headers=MERGE
        )
        assert (code, patched["metadata"]["generation"]) == (200, 2)
        assert (await events.next())["object"]["spec"] == patched["spec"]


async def test_a_custom_resource_has_no_strategic_merge_patch(api: Api) -> None:
    await api.ask("POST", ROUTES, json=ROUTE)
    code, refused = await api.ask("PATCH", f"{ROUTES}/r", json={}, headers=STRATEGIC)
    assert (code, refused["message"]) == (
        415,
        (
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json-patch+json, application/merge-patch+json"
        ),
    )


async def test_discovery_has_the_group_with_its_newest_version_first(api: Api) -> None:
    _, group = await api.get("/apis/gateway.networking.k8s.io")
    assert group["preferredVersion"]["version"] == "v1"
    assert {each["version"] for each in group["versions"]} == {"v1", "v1beta1", "v1alpha2"}
    _, served = await api.get("/apis/gateway.networking.k8s.io/v1")
    names = {each["name"]: each for each in served["resources"]}
    assert names["gateways"]["shortNames"] == ["gtw"]
    assert names["gatewayclasses"]["categories"] == ["gateway-api"]
    assert "tcproutes/status" in names


async def test_a_namespace_takes_its_routes_with_it(api: Api) -> None:
    api.registry.create(resources.NAMESPACES, {"metadata": {"name": "shop"}})
    path = ROUTES.replace("default", "shop")
    assert (await api.ask("POST", path, json=ROUTE))[0] == 201
    api.registry.delete(resources.NAMESPACES, "shop")
    _, left = await api.get("/apis/gateway.networking.k8s.io/v1/tcproutes")
    assert left["items"] == []


async def test_the_schema_has_bounds_in_version_3(api: Api) -> None:
    name = "io.k8s.networking.gateway.v1.TCPRoute"
    _, document = await api.get("/openapi/v2")
    rules = document["definitions"][name]["properties"]["spec"]["properties"]["rules"]
    assert "maxItems" not in rules
    backend = rules["items"]["properties"]["backendRefs"]["items"]
    assert backend["properties"]["weight"]["type"] == "integer"
    if api.server.emulated.minor >= 24:
        _, document = await api.get("/openapi/v3/apis/gateway.networking.k8s.io/v1")
        schema = document["components"]["schemas"][name]
        assert schema["properties"]["spec"]["properties"]["rules"]["maxItems"] == 1
