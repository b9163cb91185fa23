"""Ingresses of before v1, and what is stored of them."""

from typing import Any

import pytest

from kproxy.simulator.store import api_versions
from tests.simulator.objects import backend, ingress

OLD = [api_versions.INGRESSES_V1BETA1, api_versions.INGRESSES_EXTENSIONS]


def old_ingress(*backends: Any, **spec: Any) -> dict[str, Any]:
    paths = [{"path": "/", "backend": each} for each in backends]
    return ingress(rules=[{"host": "a.example", "http": {"paths": paths}}], **spec)


@pytest.mark.parametrize("served", OLD, ids=str)
def test_backends_and_path_types_are_converted(served: Any) -> None:
    old = old_ingress(
        {"serviceName": "users", "servicePort": 80},
        {"serviceName": "orders", "servicePort": "http"},
        backend={"serviceName": "other", "servicePort": 81},
    )
    stored = api_versions.to_stored(served, old)
    assert stored["apiVersion"] == "networking.k8s.io/v1"
    assert stored["spec"] == {
        "rules": [
            {
                "host": "a.example",
                "http": {
                    "paths": [
                        {
                            "path": "/",
                            "pathType": "ImplementationSpecific",
                            "backend": each,
                        }
                        for each in (backend("users", number=80), backend("orders", name="http"))
                    ]
                },
            }
        ],
        "defaultBackend": backend("other", number=81),
    }
    shown = api_versions.to_served(served, stored)
    assert shown["apiVersion"] == served.api_version
    for path in old["spec"]["rules"][0]["http"]["paths"]:
        path["pathType"] = "ImplementationSpecific"
    assert shown["spec"] == old["spec"]


AT_WILL = {"pathType": "ImplementationSpecific"}


@pytest.mark.parametrize("served", OLD, ids=str)
@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        (None, None),
        ("text", "text"),
        ({"rules": "text"}, {"rules": "text"}),
        (
            {"rules": [None, "text", {"http": None}, {"http": {"paths": {}}}]},
            {"rules": [None, "text", {"http": None}, {"http": {"paths": {}}}]},
        ),
        (
            {"rules": [{"http": {"paths": [None, {"backend": "text"}, {}]}}], "backend": 3},
            {
                "rules": [{"http": {"paths": [None, {"backend": "text", **AT_WILL}, AT_WILL]}}],
                "defaultBackend": 3,
            },
        ),
        (
            {"backend": {"serviceName": ["a"], "servicePort": {}}},
            {"defaultBackend": {"service": {"name": ["a"]}}},
        ),
    ],
)
def test_what_is_no_ingress_is_left_for_validation(served: Any, spec: Any, stored: Any) -> None:
    found = api_versions.to_stored(served, {"metadata": {"name": "a"}, "spec": spec})
    assert found["spec"] == stored


def test_a_path_type_that_is_given_stays() -> None:
    (served, _) = OLD
    old = old_ingress({"serviceName": "users", "servicePort": 80})
    old["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = "Exact"
    stored = api_versions.to_stored(served, old)
    assert stored["spec"]["rules"][0]["http"]["paths"][0]["pathType"] == "Exact"
