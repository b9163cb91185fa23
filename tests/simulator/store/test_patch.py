"""The three kinds of patch, and the errors of those that do not fit."""

import copy
from typing import Any

import pytest

from kproxy.simulator.store import patch, statuses

OLD: dict[str, Any] = {
    "metadata": {"name": "web", "labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {"name": "one", "image": "i1", "env": [{"name": "A", "value": "1"}]},
                    {"name": "two", "image": "i2", "ports": [{"containerPort": 80}]},
                ],
                "volumes": [{"name": "v", "emptyDir": {}}],
            }
        }
    },
}


def _containers(*elements: dict[str, Any], **directives: Any) -> dict[str, Any]:
    pod = {"containers": list(elements), **directives}
    return {"spec": {"template": {"spec": pod}}}


def _patched(body: Any, kind: patch.Type = "strategic") -> Any:
    before = copy.deepcopy(OLD)
    new = patch.apply("Deployment", OLD, kind, body)
    assert before == OLD
    return new


def _named(new: Any) -> list[str]:
    return [each["name"] for each in new["spec"]["template"]["spec"]["containers"]]


def test_merge_patch_removes_nulls_and_replaces_lists() -> None:
    body = {"metadata": {"labels": {"a": None, "c": "3"}}, **_containers({"name": "three"})}
    new = _patched(body, "merge")
    assert new["metadata"]["labels"] == {"b": "2", "c": "3"}
    assert _named(new) == ["three"]


def test_json_patch() -> None:
    body = [{"op": "replace", "path": "/metadata/labels/a", "value": "9"}]
    assert _patched(body, "json")["metadata"]["labels"]["a"] == "9"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"not": "a list"}, 400),
        ([{"op": "dance", "path": "/x"}], 400),
        ([{"op": "remove", "path": "/metadata/nothing"}], 422),
        ([{"op": "test", "path": "/metadata/name", "value": "other"}], 422),
        ([{"op": "add", "path": "/metadata/name/deeper/still", "value": "x"}], 422),
        ([{"op": "remove", "path": "/metadata"}], 422),
    ],
)
def test_json_patches_that_do_not_fit(body: Any, code: int) -> None:
    with pytest.raises(statuses.StatusError) as caught:
        patch.apply("Deployment", OLD, "json", body)
    assert caught.value.code == code


def test_strategic_merge_finds_elements_by_their_key() -> None:
    new = _patched(_containers({"name": "two", "image": "new"}))
    containers = {each["name"]: each for each in new["spec"]["template"]["spec"]["containers"]}
    assert containers["two"] == {"name": "two", "image": "new", "ports": [{"containerPort": 80}]}
    assert containers["one"]["image"] == "i1"


def test_nested_lists_are_merged_too() -> None:
    env = [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]
    new = _patched(_containers({"name": "one", "env": env}))
    containers = {each["name"]: each for each in new["spec"]["template"]["spec"]["containers"]}
    assert containers["one"]["env"] == env


def test_patch_delete_removes_an_element() -> None:
    assert _named(_patched(_containers({"name": "one", "$patch": "delete"}))) == ["two"]


def test_patch_replace_replaces_a_list_or_a_map() -> None:
    assert _named(_patched(_containers({"$patch": "replace"}, {"name": "three"}))) == ["three"]
    labels = _patched({"metadata": {"labels": {"$patch": "replace", "z": "1"}}})["metadata"]
    assert labels["labels"] == {"z": "1"}


def test_set_element_order_orders() -> None:
    order = [{"name": "two"}, {"name": "three"}, {"name": "one"}]
    new = _patched(_containers({"name": "three"}, **{"$setElementOrder/containers": order}))
    assert _named(new) == ["two", "three", "one"]


def test_elements_outside_the_order_keep_their_place() -> None:
    order = [{"name": "two"}]
    new = _patched(_containers({"name": "two"}, **{"$setElementOrder/containers": order}))
    assert _named(new) == ["one", "two"]


def test_delete_from_primitive_list() -> None:
    body = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}}
    assert sorted(_patched(body)["metadata"]["finalizers"]) == ["y", "z"]


def test_retain_keys() -> None:
    volume = {"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}
    new = _patched({"spec": {"template": {"spec": {"volumes": [volume]}}}})
    assert new["spec"]["template"]["spec"]["volumes"] == [{"name": "v", "configMap": {"name": "c"}}]


def test_an_element_without_its_key_is_refused() -> None:
    with pytest.raises(statuses.StatusError, match="declared merge key: name") as caught:
        _patched(_containers({"image": "nameless"}))
    assert caught.value.code == 400


def test_an_object_in_a_list_of_plain_values_is_refused() -> None:
    with pytest.raises(statuses.StatusError, match="list of plain values") as caught:
        _patched({"metadata": {"finalizers": [{}]}})
    assert caught.value.code == 400
