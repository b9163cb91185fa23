"""Gateways and routes as tables."""

from typing import Any

from kproxy.cli.parse import asked_resources
from kproxy.cli.render import tables

GATEWAYS, ROUTES = (asked_resources.wanted([each])[0].kind for each in ("gtw", "routes"))


def rows(kind: asked_resources.Kind, *views: dict[str, Any]) -> list[list[str]]:
    table = tables.Table(tables.columns(kind))
    return [line.split() for line in table.lines(views)]


def route(**fields: Any) -> dict[str, Any]:
    backends = [{"name": "web", "weight": 9}, {"name": "canary", "weight": 1}]
    return {
        "namespace": "default",
        "name": "split",
        "protocol": "TCP",
        "gateway_namespace": "default",
        "gateway": "edge",
        "listener": "",
        "port": None,
        "accepted": True,
        "resolved": False,
        "backends": backends,
        **fields,
    }


def test_listeners_are_rows() -> None:
    bound = {"state": "bound", "bound_address": "127.0.0.1", "bound_port": 9300, "detail": ""}
    view = {
        "namespace": "default",
        "name": "edge",
        "listener": "tcp",
        "protocol": "TCP",
        "port": 9300,
        "frontends": [bound],
        "endpoints": [{"in_use": True}, {"in_use": False}],
        "connections": {"active": 3, "total": 5},
        "attached_routes": 2,
    }
    assert rows(GATEWAYS, view) == [
        ["NAME", "LISTENER", "PORT", "BOUND", "STATE", "ROUTES", "ENDPOINTS", "ACTIVE"],
        ["edge", "tcp", "9300/TCP", "127.0.0.1:9300", "bound", "2", "1/2", "3"],
    ]


def test_routes_say_what_they_refer_to_and_by_which_weights() -> None:
    head, *found = rows(
        ROUTES,
        route(),
        route(listener="tcp", port=9300),
        route(gateway_namespace="infra", port=9300),
    )
    assert head == ["NAME", "PROTOCOL", "GATEWAY", "ACCEPTED", "RESOLVED", "BACKENDS"]
    assert [row[2] for row in found] == ["edge", "edge:tcp:9300", "infra/edge:9300"]
    assert found[0][3:] == ["true", "false", "web*9,canary*1"]
