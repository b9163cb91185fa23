"""Names, namespaces, status, deletion and dry runs."""

from typing import Any

import pytest

from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import new_registry, new_storage, pod, service

SERVICES, PODS = resources.SERVICES, resources.PODS
UNREADABLE = 'Service in version "v1" cannot be handled as a Service'


def test_generated_names_are_the_prefix_and_five_letters() -> None:
    new = {"metadata": {"generateName": "web-", "namespace": "default"}}
    assert new_registry().create(PODS, new)["metadata"]["name"] == "web-bbbbb"


def test_a_name_of_the_wrong_syntax_is_invalid() -> None:
    with pytest.raises(statuses.StatusError, match=r"metadata\.name: Invalid value") as caught:
        new_registry().create(SERVICES, service("Web_1"))
    body = caught.value.body()
    assert (body["code"], body["reason"]) == (422, "Invalid")
    assert body["details"]["causes"][0]["field"] == "metadata.name"


def test_a_namespace_must_exist() -> None:
    with pytest.raises(statuses.StatusError, match='namespaces "nowhere" not found'):
        new_registry().create(SERVICES, service("web", "nowhere"))


def test_an_update_leaves_the_status_and_update_status_leaves_the_rest() -> None:
    objects = new_registry()
    created = objects.create(SERVICES, service("web"))
    status_too = {**created, "spec": {"type": "NodePort"}, "status": {"x": 1}}
    assert "status" not in objects.update(SERVICES, status_too)
    new = objects.update_status(SERVICES, {**service("web"), "spec": {}, "status": {"x": 1}})
    assert (new["spec"], new["status"]) == ({"type": "NodePort"}, {"x": 1})


def test_what_an_object_owned_alone_goes_with_it() -> None:
    objects = new_registry()
    owner, other = (objects.create(SERVICES, service(name)) for name in ("a", "b"))
    objects.create(PODS, pod("one", owner))
    shared = pod("shared", owner)
    shared["metadata"]["ownerReferences"] += pod("x", other)["metadata"]["ownerReferences"]
    objects.create(PODS, shared)
    objects.delete(SERVICES, "a", "default")
    left = objects.list(PODS)
    assert [each["metadata"]["name"] for each in left] == ["shared"]
    assert [each["name"] for each in left[0]["metadata"]["ownerReferences"]] == ["b"]


def test_orphans_stay() -> None:
    objects = new_registry()
    owner = objects.create(SERVICES, service("a"))
    objects.create(PODS, pod("one", owner))
    objects.delete(SERVICES, "a", "default", propagation="Orphan")
    assert objects.get(PODS, "one", "default")["metadata"]["ownerReferences"] == []


class _Graceful(registry.PlainStrategy):
    def begin_delete(self, old: Object, grace_seconds: int | None) -> Object | None:
        if grace_seconds == 0:
            return None
        return {**old, "metadata": {**old["metadata"], "deletionTimestamp": "soon"}}


def test_a_namespace_goes_when_all_in_it_has_gone() -> None:
    objects = registry.Registry(new_storage(), {PODS: _Graceful()})
    objects.create(resources.NAMESPACES, {"metadata": {"name": "gone"}})
    objects.create(PODS, {**pod("slow"), "metadata": {"name": "slow", "namespace": "gone"}})
    objects.create(SERVICES, service("web", "gone"))
    ending = objects.delete(resources.NAMESPACES, "gone")
    assert ending["status"]["phase"] == "Terminating"
    assert objects.list(SERVICES) == []
    with pytest.raises(statuses.StatusError, match="because it is being terminated"):
        objects.create(SERVICES, service("late", "gone"))
    objects.remove(PODS, "slow", "gone")
    assert objects.find(resources.NAMESPACES, "gone") is None


def test_the_default_namespace_stays() -> None:
    with pytest.raises(statuses.StatusError, match="this namespace may not be deleted") as caught:
        new_registry().delete(resources.NAMESPACES, "default")
    assert caught.value.code == 403


def test_finalizers_are_waited_for() -> None:
    objects = new_registry()
    objects.create(SERVICES, service("web", finalizers=["example.com/hold"]))
    ending = objects.delete(SERVICES, "web", "default")
    assert ending["metadata"]["deletionTimestamp"]
    released = {**ending, "metadata": {**ending["metadata"], "finalizers": []}}
    objects.update(SERVICES, released)
    assert objects.find(SERVICES, "web", "default") is None


def test_a_dry_run_changes_nothing() -> None:
    objects = new_registry()
    before = objects.storage.resource_version
    objects.create(SERVICES, service("web"), dry_run=True)
    assert objects.find(SERVICES, "web", "default") is None
    created = objects.create(SERVICES, service("web"))
    objects.update(SERVICES, {**created, "spec": {}}, dry_run=True)
    objects.delete(SERVICES, "web", "default", dry_run=True)
    assert objects.get(SERVICES, "web", "default") is created
    assert objects.storage.resource_version == before + 1


def test_a_delete_of_another_incarnation_conflicts() -> None:
    objects = new_registry()
    objects.create(SERVICES, service("web"))
    with pytest.raises(statuses.StatusError, match="UID in precondition: other"):
        objects.delete(SERVICES, "web", "default", preconditions={"uid": "other"})


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": "x"},
        {"labels": {"a": 1}},
        {"annotations": {"a": True}},
        {"finalizers": [1]},
        {"generateName": 5},
        {"ownerReferences": [{"kind": "Deployment", "controller": True}]},
    ],
)
def test_metadata_of_other_types_is_a_bad_request_and_affects_no_other(
    metadata: dict[str, Any],
) -> None:
    objects = new_registry()
    made = objects.create(SERVICES, service("web"))
    told: list[storage.Event] = []
    objects.storage.subscribe(told.append)
    changed = {**made, "metadata": {**made["metadata"], **metadata}}
    with pytest.raises(statuses.StatusError, match=UNREADABLE):
        objects.create(SERVICES, service("other", **metadata))
    with pytest.raises(statuses.StatusError, match=UNREADABLE):
        objects.update(SERVICES, changed)
    with pytest.raises(statuses.StatusError, match=UNREADABLE):
        objects.patch(SERVICES, "default", "web", "merge", {"metadata": metadata})
    assert told == []
