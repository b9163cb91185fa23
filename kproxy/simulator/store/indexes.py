"""Indexes over what is stored, so that a change costs what it concerns and not the whole cluster.

What client-go calls an `Indexer`: objects of one resource by keys that are computed from them.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from kproxy.simulator.store import storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

_Key = TypeVar("_Key", bound=Hashable)


class Index(Generic[_Key]):
    """The stored objects of `resource`, by each of the keys that `keys` gives for one.

    Follows `objects` from the time it is made. A callback that was subscribed later finds each
    commit already in the index.
    """

    def __init__(
        self,
        objects: storage.Storage,
        resource: Resource,
        keys: Callable[[Object], Iterable[_Key]],
    ) -> None:
        self._resource = resource
        self._keys = keys
        self._found: dict[_Key, dict[str, Object]] = {}
        objects.subscribe(self._follow)
        for each in objects.list(resource):
            self._add(each)

    def get(self, key: _Key) -> list[Object]:
        """The objects under `key`, those that have been there longest first."""
        return list(self._found.get(key, {}).values())

    def count(self, key: _Key) -> int:
        """How many objects are under `key`."""
        return len(self._found.get(key, ()))

    def _follow(self, event: storage.Event) -> None:
        if event.resource is not self._resource:
            return
        gone = set(self._keys(event.previous)) if event.previous is not None else set()
        if event.type != "DELETED":
            gone.difference_update(self._keys(event.object))
            self._add(event.object)
        for key in gone:
            del self._found[key][storage.key_of(event.object)]
            if not self._found[key]:
                del self._found[key]

    def _add(self, item: Object) -> None:
        for key in self._keys(item):
            self._found.setdefault(key, {})[storage.key_of(item)] = item
