"""Nodes, as seen through `admission.admit`: the zone, and the end of a node.

Behaviour: rows 33 and 49 of docs/behaviour.md.
"""

from typing import Any

import pytest

from kproxy.model import admission
from kproxy.model.kinds import kind, node_kind, registry

KINDS = (*registry.KINDS, node_kind.KIND)


def accepted(metadata: dict[str, Any] | None = None, **rest: Any) -> node_kind.Node:
    raw = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", **(metadata or {})}}
    (admitted,) = admission.admit({**raw, **rest}, kinds=KINDS)
    assert isinstance(admitted.accepted, node_kind.Node), admitted.finding
    return admitted.accepted


def test_a_node_without_labels_is_in_no_zone_and_stays() -> None:
    assert accepted() == node_kind.Node(node_kind.KIND.key("n1"))


def test_row_33_the_zone_is_a_label() -> None:
    assert accepted({"labels": {"topology.kubernetes.io/zone": "eu-1a"}}).zone == "eu-1a"


@pytest.mark.parametrize(
    ("metadata", "rest", "is_leaving"),
    [
        pytest.param({"deletionTimestamp": "2026-11-28T06:00:00Z"}, {}, True, id="being deleted"),
        pytest.param(
            {},
            {"spec": {"taints": [{"key": "a"}, {"key": "ToBeDeletedByClusterAutoscaler"}]}},
            True,
            id="the autoscaler's taint",
        ),
        pytest.param({}, {"spec": {"taints": [{"key": "other"}]}}, False, id="another taint"),
        pytest.param({}, {"spec": {"taints": None}}, False, id="null"),
        pytest.param({}, {"spec": {"unschedulable": True}}, False, id="cordoned"),
    ],
)
def test_row_49_a_node_leaves(
    metadata: dict[str, Any], rest: dict[str, Any], is_leaving: bool
) -> None:
    assert accepted(metadata, **rest).is_leaving is is_leaving


def test_an_api_server_is_asked_for_one_node_in_no_namespace() -> None:
    collection = node_kind.only("n1").collection
    assert collection.path("v1", "") == collection.path("v1", "default") == "/api/v1/nodes"
    assert collection.fields == "metadata.name=n1"
    assert kind.Collection("pods").path("v1", "default") == "/api/v1/namespaces/default/pods"
