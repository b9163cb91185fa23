"""core/v1 Events, as `kubectl describe` and `kubectl get events` show them."""

from collections import OrderedDict
from typing import Any, NamedTuple

from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object

DEFAULT_LIMIT = 500


class _Key(NamedTuple):
    """What makes two occurrences one Event with a count, as client-go's aggregator has it."""

    uid: str
    component: str
    reason: str
    message: str


class Recorder:
    """Writes Events, at most `limit` of them: the oldest make room.

    Recording never fails: an Event that cannot be stored, because its namespace is going away
    for instance, is not worth an error.
    """

    def __init__(self, objects: registry.Registry, *, limit: int = DEFAULT_LIMIT) -> None:
        self._registry = objects
        self._limit = limit
        self._recorded: OrderedDict[_Key, tuple[str, str]] = OrderedDict()  # → namespace, name
        self._serial = 0

    def normal(self, component: str, about: Object, reason: str, message: str) -> None:
        """Record an event of type Normal."""
        self._record("Normal", component, about, reason, message)

    def warning(self, component: str, about: Object, reason: str, message: str) -> None:
        """Record an event of type Warning, which may need an action of the user."""
        self._record("Warning", component, about, reason, message)

    def _record(self, kind: str, component: str, about: Object, reason: str, message: str) -> None:
        key = _Key(about["metadata"]["uid"], component, reason, message)
        try:
            if not self._repeat(key):
                self._create(key, kind, about)
        except statuses.StatusError:
            self._recorded.pop(key, None)

    def _repeat(self, key: _Key) -> bool:
        """Count one more occurrence of a stored Event."""
        namespace, name = self._recorded.get(key, ("", ""))
        old = self._registry.find(resources.EVENTS, name, namespace) if name else None
        if old is None:
            return False
        self._recorded.move_to_end(key)
        now = storage.timestamp(self._registry.storage.now())
        changed = {**old, "count": old["count"] + 1, "lastTimestamp": now}
        self._registry.update(resources.EVENTS, changed)
        return True

    def _create(self, key: _Key, kind: str, about: Object) -> None:
        metadata = about["metadata"]
        namespace = metadata.get("namespace", "default")
        self._serial += 1
        name = f"{metadata['name']}.{self._serial:016x}"
        now = storage.timestamp(self._registry.storage.now())
        event: dict[str, Any] = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": kind,
            "reason": key.reason,
            "message": key.message,
            "source": {"component": key.component},
            "reportingComponent": key.component,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._registry.create(resources.EVENTS, event)
        self._recorded[key] = namespace, name
        while len(self._recorded) > self._limit:
            _, (old_namespace, old_name) = self._recorded.popitem(last=False)
            if self._registry.find(resources.EVENTS, old_name, old_namespace):
                self._registry.remove(resources.EVENTS, old_name, old_namespace)
