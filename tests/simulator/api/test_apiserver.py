"""The API over HTTP, as clients meet it; shapes of errors as a real server sent them."""

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.simulator.api import apiserver, emulation, server_faults
from kproxy.simulator.api.formats import media
from kproxy.simulator.store import resources
from tests.simulator.api_client import SERVICES, Api
from tests.simulator.objects import new_registry, pod, service

RECORDED = (
    Path(__file__).parent.parent.parent / "fixtures" / "recordings" / "kube-apiserver-v1.20.2"
)
SLICES = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    objects = new_registry(history=20)
    server = apiserver.ApiServer(objects, tokens={"secret": "admin"}, bookmark_interval=0.05)
    async with server:
        made = Api(server, objects)
        async with made.session:
            yield made


def _recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


async def test_errors_have_the_shape_of_a_real_server(api: Api) -> None:
    _, absent = await api.get("/api/v1/namespaces/rec/services/absent")
    assert absent == _recorded("not-found-404.json")
    _, unknown = await api.get("/apis/discovery.k8s.io/v2")
    assert unknown == _recorded("discovery-v1-absent.txt")
    api.server.tokens["theirs"] = "nobody"
    api.server.faults.set(server_faults.Kind.FORBIDDEN)
    theirs = {"Authorization": "Bearer theirs"}
    assert await api.ask("GET", "/api/v1/services", headers=theirs) == (
        403,
        _recorded("forbidden-403.json"),
    )


@pytest.mark.parametrize("credentials", ["", "Bearer wrong", "Basic !", "Basic Zm9vOmJhcg=="])
async def test_without_the_token_there_is_nothing(api: Api, credentials: str) -> None:
    code, body = await api.ask("GET", SERVICES, headers={"Authorization": credentials})
    assert (code, body) == (401, _recorded("unauthorized-401.json"))
    async with api.session.get(api.server.url + "/readyz", headers={"Authorization": ""}) as ok:
        assert await ok.text() == "ok"


async def test_an_object_from_creation_to_deletion(api: Api) -> None:
    code, created = await api.ask("POST", SERVICES, json=service("web"))
    assert (code, created["kind"], created["apiVersion"]) == (201, "Service", "v1")
    one = f"{SERVICES}/web"
    assert await api.get(one) == (200, created)
    created["spec"]["type"] = "NodePort"
    code, updated = await api.ask("PUT", one, json=created)
    assert (code, updated["spec"]["type"]) == (200, "NodePort")
    code, stale = await api.ask("PUT", one, json=created)
    assert (code, stale["reason"]) == (409, "Conflict")
    patch = {"Content-Type": "application/merge-patch+json"}
    code, patched = await api.ask(
        "PATCH", one, data=json.dumps({"metadata": {"labels": {"a": "b"}}}), headers=patch
    )
    assert (code, patched["metadata"]["labels"]) == (200, {"a": "b"})
    code, deleted = await api.ask("DELETE", one)
    assert (code, deleted["status"], deleted["details"]["name"]) == (200, "Success", "web")
    assert (await api.get(one))[0] == 404


async def test_yaml_is_read_and_nulls_are_not_there(api: Api) -> None:
    text = "metadata: {name: web, creationTimestamp: null, annotations: {at: '2026-01-02'}}"
    headers = {"Content-Type": "application/yaml"}
    code, created = await api.ask("POST", SERVICES, data=text, headers=headers)
    assert code == 201
    assert created["metadata"]["annotations"] == {"at": "2026-01-02"}
    assert created["metadata"]["creationTimestamp"]


@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("POST", SERVICES, {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", SERVICES, {"json": service("a", "other")}, 400),
        ("POST", SERVICES, {"json": {"kind": "Pod"}}, 400),
        ("POST", SERVICES, {"data": b"x", "headers": {"Content-Type": "text/html"}}, 415),
        ("PUT", f"{SERVICES}/a", {"json": service("b")}, 400),
        ("PATCH", SERVICES, {"data": b"{}"}, 405),
        ("PATCH", f"{SERVICES}/a", {"data": b"{}"}, 415),
        ("GET", SERVICES, {"headers": {"Accept": "application/vnd.kubernetes.protobuf"}}, 406),
        ("GET", f"{SERVICES}?resourceVersion=abc", {}, 400),
        ("GET", f"{SERVICES}?resourceVersion=999", {}, 504),
        ("GET", f"{SERVICES}?resourceVersionMatch=Exact", {}, 422),
        ("GET", f"{SERVICES}?labelSelector=a+b", {}, 400),
        ("GET", f"{SERVICES}?continue=nonsense", {}, 400),
        ("GET", f"{SERVICES}?watch=1&sendInitialEvents=true", {}, 422),
        ("GET", "/api/v1/gremlins", {}, 404),
        ("DELETE", "/api/v1/namespaces", {}, 405),
        ("POST", SERVICES, {"data": io.BytesIO(b" " * (media.LARGEST_BODY + 1))}, 413),
    ],
)
async def test_refusals(
    api: Api, method: str, path: str, options: dict[str, Any], code: int
) -> None:
    answered, body = await api.ask(method, path, **options)
    assert (answered, body["kind"], body["code"]) == (code, "Status", code)


async def test_server_side_apply_is_refused_in_words(api: Api) -> None:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    code, body = await api.ask("PATCH", f"{SERVICES}/a", data=b"{}", headers=headers)
    assert code == 415
    assert "--server-side" in body["message"]


async def test_pages_are_of_one_moment(api: Api) -> None:
    api.make("a", "b", "c", "d")
    _, first = await api.get(SERVICES, limit="3")
    assert first["metadata"]["remainingItemCount"] == 1
    api.registry.delete(resources.SERVICES, "d", "default")
    api.make("e")
    token = first["metadata"]["continue"]
    _, second = await api.get(SERVICES, limit="3", **{"continue": token})
    assert [each["metadata"]["name"] for each in second["items"]] == ["d"]
    assert second["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}
    assert "kind" not in second["items"][0]


async def test_a_page_of_a_forgotten_moment_is_gone(api: Api) -> None:
    api.make("a", "b")
    _, first = await api.get(SERVICES, limit="1")
    api.make("c")
    api.registry.storage.compact()
    code, gone = await api.get(SERVICES, limit="1", **{"continue": first["metadata"]["continue"]})
    recorded = _recorded("continue-expired-410.json")
    assert (code, gone["message"], gone["reason"]) == (410, recorded["message"], "Expired")
    token = gone["metadata"]["continue"]
    assert json.loads(base64.urlsafe_b64decode(token + "=="))["rv"] == -1
    _, rest = await api.get(SERVICES, **{"continue": token})
    assert [each["metadata"]["name"] for each in rest["items"]] == ["b", "c"]


async def test_version_0_ignores_the_limit(api: Api) -> None:
    api.make("a", "b")
    _, body = await api.get(SERVICES, limit="1", resourceVersion="0")
    assert len(body["items"]) == 2


async def test_a_list_of_many_is_complete(api: Api) -> None:
    names = [f"s{number:04}" for number in range(1001)]
    api.make(*names)
    _, body = await api.get("/api/v1/services")
    assert [each["metadata"]["name"] for each in body["items"]] == names


async def test_a_watch_from_a_version_sends_what_came_after(api: Api) -> None:
    api.make("before")
    version = str(api.registry.storage.resource_version)
    api.make("elsewhere", namespace="other")
    async with api.watch(resourceVersion=version) as events:
        api.make("after")
        api.registry.delete(resources.SERVICES, "before", "default")
        assert await events.told(2) == [("ADDED", "after"), ("DELETED", "before")]


async def test_a_selecting_watch_sees_objects_come_and_go(api: Api) -> None:
    api.make("web", labels={"app": "x"})
    async with api.watch(labelSelector="app=y", resourceVersion="0") as events:
        for label in ("y", "y2", "z"):
            new = service("web", labels={"app": label[0], "n": label})
            api.registry.update(resources.SERVICES, new)
        told = await events.told(3)
    assert told == [("ADDED", "web"), ("MODIFIED", "web"), ("DELETED", "web")]


async def test_bookmarks_come_in_between_and_at_the_end(api: Api) -> None:
    version = str(api.registry.storage.resource_version)
    query = {"resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "600"}
    async with api.watch(**query) as events:
        mark = await events.next()
        assert mark["type"] == "BOOKMARK"
        assert mark["object"]["metadata"]["resourceVersion"] == version
        await api.server.stop()
        assert json.loads((await events.rest()).splitlines()[-1])["type"] == "BOOKMARK"


async def test_a_streaming_list_says_where_it_ends(api: Api) -> None:
    api.make("a", "b")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    async with api.watch(**query, allowWatchBookmarks="true") as events:
        assert await events.told(2) == [("ADDED", "a"), ("ADDED", "b")]
        end = await events.next()
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_from_before_the_history_is_gone(api: Api) -> None:
    api.make(*(f"s{number}" for number in range(30)))
    async with api.watch(resourceVersion="1") as events:
        error = await events.next()
        assert (error["type"], error["object"]["code"]) == ("ERROR", 410)
        assert await events.rest() == b""


async def test_v1beta1_slices_are_a_view_of_v1(api: Api) -> None:
    endpoint = {"addresses": ["10.0.0.1"], "topology": {"kubernetes.io/hostname": "n1"}}
    slice_ = {"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [endpoint]}
    code, created = await api.ask("POST", SLICES, json=slice_)
    assert (code, created["apiVersion"]) == (201, "discovery.k8s.io/v1beta1")
    assert created["endpoints"][0]["topology"] == {"kubernetes.io/hostname": "n1"}
    _, stored = await api.get(f"{SLICES}/s".replace("v1beta1", "v1"))
    assert stored["endpoints"] == [{"addresses": ["10.0.0.1"], "nodeName": "n1"}]


async def test_the_status_of_a_service_is_written_by_itself(api: Api) -> None:
    """As kubectl does with --subresource, and controllers of load balancers."""
    api.make("web")
    one, path = f"{SERVICES}/web", f"{SERVICES}/web/status"
    _, found = await api.get(path)
    spec = dict(found["spec"])
    found["status"] = {"loadBalancer": {"ingress": [{"ip": "127.112.0.9"}]}}
    found["spec"]["type"] = "NodePort"
    code, updated = await api.ask("PUT", path, json=found)
    assert (code, updated["status"]) == (200, found["status"])
    assert updated["spec"] == spec
    assert await api.get(one) == (200, updated)
    code, stale = await api.ask("PUT", path, json=found)
    assert (code, stale["reason"]) == (409, "Conflict")

    merge = {"Content-Type": "application/merge-patch+json"}
    change = {"status": {"loadBalancer": {"ingress": []}}, "spec": {"type": "NodePort"}}
    code, patched = await api.ask("PATCH", path, data=json.dumps(change), headers=merge)
    assert (code, patched["status"]["loadBalancer"]) == (200, {"ingress": []})
    assert patched["spec"] == spec
    code, ignored = await api.ask("PATCH", one, data=json.dumps(change), headers=merge)
    assert (code, ignored["spec"]["type"]) == (200, "NodePort")
    assert ignored["status"] == patched["status"]
    found["metadata"]["name"] = "absent"
    assert (await api.ask("PUT", f"{SERVICES}/absent/status", json=found))[0] == 404


async def test_the_scale_of_a_deployment(api: Api) -> None:
    new = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1}}
    api.registry.create(resources.DEPLOYMENTS, new)
    path = "/apis/apps/v1/namespaces/default/deployments/web/scale"
    _, scale = await api.get(path)
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 1})
    scale["spec"]["replicas"] = 3
    assert (await api.ask("PUT", path, json=scale))[1]["spec"] == {"replicas": 3}
    assert (await api.ask("PUT", path, json=scale))[0] == 409
    assert api.registry.get(resources.DEPLOYMENTS, "web", "default")["spec"]["replicas"] == 3


async def test_tables(api: Api) -> None:
    api.registry.create(resources.PODS, pod("p"))
    _, table = await api.ask("GET", "/api/v1/pods", headers=TABLE)
    names = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
    assert names == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert table["rows"][0]["cells"][0] == "p"
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_a_collection_is_deleted_as_far_as_it_is_selected(api: Api) -> None:
    api.make("a", labels={"x": "1"})
    api.make("b")
    await api.ask("DELETE", SERVICES, params={"labelSelector": "x=1"})
    assert [each["metadata"]["name"] for each in api.registry.list(resources.SERVICES)] == ["b"]


async def test_it_starts_again_on_its_port(api: Api) -> None:
    url = api.server.url
    await api.server.stop()
    await api.server.start()
    assert api.server.url == url
    assert (await api.get(SERVICES))[0] == 200


async def test_openapi_of_each_version(api: Api) -> None:
    _, index = await api.get("/openapi/v3")
    assert "apis/apps/v1" in index["paths"]
    _, document = await api.get("/openapi/v2")
    ports = document["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"]
    assert ports["x-kubernetes-patch-merge-key"] == "port"
    for path in index["paths"]:
        assert (await api.get(f"/openapi/v3/{path}"))[0] == 200


async def test_discovery_classic_and_aggregated(api: Api) -> None:
    _, groups = await api.get("/apis")
    versions = {each["name"]: [v["version"] for v in each["versions"]] for each in groups["groups"]}
    assert versions == {
        "apps": ["v1"],
        "discovery.k8s.io": ["v1", "v1beta1"],
        "networking.k8s.io": ["v1"],
        "gateway.networking.k8s.io": ["v1", "v1beta1", "v1alpha2"],
    }
    recorded = {each["name"]: each for each in _recorded("api-v1-resources.json")["resources"]}
    _, core = await api.get("/api/v1")
    for entry in core["resources"]:
        known = recorded[entry["name"]]
        for field in ("kind", "namespaced", "shortNames", "categories"):
            assert entry.get(field) == known.get(field)
    wanted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    _, aggregated = await api.ask("GET", "/apis", headers={"Accept": wanted})
    assert aggregated["apiVersion"] == "apidiscovery.k8s.io/v2"
    names = [each["metadata"]["name"] for each in aggregated["items"]]
    assert names == list(versions)
    apps = aggregated["items"][0]["versions"][0]["resources"][0]
    assert {each["subresource"] for each in apps["subresources"]} == {"scale", "status"}


async def test_a_version_can_be_left_out() -> None:
    objects = new_registry()
    served = [each for each in emulation.V1_33.served if each != resources.ENDPOINT_SLICES]
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}, served=served) as server:
        api = Api(server, objects)
        async with api.session:
            assert (await api.get("/apis/discovery.k8s.io/v1"))[0] == 404
            assert (await api.get(SLICES))[0] == 200
