"""What etcd and the watch cache promise: versions, order, history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.store import resources, statuses, storage
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def test_create_sets_what_the_server_owns() -> None:
    created = new_storage().create(SERVICES, service("web"))
    metadata = created["metadata"]
    assert metadata["uid"] == "uid-1"
    assert metadata["resourceVersion"] == "2"
    assert metadata["creationTimestamp"] == "2026-01-02T03:04:05Z"


def test_a_name_is_taken_once() -> None:
    objects = new_storage()
    objects.create(SERVICES, service("web"))
    with pytest.raises(statuses.StatusError, match='services "web" already exists') as caught:
        objects.create(SERVICES, service("web"))
    assert caught.value.code == 409


def test_an_update_from_a_stale_version_conflicts() -> None:
    objects = new_storage()
    first = objects.create(SERVICES, service("web"))
    objects.update(SERVICES, {**first, "spec": {"type": "NodePort"}})
    with pytest.raises(statuses.StatusError, match="the object has been modified") as caught:
        objects.update(SERVICES, {**first, "spec": {"type": "LoadBalancer"}})
    assert caught.value.reason == "Conflict"


def test_an_update_without_a_version_is_unconditional() -> None:
    objects = new_storage()
    objects.create(SERVICES, service("web"))
    assert objects.update(SERVICES, service("web", labels={"a": "b"}))["metadata"]["labels"]


def test_an_update_that_changes_nothing_is_no_commit() -> None:
    objects = new_storage()
    stored = objects.create(SERVICES, service("web"))
    told: list[storage.Event] = []
    objects.subscribe(told.append)
    assert objects.update(SERVICES, service("web")) is stored
    assert told == []


def test_generation_counts_changes_of_what_is_desired() -> None:
    objects = new_storage()
    deployment = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"replicas": 1}}
    first = objects.create(resources.DEPLOYMENTS, deployment)
    labelled = {**first, "metadata": {**first["metadata"], "labels": {"a": "b"}}}
    second = objects.update(resources.DEPLOYMENTS, {**labelled, "status": {"replicas": 1}})
    third = objects.update(resources.DEPLOYMENTS, {**second, "spec": {"replicas": 2}})
    assert [each["metadata"]["generation"] for each in (first, second, third)] == [1, 1, 2]


def test_lists_are_in_the_order_of_etcd_keys() -> None:
    objects = new_storage()
    for namespace, name in (("a", "x"), ("a-b", "y"), ("a", "c"), ("b", "a")):
        objects.create(SERVICES, service(name, namespace))
    keys = [storage.key_of(each) for each in objects.list(SERVICES)]
    assert keys == ["a-b/y", "a/c", "a/x", "b/a"]
    assert [storage.key_of(each) for each in objects.list(SERVICES, "a")] == ["a/c", "a/x"]


def test_a_callback_that_writes_does_not_change_the_order_of_events() -> None:
    objects = new_storage()
    told: list[int] = []

    def write(event: storage.Event) -> None:
        if event.resource_version == 2:
            objects.create(SERVICES, service("second"))

    objects.subscribe(write)
    objects.subscribe(lambda event: told.append(event.resource_version))
    objects.create(SERVICES, service("first"))
    assert told == [2, 3]


def test_history_is_bounded() -> None:
    objects = new_storage(history=2)
    for name in "abc":
        objects.create(SERVICES, service(name))
    assert [event.resource_version for event in objects.events_since(SERVICES, 2)] == [3, 4]
    with pytest.raises(statuses.StatusError, match=r"too old resource version: 1 \(2\)") as caught:
        objects.events_since(SERVICES, 1)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")


def test_compaction_forgets_past_states_and_no_events() -> None:
    objects = new_storage()
    objects.create(SERVICES, service("web"))
    objects.compact()
    assert list(objects.list_at(SERVICES, objects.resource_version)) == objects.list(SERVICES)
    assert [event.type for event in objects.events_since(SERVICES, 1)] == ["ADDED"]
    with pytest.raises(statuses.StatusError) as caught:
        objects.list_at(SERVICES, 1)
    assert caught.value.code == 410


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["write", "delete"]), st.integers(0, 3))
    )
)
def test_a_past_state_can_be_listed_from_the_history(
    commands: list[tuple[str, str, int]],
) -> None:
    objects = new_storage()
    seen = {objects.resource_version: list(objects.list(SERVICES))}
    for name, command, value in commands:
        new = service(name, labels={"v": str(value)})
        found = objects.find(SERVICES, name, "default")
        if command == "delete" and found is not None:
            objects.delete(SERVICES, name, "default")
        elif command == "write":
            (objects.create if found is None else objects.update)(SERVICES, new)
        seen[objects.resource_version] = list(objects.list(SERVICES))
    for version, items in seen.items():
        assert list(objects.list_at(SERVICES, version)) == items
