"""The watch caches: what they know, and from where on."""

import pytest

from kproxy.simulator.api.reading import watch_cache
from kproxy.simulator.store import resources, statuses
from tests.simulator.objects import new_storage, service

SERVICES = resources.SERVICES


def test_a_restart_forgets_the_events_and_keeps_the_state() -> None:
    objects = new_storage()
    cache = watch_cache.WatchCache(objects)
    objects.create(SERVICES, service("a"))
    assert [event.resource_version for event in cache.events_since(SERVICES, 1)] == [2]
    objects.create(SERVICES, service("b"))
    cache.restart()
    # As recorded of kube-apiserver 1.20.2: the version asked for, and that of the first list.
    with pytest.raises(
        statuses.StatusError, match=r"^too old resource version: 2 \(3\)$"
    ) as caught:
        cache.events_since(SERVICES, 2)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    assert cache.events_since(SERVICES, 3) == []


def test_compaction_leaves_the_events() -> None:
    objects = new_storage()
    objects.create(SERVICES, service("a"))
    objects.compact()
    assert len(watch_cache.WatchCache(objects).events_since(SERVICES, 1)) == 1


@pytest.mark.parametrize(("follows", "version"), [(True, 3), (False, 2)])
def test_writes_to_other_resources_move_only_a_cache_that_follows_the_revision(
    follows: bool, version: int
) -> None:
    objects = new_storage()
    cache = watch_cache.WatchCache(objects, follows_revision=follows)
    objects.create(SERVICES, service("a"))
    objects.create(resources.ENDPOINTS, {"metadata": service("b")["metadata"]})
    assert cache.version(SERVICES) == version
    cache.restart()
    assert cache.version(SERVICES) == 3
