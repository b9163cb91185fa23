"""Objects as JSON. What is stored is never mutated, so an object is encoded once, however many
lists and watches it appears in."""

from typing import Any

import msgspec

from kproxy.simulator.store import api_versions, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    return _encode(value)


class Encodings:
    """The encodings of what is stored, kept until the object changes or is deleted."""

    def __init__(self, objects: storage.Storage) -> None:
        self._objects = objects
        self._known: dict[tuple[Resource, str], tuple[Object, bytes]] = {}
        objects.subscribe(self._forget)

    def item(self, resource: Resource, stored: Object) -> bytes:
        """Without `kind` and `apiVersion`, as typed lists have it."""
        key = (resource, storage.key_of(stored))
        known = self._known.get(key)
        if known is not None and known[0] is stored:
            return known[1]
        shown = api_versions.to_served(resource, stored)
        fields = {name: shown[name] for name in shown if name not in ("kind", "apiVersion")}
        encoded = _encode(fields)
        if self._is_current(resource, stored):
            self._known[key] = (stored, encoded)
        return encoded

    def whole(self, resource: Resource, stored: Object) -> bytes:
        """With `kind` and `apiVersion` in front."""
        head = f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}",'
        return head.encode() + self.item(resource, stored)[1:]

    def _is_current(self, resource: Resource, stored: Object) -> bool:
        # Watches also send what has gone; nothing would ever forget it.
        metadata = stored["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        return self._objects.find(api_versions.stored_as(resource), name, namespace) is stored

    def _forget(self, event: storage.Event) -> None:
        for resource in api_versions.versions_of(event.resource):
            self._known.pop((resource, storage.key_of(event.object)), None)
