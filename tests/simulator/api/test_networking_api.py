"""Ingresses, their classes and Secrets over HTTP, and by the official Python client."""

import base64
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
import structlog

from kproxy.simulator.api import apiserver, emulation
from tests.simulator.api_client import Api
from tests.simulator.objects import backend, ingress, ruled_registry

INGRESSES = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
OLD = "/apis/networking.k8s.io/v1beta1/namespaces/default/ingresses"
OLDEST = "/apis/extensions/v1beta1/namespaces/default/ingresses"
SECRETS = "/api/v1/namespaces/default/secrets"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
MERGE = {"Content-Type": "application/merge-patch+json"}
ADDRESS = {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}}


@contextlib.asynccontextmanager
async def serving(emulate: emulation.Emulation) -> AsyncIterator[Api]:
    objects = ruled_registry()
    async with apiserver.ApiServer(objects, tokens={"secret": "admin"}, emulate=emulate) as server:
        server.faults.clear()
        made = Api(server, objects)
        async with made.session:
            yield made


async def test_an_ingress_and_its_status_are_written_apart() -> None:
    async with serving(emulation.V1_33) as api:
        given = {**ingress(), "status": ADDRESS}
        code, made = await api.ask("POST", INGRESSES, json=given)
        assert (code, made["status"]) == (201, {"loadBalancer": {}})
        async with api.watch(INGRESSES, resourceVersion="0") as events:
            assert await events.told(1) == [("ADDED", "web")]
            code, made = await api.ask(
                "PATCH",
                f"{INGRESSES}/web/status",
                json={"status": ADDRESS, "spec": {"rules": []}},
                headers=MERGE,
            )
            assert (code, made["status"], made["spec"]) == (200, ADDRESS, given["spec"])
            changed = await events.next()
            assert (changed["type"], changed["object"]["status"]) == ("MODIFIED", ADDRESS)
        code, replaced = await api.ask("PUT", f"{INGRESSES}/web", json=ingress(tls=[{}]))
        assert (code, replaced["status"], replaced["metadata"]["generation"]) == (200, ADDRESS, 2)
        _, table = await api.ask("GET", INGRESSES, headers=TABLE)
        (row,) = table["rows"]
        assert row["cells"][:-1] == ["web", "<none>", "web.example", "127.0.0.1", "80, 443"]
        assert (await api.ask("DELETE", f"{INGRESSES}/web"))[1]["status"] == "Success"


async def test_a_namespace_of_what_has_none_means_nothing() -> None:
    """As `EnsureObjectNamespaceMatchesRequestNamespace` of kube-apiserver."""
    classes = "/apis/networking.k8s.io/v1/ingressclasses"
    given = {
        "metadata": {"name": "kproxy", "namespace": "shop"},
        "spec": {"controller": "kproxy.io/ingress"},
    }
    async with serving(emulation.V1_33) as api:
        for method, path, code in (
            ("POST", classes, 201),
            ("PUT", f"{classes}/kproxy", 200),
            ("PATCH", f"{classes}/kproxy", 200),
        ):
            answer, made = await api.ask(
                method, path, json=given, headers=MERGE if method == "PATCH" else None
            )
            assert (answer, "namespace" in made["metadata"]) == (code, False)


async def test_the_operations_that_conformance_asks_for() -> None:
    """Of "Ingress API" in Kubernetes' test/e2e/network/ingress.go."""
    async with serving(emulation.V1_33) as api:
        for name in ("a", "b", "c"):
            given = ingress(name)
            given["metadata"]["labels"] = {"special": name}
            assert (await api.ask("POST", INGRESSES, json=given))[0] == 201
        everywhere = "/apis/networking.k8s.io/v1/ingresses"
        for path in (INGRESSES, everywhere):
            _, listed = await api.get(path, labelSelector="special in (a,b)")
            assert [each["metadata"]["name"] for each in listed["items"]] == ["a", "b"]
        query = {"resourceVersion": listed["metadata"]["resourceVersion"]}
        async with api.watch(everywhere, labelSelector="special=a", **query) as events:
            change = {"metadata": {"annotations": {"patched": "true"}}}
            code, patched = await api.ask("PATCH", f"{INGRESSES}/a", json=change, headers=MERGE)
            assert (code, patched["metadata"]["annotations"]["patched"]) == (200, "true")
            assert (await events.next())["object"]["metadata"]["generation"] == 1
        code, status = await api.get(f"{INGRESSES}/a/status")
        status["status"] = ADDRESS
        code, status = await api.ask("PUT", f"{INGRESSES}/a/status", json=status)
        assert (code, status["status"]) == (200, ADDRESS)
        wrong = {"status": {"loadBalancer": {"ingress": [{"ip": "010.0.0.1"}]}}}
        code, refused = await api.ask("PATCH", f"{INGRESSES}/a/status", json=wrong, headers=MERGE)
        assert (code, refused["details"]["causes"][0]["field"]) == (
            422,
            "status.loadBalancer.ingress[0].ip",
        )
        assert (await api.ask("DELETE", f"{INGRESSES}/a"))[0] == 200
        assert (await api.get(f"{INGRESSES}/a"))[0] == 404
        assert (await api.ask("DELETE", INGRESSES, params={"labelSelector": "special=b"}))[0] == 200
        _, left = await api.get(INGRESSES)
        assert [each["metadata"]["name"] for each in left["items"]] == ["c"]


async def test_secrets_are_selected_by_their_type() -> None:
    async with serving(emulation.V1_33) as api:
        for name, kind in (("a", "Opaque"), ("b", "x.io/y")):
            body = {"metadata": {"name": name}, "type": kind, "stringData": {"k": "v"}}
            assert (await api.ask("POST", SECRETS, json=body))[0] == 201
        for field in ("type=x.io/y", "metadata.name=b"):
            _, found = await api.get(SECRETS, fieldSelector=field)
            assert [each["metadata"]["name"] for each in found["items"]] == ["b"]
        assert found["items"][0]["data"] == {"k": "dg=="}


async def test_a_secret_is_in_no_log(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever becomes of the request, even if the server has a bug."""
    confidential = base64.b64encode(b"hunter2").decode()

    def fail(*_: object) -> NoReturn:
        raise ValueError("a bug")

    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logged:
        async with serving(emulation.V1_33) as api:
            for body in (
                {"metadata": {"name": "a"}, "data": {"k": confidential}},
                {"metadata": {"name": "b"}, "data": {"k": f"{confidential}?"}},
                {"metadata": {"name": "c"}, "type": [confidential]},
                {"metadata": {"name": "d"}, "type": "kubernetes.io/tls", "data": {}},
            ):
                await api.ask("POST", SECRETS, json=body)
            await api.ask("POST", SECRETS, data=f'{{"{confidential}')
            monkeypatch.setattr(api.registry, "create", fail)
            body = {"metadata": {"name": "e"}, "data": {"k": confidential}}
            code, _ = await api.ask("POST", SECRETS, json=body)
            assert code == 500
    assert [each["event"] for each in logged] == ["request failed"]
    printed = capfd.readouterr()
    assert confidential not in f"{caplog.text}{logged}{printed.out}{printed.err}"


async def test_an_old_server_has_one_ingress_in_three_versions() -> None:
    async with serving(emulation.V1_20) as api:
        path = {"path": "/", "backend": {"serviceName": "web", "servicePort": "http"}}
        given = ingress(rules=[{"http": {"paths": [path]}}])
        code, made = await api.ask("POST", OLD, json=given)
        assert (code, made["apiVersion"]) == (201, "networking.k8s.io/v1beta1")
        shown = {**path, "pathType": "ImplementationSpecific"}
        assert made["spec"]["rules"] == [{"http": {"paths": [shown]}}]
        _, oldest = await api.get(f"{OLDEST}/web")
        assert (oldest["apiVersion"], oldest["spec"]) == ("extensions/v1beta1", made["spec"])
        _, new = await api.get(f"{INGRESSES}/web")
        (stored,) = new["spec"]["rules"][0]["http"]["paths"]
        assert stored == {**shown, "backend": backend(name="http")}
        # A patch is one of the object as its URL shows it.
        operation = {
            "op": "replace",
            "path": "/spec/rules/0/http/paths/0/backend/servicePort",
            "value": 80,
        }
        code, patched = await api.ask(
            "PATCH",
            f"{OLD}/web",
            json=[operation],
            headers={"Content-Type": "application/json-patch+json"},
        )
        assert (code, patched["spec"]["rules"][0]["http"]["paths"][0]["backend"]) == (
            200,
            {"serviceName": "web", "servicePort": 80},
        )
        async with api.watch(OLDEST, resourceVersion="0") as events:
            seen = await events.next()
            assert seen["object"]["spec"] == patched["spec"]
        _, listed = await api.get(OLDEST)
        assert (listed["kind"], listed["apiVersion"]) == ("IngressList", "extensions/v1beta1")


async def test_an_old_version_is_refused_in_its_own_words() -> None:
    wrong = {"serviceName": "A", "servicePort": 0}
    path = {"path": "/", "backend": {"serviceName": "web", "servicePort": "a--b"}}
    given = ingress(rules=[{"http": {"paths": [path]}}], backend=wrong)
    async with serving(emulation.V1_20) as api:
        code, refused = await api.ask("POST", OLD, json=given)
        assert code == 422
        assert {each["field"] for each in refused["details"]["causes"]} == {
            "spec.backend",
            "spec.backend.serviceName",
            "spec.rules[0].http.paths[0].backend.servicePort",
        }
        code, refused = await api.ask("POST", OLD, json=ingress(rules=[]))
        assert "either `backend` or `rules` must be specified" in refused["message"]
        _, refused = await api.ask("POST", INGRESSES, json=ingress(rules=[]))
        assert "either `defaultBackend` or `rules` must be specified" in refused["message"]


async def test_an_old_version_comes_with_a_warning() -> None:
    use = "; use networking.k8s.io/v1 Ingress"
    async with serving(emulation.V1_20) as api:
        for path, said in (
            (
                OLD,
                "networking.k8s.io/v1beta1 Ingress is deprecated in v1.19+, unavailable in v1.22+",
            ),
            (OLDEST, "extensions/v1beta1 Ingress is deprecated in v1.14+, unavailable in v1.22+"),
        ):
            async with api.session.get(api.server.url + path) as answer:
                assert answer.headers.getall("Warning") == [f'299 - "{said}{use}"']
        async with api.session.get(api.server.url + INGRESSES) as answer:
            assert "Warning" not in answer.headers


async def test_the_old_annotation_comes_with_a_warning() -> None:
    given = ingress()
    given["metadata"]["annotations"] = {"kubernetes.io/ingress.class": "nginx"}
    async with (
        serving(emulation.V1_33) as api,
        api.session.post(api.server.url + INGRESSES, json=given) as answer,
    ):
        assert answer.headers.getall("Warning") == [
            (
                '299 - "annotation \\"kubernetes.io/ingress.class\\" is deprecated, please use '
                "'spec.ingressClassName' instead\""
            )
        ]


async def test_a_new_server_has_v1_alone() -> None:
    async with serving(emulation.V1_33) as api:
        assert (await api.get(OLD))[0] == 404
        assert (await api.get(OLDEST))[0] == 404
        _, group = await api.get("/apis/networking.k8s.io")
        assert [each["version"] for each in group["versions"]] == ["v1"]
    async with serving(emulation.V1_20) as api:
        _, group = await api.get("/apis/networking.k8s.io")
        assert [each["version"] for each in group["versions"]] == ["v1", "v1beta1"]


async def test_the_schema_of_an_old_ingress_has_old_backends() -> None:
    async with serving(emulation.V1_20) as api:
        _, document = await api.get("/openapi/v2")
    schemas = document["definitions"]
    for package in ("networking", "extensions"):
        path = schemas[f"io.k8s.api.{package}.v1beta1.HTTPIngressPath"]
        old = path["properties"]["backend"]["$ref"].rpartition("/")[2]
        assert old == f"io.k8s.api.{package}.v1beta1.IngressBackend"
        assert schemas[old]["properties"].keys() == {"resource", "serviceName", "servicePort"}
        assert path["required"] == ["backend"]
        spec = schemas[f"io.k8s.api.{package}.v1beta1.IngressSpec"]["properties"]
        assert "backend" in spec
        assert "defaultBackend" not in spec
    assert "defaultBackend" in schemas["io.k8s.api.networking.v1.IngressSpec"]["properties"]
