"""What one watcher receives: its selection of the history, and no more than is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.api.emulation import StreamingLists
from kproxy.simulator.api.reading import field_selectors, watch_cache, watches
from kproxy.simulator.store import resources, statuses, storage
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def cursor(
    objects: storage.Storage, labels: str = "", namespace: str | None = None, version: int = 1
) -> watches.Cursor:
    chosen = field_selectors.parse(SERVICES, labels, "")
    return watches.Cursor(watch_cache.WatchCache(objects), SERVICES, namespace, chosen, version)


def told(changes: list[watches.Change]) -> list[tuple[str, str]]:
    return [(each.type, each.object["metadata"]["name"]) for each in changes]


def test_an_object_that_comes_to_match_is_added_and_one_that_ceases_to_is_deleted() -> None:
    objects = new_storage()
    watcher = cursor(objects, "app=web")
    objects.create(SERVICES, service("a"))
    objects.update(SERVICES, service("a", labels={"app": "web"}))
    objects.update(SERVICES, service("a", labels={"app": "web", "x": "y"}))
    last = objects.update(SERVICES, service("a", labels={"app": "db"}))
    changes = list(watcher.next())
    assert told(changes) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    metadata = changes[-1].object["metadata"]
    assert metadata["labels"] == {"app": "web", "x": "y"}  # as it last matched
    assert metadata["resourceVersion"] == last["metadata"]["resourceVersion"]
    assert watcher.next() == []


def test_a_namespace_is_not_one_that_begins_like_it() -> None:
    objects = new_storage()
    watcher = cursor(objects, namespace="default")
    objects.create(SERVICES, service("a", "default-2"))
    objects.create(SERVICES, service("b", "default"))
    assert told(list(watcher.next())) == [("ADDED", "b")]


def test_a_watcher_that_the_history_has_passed_gets_410() -> None:
    objects = new_storage(history=3)
    slow, quick = cursor(objects), cursor(objects)
    for name in "abcd":
        objects.create(SERVICES, service(name))
        quick.next()
    with pytest.raises(statuses.StatusError, match="too old resource version: 1") as caught:
        slow.next()
    assert caught.value.code == 410
    assert quick.next() == []


def test_what_happens_to_others_ages_no_watcher() -> None:
    objects = new_storage(history=3)
    watcher = cursor(objects)
    for number in range(10):
        objects.create(resources.ENDPOINTS, {"metadata": service(f"e{number}")["metadata"]})
        assert watcher.next() == []
    assert watcher.version == objects.resource_version


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["web", "db", "gone"]))),
    st.lists(st.integers(0, 20)),
)
def test_whoever_applies_all_events_has_what_a_list_has(
    history: list[tuple[str, str]], looks: list[int]
) -> None:
    objects = new_storage()
    watcher = cursor(objects, "app=web")
    replica: dict[str, storage.Object] = {}
    for step, (name, app) in enumerate([*history, ("z", "web")]):
        is_there = objects.find(SERVICES, name, "default") is not None
        if app == "gone" and is_there:
            objects.delete(SERVICES, name, "default")
        elif app != "gone":
            write = objects.update if is_there else objects.create
            write(SERVICES, service(name, labels={"app": app}))
        if step in looks or step == len(history):
            for change in watcher.next():
                key = change.object["metadata"]["name"]
                assert (key in replica) == (change.type != "ADDED")
                if change.type == "DELETED":
                    del replica[key]
                else:
                    replica[key] = change.object
    web = [each for each in objects.list(SERVICES) if each["metadata"]["labels"]["app"] == "web"]
    assert sorted(replica) == [each["metadata"]["name"] for each in web]
    assert [replica[each["metadata"]["name"]] for each in web] == web


def test_the_present_state_comes_first_and_events_continue_from_it() -> None:
    objects = new_storage()
    objects.create(SERVICES, service("a"))
    watcher = cursor(objects, version=0)
    assert told(list(watcher.initial())) == [("ADDED", "a")]
    objects.create(SERVICES, service("b"))
    assert told(list(watcher.next())) == [("ADDED", "b")]


@pytest.mark.parametrize("resource", resources.ALL, ids=str)
def test_a_bookmark_has_a_version_and_says_whether_it_ends_the_initial_events(
    resource: resources.Resource,
) -> None:
    plain = watches.bookmark(resource, 7).object
    ending = watches.bookmark(resource, 7, ends_initial_events=True).object
    assert (plain["kind"], plain["apiVersion"]) == (resource.kind, resource.api_version)
    assert plain["metadata"]["resourceVersion"] == "7"
    assert ending["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert "annotations" not in plain["metadata"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sendInitialEvents": "true"}, "resourceVersionMatch: Forbidden"),
        ({"resourceVersion": "x"}, "resourceVersion: Invalid value"),
        ({"timeoutSeconds": "x"}, "invalid syntax"),
        ({"resourceVersionMatch": "Exact", "sendInitialEvents": "true"}, "supported values"),
        ({"resourceVersionMatch": "NotOlderThan"}, "unless sendInitialEvents is provided"),
    ],
)
def test_queries_that_make_no_sense(query: dict[str, str], words: str) -> None:
    with pytest.raises(statuses.StatusError, match=words):
        watches.options(SERVICES, query)


def test_a_server_without_streaming_lists_forbids_them() -> None:
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    assert watches.options(SERVICES, query).initial_events
    with pytest.raises(statuses.StatusError, match="sendInitialEvents: Forbidden") as caught:
        watches.options(SERVICES, query, streaming_lists=StreamingLists.REFUSED)
    assert caught.value.code == 422


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), ("0", None), ("-1", -1.0)])
def test_a_timeout_of_nothing_is_left_to_the_server(text: str, seconds: float | None) -> None:
    assert watches.options(SERVICES, {"timeoutSeconds": text}).timeout == seconds
