"""Ingresses, as seen through `admission.admit`: kube-apiserver's rules."""

from typing import Any

import pytest

from kproxy.ingress import kinds
from kproxy.model import admission
from kproxy.model.kinds import registry
from kproxy.model.kinds.ingress import ingresses
from kproxy.model.kinds.ingress.ingresses import Backend, PathType

KINDS = (*registry.KINDS, *kinds.KINDS)
WEB = {"service": {"name": "web", "port": {"number": 80}}}


def judged(spec: object, version: str = "networking.k8s.io/v1", **more: Any) -> admission.Admission:
    raw = {
        "apiVersion": version,
        "kind": "Ingress",
        "metadata": {"name": "shop", "namespace": "default"} | more.pop("metadata", {}),
        "spec": spec,
        **more,
    }
    (found,) = admission.admit(raw, kinds=KINDS)
    return found


def accepted(*args: Any, **more: Any) -> ingresses.Ingress:
    found = judged(*args, **more)
    assert isinstance(found.accepted, ingresses.Ingress), found
    return found.accepted


def rules(*paths: dict[str, Any], host: str = "shop.example") -> dict[str, Any]:
    return {"rules": [{"host": host, "http": {"paths": list(paths)}}]}


def path(path: str = "/", kind: str = "Prefix", **backend: Any) -> dict[str, Any]:
    return {"path": path, "pathType": kind, "backend": backend or WEB}


def test_what_it_says_is_read() -> None:
    made = accepted(
        {
            "ingressClassName": "kproxy",
            "defaultBackend": {"service": {"name": "fallback", "port": {"name": "http"}}},
            "rules": [
                {"host": "*.shop.example", "http": {"paths": [path("/a", "Exact"), path("/b")]}},
                {"host": "empty.example"},
                {
                    "http": {
                        "paths": [
                            {"pathType": "ImplementationSpecific", "backend": WEB},
                        ]
                    }
                },
            ],
            "tls": [{"hosts": ["*.shop.example"], "secretName": "cert"}, {}],
        },
        metadata={
            "creationTimestamp": "2026-11-28T09:00:00Z",
            "uid": "u",
            "annotations": {
                "kubernetes.io/ingress.class": "kproxy",
                "nginx.ingress.kubernetes.io/rewrite-target": "/",
                "kproxy.io/canary": "true",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        status={"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}},
    )
    assert made.class_name == "kproxy"
    assert made.default_backend == Backend("fallback", "http")
    assert made.rules == (
        ingresses.Rule(
            "*.shop.example",
            (
                ingresses.Path("/a", PathType.EXACT, Backend("web", 80)),
                ingresses.Path("/b", PathType.PREFIX, Backend("web", 80)),
            ),
        ),
        ingresses.Rule("empty.example", ()),
        ingresses.Rule(
            "", (ingresses.Path("/", PathType.IMPLEMENTATION_SPECIFIC, Backend("web", 80)),)
        ),
    )
    assert made.tls == (ingresses.Tls(("*.shop.example",), "cert"), ingresses.Tls(()))
    assert made.created == "2026-11-28T09:00:00Z"
    assert made.uid == "u"
    assert made.published == ("192.0.2.1", "lb.example")
    assert made.annotation("kproxy.io/canary") == "true"
    assert made.annotation("kubectl.kubernetes.io/last-applied-configuration") is None


@pytest.mark.parametrize("version", ["networking.k8s.io/v1beta1", "extensions/v1beta1"])
def test_v1beta1_has_its_own_words(version: str) -> None:
    made = accepted(
        {
            "backend": {"serviceName": "fallback", "servicePort": "http"},
            "rules": [
                {
                    "host": "shop.example",
                    "http": {
                        "paths": [
                            {"backend": {"serviceName": "web", "servicePort": 80}},
                            {"path": "/a", "backend": {"serviceName": "web", "servicePort": 80}},
                        ]
                    },
                }
            ],
        },
        version,
    )
    assert made.default_backend == Backend("fallback", "http")
    assert made.rules[0].paths == (
        ingresses.Path("/", PathType.IMPLEMENTATION_SPECIFIC, Backend("web", 80)),
        ingresses.Path("/a", PathType.IMPLEMENTATION_SPECIFIC, Backend("web", 80)),
    )


def test_a_backend_can_be_another_object() -> None:
    resource = {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "static"}
    made = accepted({"defaultBackend": {"resource": resource}})
    assert made.default_backend == Backend(resource="StorageBucket static")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(None, "spec", id="no spec"),
        pytest.param({}, "spec", id="neither rules nor default backend"),
        pytest.param({"rules": []}, "spec", id="no rule"),
        pytest.param(rules(), "spec.rules[0].http.paths", id="no path"),
        *(
            pytest.param(rules(path(), host=host), "spec.rules[0].host", id=f"host {host}")
            for host in (
                "10.0.0.1",
                "::1",
                "Shop.example",
                "shop_.example",
                "*",
                "*shop.example",
                "shop.*.example",
                "*.*.example",
                "shop.example:80",
                "a" * 254,
                "shop.example;",
                "-a.example",
            )
        ),
        *(
            pytest.param(rules(path(text, kind)), "spec.rules[0].http.paths[0].path", id=text)
            for kind in ("Exact", "Prefix")
            for text in ("", "foo", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a/..", "/.")
        ),
        pytest.param(
            rules(path("foo", "ImplementationSpecific")),
            "spec.rules[0].http.paths[0].path",
            id="not absolute",
        ),
        pytest.param(
            rules(path("/", "prefix")), "spec.rules[0].http.paths[0].pathType", id="path type"
        ),
        pytest.param(
            rules({"path": "/", "backend": WEB}),
            "spec.rules[0].http.paths[0].pathType",
            id="no path type",
        ),
        pytest.param(
            rules({"path": "/", "pathType": "Exact"}),
            "spec.rules[0].http.paths[0].backend",
            id="no backend",
        ),
        pytest.param(
            {"defaultBackend": WEB | {"resource": {"kind": "a", "name": "b"}}},
            "spec.defaultBackend",
            id="two backends",
        ),
        pytest.param({"defaultBackend": {}}, "spec.defaultBackend", id="empty backend"),
        pytest.param(
            {"defaultBackend": {"resource": {"kind": "a"}}},
            "spec.defaultBackend.resource",
            id="a resource without a name",
        ),
        *(
            pytest.param(
                {"defaultBackend": {"service": {"name": "web", "port": port}}},
                f"spec.defaultBackend.service.port{field}",
                id=f"port {port}",
            )
            for port, field in (
                ({}, ".number"),
                ({"number": 0}, ".number"),
                ({"number": 65536}, ".number"),
                ({"number": 80, "name": "http"}, ""),
                ({"name": "HTTP"}, ".name"),
                ({"name": "80"}, ".name"),
                ({"name": "a" * 16}, ".name"),
                ({"name": "a--b"}, ".name"),
            )
        ),
        pytest.param(
            {"defaultBackend": {"service": {"name": "Web", "port": {"number": 80}}}},
            "spec.defaultBackend.service.name",
            id="the name of a Service",
        ),
        pytest.param(
            {"defaultBackend": {"service": {"port": {"number": 80}}}},
            "spec.defaultBackend.service.name",
            id="no Service",
        ),
        pytest.param(
            {"defaultBackend": WEB, "tls": [{"hosts": ["a_b"]}]},
            "spec.tls[0].hosts[0]",
            id="a host of tls",
        ),
        pytest.param(
            {"defaultBackend": WEB, "tls": [{"secretName": "../x"}]},
            "spec.tls[0].secretName",
            id="the name of a Secret",
        ),
        pytest.param(
            {"defaultBackend": WEB, "ingressClassName": "A b"},
            "spec.ingressClassName",
            id="the name of a class",
        ),
        pytest.param({"rules": "x"}, "spec.rules", id="a string for a list"),
        pytest.param({"defaultBackend": WEB, "tls": [3]}, "spec.tls[0]", id="a number in a list"),
    ],
)
def test_a_broken_rule_is_named(spec: object, field: str) -> None:
    found = judged(spec)
    assert found.accepted is None
    assert found.finding is not None
    assert field in [each.field for each in found.finding.violations]


@pytest.mark.parametrize(
    ("backend", "field"),
    [
        ({"serviceName": "web"}, "servicePort"),
        ({"servicePort": 80}, "serviceName"),
        ({"serviceName": "web", "servicePort": 0}, "servicePort"),
        ({"serviceName": "web", "servicePort": "80"}, "servicePort"),
        ({"serviceName": "web", "servicePort": 80} | WEB, ""),
    ],
)
def test_a_broken_rule_of_v1beta1_is_named(backend: dict[str, Any], field: str) -> None:
    found = judged({"backend": backend}, "networking.k8s.io/v1beta1")
    assert found.accepted is None
    assert found.finding is not None
    assert f"spec.backend.{field}".removesuffix(".") in str(found.finding)


def test_items_of_a_list_need_no_api_version() -> None:
    item = {"metadata": {"name": "shop"}, "spec": rules(path("/a"))}
    raw = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressList", "items": [item]}
    (found,) = admission.admit(raw, kinds=KINDS)
    assert isinstance(found.accepted, ingresses.Ingress)


def test_thousands_of_paths_are_read_in_pieces() -> None:
    raw = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shop"},
        "spec": rules(*(path(f"/{number}") for number in range(2000))),
    }
    taken = list(admission.admit_steps(raw, kinds=KINDS))
    assert taken.count(None) > 20
    assert isinstance(taken[-1], admission.Admission)
    assert isinstance(taken[-1].accepted, ingresses.Ingress)


def test_no_ingress_is_read_without_the_kinds_of_ingress() -> None:
    raw = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "shop"}}
    (found,) = admission.admit(raw)
    assert found.accepted is None
    assert found.finding is not None
    assert found.finding.severity is admission.Severity.NOTE


def test_extensions_has_no_kind_of_another_spelling() -> None:
    raw = {"apiVersion": "extensions/v1beta1", "kind": "ingress", "metadata": {"name": "web"}}
    (found,) = admission.admit(raw, kinds=kinds.KINDS)
    assert found.is_invalid
    assert 'is apiVersion "networking.k8s.io/v1" and kind "Ingress" meant?' in str(found.finding)
