"""What a URL asks for, and the answer for what is not there."""

import pytest

from kproxy.simulator.api import request_info
from kproxy.simulator.api.request_info import RequestInfo
from kproxy.simulator.store import resources, statuses

PODS, SERVICES, NAMESPACES = resources.PODS, resources.SERVICES, resources.NAMESPACES


def parse(method: str, path: str, **query: str) -> RequestInfo:
    return request_info.parse(method, path, query, resources.ALL)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods", ("list", PODS, None)),
        ("GET", "/api/v1/namespaces/a/pods", ("list", PODS, "a")),
        ("GET", "/api/v1/namespaces/a/pods/p", ("get", PODS, "a", "p")),
        ("PUT", "/api/v1/namespaces/a/pods/p/status", ("update", PODS, "a", "p", "status")),
        ("POST", "/api/v1/namespaces/a/services", ("create", SERVICES, "a")),
        ("DELETE", "/api/v1/namespaces/a/services", ("deletecollection", SERVICES, "a")),
        ("GET", "/api/v1/namespaces", ("list", NAMESPACES, "")),
        ("DELETE", "/api/v1/namespaces/a", ("delete", NAMESPACES, "", "a")),
        ("PATCH", "/api/v1/namespaces/a/status", ("patch", NAMESPACES, "", "a", "status")),
        (
            "GET",
            "/apis/apps/v1/namespaces/a/deployments/d/scale",
            ("get", resources.DEPLOYMENTS, "a", "d", "scale"),
        ),
    ],
)
def test_what_is_asked_for(method: str, path: str, expected: tuple[str, ...]) -> None:
    assert parse(method, path) == RequestInfo(*expected)  # type: ignore[arg-type]


def test_a_watch_is_a_list_with_a_parameter() -> None:
    assert parse("GET", "/api/v1/namespaces/a/pods/p", watch="1").verb == "watch"
    for value in ("true", "1", "True", "t", "yes", ""):  # as for any truth value of the API
        assert parse("GET", "/api/v1/pods", watch=value).verb == "watch"
    for value in ("false", "0", "False"):
        assert parse("GET", "/api/v1/pods", watch=value).verb == "list"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v2/pods",
        "/apis/apps/v1beta1/deployments",
        "/api/v1/limitranges",
        "/api/v1/pods/p",
        "/api/v1/namespaces/a/nodes/n",
        "/api/v1/namespaces/a/pods/p/scale",
        "/api/v1/namespaces/a/pods/p/status/x",
    ],
)
def test_what_is_not_there(path: str) -> None:
    with pytest.raises(statuses.StatusError) as caught:
        parse("GET", path)
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/pods"),
        ("PUT", "/api/v1/namespaces/a/pods"),
        ("POST", "/api/v1/namespaces/a/pods/p"),
        ("DELETE", "/api/v1/namespaces"),
        ("DELETE", "/api/v1/namespaces/a/pods/p/status"),
        ("TRACE", "/api/v1/namespaces/a/pods/p"),
    ],
)
def test_what_cannot_be_done_with_it(method: str, path: str) -> None:
    with pytest.raises(statuses.StatusError) as caught:
        parse(method, path)
    assert (caught.value.code, caught.value.reason) == (405, "MethodNotAllowed")


@pytest.mark.parametrize("subresource", ["log", "exec", "attach", "portforward", "proxy"])
def test_what_needs_a_container_is_refused_with_the_reason(subresource: str) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(
            statuses.StatusError, match=f"pods/{subresource} needs contain"
        ) as caught:
            parse(method, f"/api/v1/namespaces/a/pods/p/{subresource}")
        assert caught.value.body()["code"] == 501
        assert caught.value.body()["details"] == {"name": "p", "kind": "pods"}
