"""Events: repeated ones are counted, old ones make room, and recording never fails."""

import itertools
from datetime import UTC, datetime

import pytest

from kproxy.simulator.kinds import event_recorder
from kproxy.simulator.store import registry, resources, storage
from kproxy.simulator.store.storage import Object


@pytest.fixture
def objects() -> registry.Registry:
    serial = itertools.count()
    made = registry.Registry(
        storage.Storage(
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC), new_uid=lambda: f"uid-{next(serial)}"
        )
    )
    made.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return made


def about(objects: registry.Registry) -> Object:
    endpoints = {"metadata": {"name": "web", "namespace": "default"}}
    return objects.create(resources.ENDPOINTS, endpoints)


def test_the_same_again_is_counted(objects: registry.Registry) -> None:
    recorder, web = event_recorder.Recorder(objects), about(objects)
    recorder.normal("test", web, "Started", "it started")
    recorder.normal("test", web, "Started", "it started")
    recorder.warning("test", web, "Failed", "it failed")
    found = {each["reason"]: each for each in objects.list(resources.EVENTS)}
    assert (found["Started"]["count"], found["Started"]["type"]) == (2, "Normal")
    assert (found["Failed"]["count"], found["Failed"]["type"]) == (1, "Warning")
    assert found["Failed"]["involvedObject"]["uid"] == web["metadata"]["uid"]


def test_the_oldest_make_room(objects: registry.Registry) -> None:
    recorder, web = event_recorder.Recorder(objects, limit=3), about(objects)
    for number in range(5):
        recorder.normal("test", web, "Scaled", f"to {number}")
    messages = {each["message"] for each in objects.list(resources.EVENTS)}
    assert messages == {"to 2", "to 3", "to 4"}


def test_recording_about_what_is_going_away_is_no_error(objects: registry.Registry) -> None:
    recorder, web = event_recorder.Recorder(objects), about(objects)
    gone = {**web, "metadata": {**web["metadata"], "namespace": "gone"}}
    recorder.normal("test", gone, "Killing", "bye")
    assert objects.list(resources.EVENTS) == []
