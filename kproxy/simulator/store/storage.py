"""The objects, their versions and their recent history: what etcd and the watch cache hold.

Pure and single threaded. `resource_version` counts commits over all resources, as etcd's
revision does. An object is never mutated once it is stored, so references to it may be kept, an
encoding of it stays good, and a past state can be derived from the history alone.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from kproxy.simulator.store import statuses
from kproxy.simulator.store.resources import Resource

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object. Never mutated after it was stored: `copy.deepcopy` it to alter it."""

_SET_BY_STORAGE = ("uid", "creationTimestamp", "resourceVersion", "generation")


class Event(NamedTuple):
    """One commit. `object` of a deletion is the last state, at the deletion's version."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    resource: Resource
    object: Object
    previous: Object | None
    resource_version: int


class _Table:
    """The objects of one resource, in etcd's order, and the last events."""

    def __init__(self, history: int) -> None:
        self.objects: dict[str, Object] = {}
        self.keys: list[str] = []
        self.events: deque[Event] = deque(maxlen=history)
        self.oldest = 1
        """The oldest version that `events` lead on from."""

    def apply(self, key: str, event: Event) -> None:
        if event.type == "DELETED":
            del self.objects[key]
            del self.keys[bisect.bisect_left(self.keys, key)]
        else:
            if key not in self.objects:
                bisect.insort(self.keys, key)
            self.objects[key] = event.object
        if len(self.events) == self.events.maxlen:
            self.oldest = self.events[0].resource_version
        self.events.append(event)

    def keys_in(self, namespace: str | None) -> list[str]:
        if namespace is None:
            return self.keys
        start = bisect.bisect_left(self.keys, f"{namespace}/")
        end = bisect.bisect_left(self.keys, f"{namespace}0", start)  # "0" follows "/" in ASCII
        return self.keys[start:end]


class Storage:
    """Objects by resource, namespace and name. Raises `status.StatusError`.

    It owns what is handed to it: the caller must not mutate an object it has passed in. `now`
    gives the time for `creationTimestamp`, `new_uid` a fresh UID; `history` is how many events
    of each resource can be asked for.
    """

    def __init__(
        self, *, now: Callable[[], datetime], new_uid: Callable[[], str], history: int = 1000
    ) -> None:
        self.now = now
        self.resource_version = 1
        self._new_uid = new_uid
        self._history = history
        self._tables: dict[Resource, _Table] = {}
        self._compacted = 1
        self._subscribers: list[Callable[[Event], None]] = []
        self._undelivered: deque[Event] = deque()
        self._is_delivering = False

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """The object as it is stored, None if there is none. Do not change it."""
        return self._table(resource).objects.get(_key(namespace, name))

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """The object. Raises NotFound."""
        found = self.find(resource, name, namespace)
        if found is None:
            raise statuses.not_found(resource, name)
        return found

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects, or those of a namespace, in the order of `namespace/name`."""
        table = self._table(resource)
        return [table.objects[key] for key in table.keys_in(namespace)]

    def list_at(
        self, resource: Resource, version: int, namespace: str | None = None
    ) -> Sequence[Object]:
        """`list` as it was at `version`. Raises Expired if that was compacted or is out of the
        history."""
        if version < self._compacted:
            raise statuses.too_old(version, self._compacted)
        undone = self.events_since(resource, version)
        if not undone:
            return self.list(resource, namespace)
        past = {key_of(item): item for item in self.list(resource, namespace)}
        for event in reversed(undone):
            key = key_of(event.object)
            if namespace is not None and not key.startswith(f"{namespace}/"):
                continue
            if event.previous is None:
                past.pop(key, None)
            else:
                past[key] = event.previous
        return [past[key] for key in sorted(past)]

    def create(self, resource: Resource, new: Object) -> Object:
        """Store a new object and return it with what the server sets. Raises AlreadyExists."""
        metadata = new["metadata"]
        name = metadata["name"]
        if self.find(resource, name, metadata.get("namespace", "")) is not None:
            raise statuses.already_exists(resource, name)
        identity: Object = {
            "uid": self._new_uid(),
            "creationTimestamp": timestamp(self.now()),
        }
        if resource.has_generation:
            identity["generation"] = 1
        return self._commit("ADDED", resource, {**new, "metadata": {**metadata, **identity}}, None)

    def update(self, resource: Resource, new: Object) -> Object:
        """Replace an object: the stored one is returned. Raises NotFound, Conflict.

        A `resourceVersion` or `uid` in `new` must be the stored object's; without one the
        update is unconditional. An update that changes nothing is no commit.
        """
        metadata = new["metadata"]
        name = metadata["name"]
        old = self.get(resource, name, metadata.get("namespace", ""))
        check_preconditions(resource, old, metadata)
        kept = {
            field: old["metadata"][field] for field in _SET_BY_STORAGE if field in old["metadata"]
        }
        new = {**new, "metadata": {**metadata, **kept}}
        if new == old:
            return old
        if resource.has_generation and _desired(new) != _desired(old):
            new["metadata"]["generation"] += 1
        return self._commit("MODIFIED", resource, new, old)

    def delete(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Remove an object, whatever it may wait for, and return its last state."""
        old = self.get(resource, name, namespace)
        return self._commit("DELETED", resource, {**old, "metadata": {**old["metadata"]}}, old)

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back synchronously after each commit, in their order. Returns what ends it.

        A callback may write; callbacks for that commit follow those for the present one. It must
        not raise.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def events_since(self, resource: Resource, version: int) -> Sequence[Event]:
        """The commits after `version`, oldest first. Raises Expired outside the history."""
        table = self._table(resource)
        if version < table.oldest:
            raise statuses.too_old(version, table.oldest)
        newest_first = []
        for event in reversed(table.events):
            if event.resource_version <= version:
                break
            newest_first.append(event)
        return newest_first[::-1]

    def last_change(self, resource: Resource) -> int:
        """The version of the last commit to a resource; 0 if there was none."""
        events = self._table(resource).events
        return events[-1].resource_version if events else 0

    def oldest_state(self, resource: Resource) -> int:
        """The oldest version that `list_at` can go back to."""
        return max(self._compacted, self._table(resource).oldest)

    def compact(self) -> None:
        """Forget all past states, as etcd does: only the present one can be listed. Events stay,
        as they do in kube-apiserver's watch caches."""
        self._compacted = self.resource_version

    def _table(self, resource: Resource) -> _Table:
        table = self._tables.get(resource)
        if table is None:
            table = self._tables[resource] = _Table(self._history)
        return table

    def _commit(
        self,
        kind: Literal["ADDED", "MODIFIED", "DELETED"],
        resource: Resource,
        new: Object,
        previous: Object | None,
    ) -> Object:
        self.resource_version += 1
        new["metadata"]["resourceVersion"] = str(self.resource_version)
        event = Event(kind, resource, new, previous, self.resource_version)
        self._table(resource).apply(key_of(new), event)
        self._deliver(event)
        return new

    def _deliver(self, event: Event) -> None:
        self._undelivered.append(event)
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            for each in self._drain():
                for callback in tuple(self._subscribers):
                    callback(each)
        finally:
            self._is_delivering = False

    def _drain(self) -> Iterator[Event]:
        while self._undelivered:
            yield self._undelivered.popleft()


def key_of(stored: Object) -> str:
    """The object's place in the order of lists: `namespace/name`, or `name`."""
    metadata = stored["metadata"]
    return _key(metadata.get("namespace", ""), metadata["name"])


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC and whole seconds, as `metav1.Time` is written."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_preconditions(resource: Resource, old: Object, wanted: Object) -> None:
    """Raises Conflict unless `resourceVersion` and `uid` in `wanted`, if any, are the object's."""
    metadata = old["metadata"]
    name = metadata["name"]
    if wanted.get("uid") and wanted["uid"] != metadata["uid"]:
        raise statuses.conflict(
            resource,
            name,
            f"Precondition failed: UID in precondition: {wanted['uid']}, "
            f"UID in object meta: {metadata['uid']}",
        )
    if wanted.get("resourceVersion") not in (None, "", "0", metadata["resourceVersion"]):
        raise statuses.conflict(resource, name)


def _key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _desired(stored: Object) -> Object:
    return {field: stored[field] for field in stored if field not in ("metadata", "status")}
