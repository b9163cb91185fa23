"""What a watch sends: events as one watcher sees them. Pure; `watch_stream` does the sending.

A watcher is a cursor in the history and has no queue of its own: one that reads so slowly that
the history has moved past it is told 410, as kube-apiserver ends such watches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kproxy.simulator import lists, selectors, status, storage
from kproxy.simulator.resources import Resource
from kproxy.simulator.storage import Object

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""The annotation of the bookmark that ends the initial events of a streaming list."""


class Change(NamedTuple):
    """An event as it is sent: `type` and `object`."""

    type: str
    object: Object


@dataclass(frozen=True, slots=True)
class Options:
    """The query parameters of a watch. `timeout` is in seconds; None leaves it to the server."""

    selector: selectors.Selector
    resource_version: str
    bookmarks: bool
    initial_events: bool
    timeout: float | None


def options(
    resource: Resource, query: Mapping[str, str], *, streaming_lists: bool = True
) -> Options:
    """The options in a query string. Raises BadRequest, Invalid."""
    initial_events = query.get("sendInitialEvents", "") in ("true", "1")
    if "sendInitialEvents" in query:
        _check_initial_events(query, streaming_lists=streaming_lists)
    timeout = query.get("timeoutSeconds", "")
    return Options(
        selectors.parse(resource, query.get("labelSelector", ""), query.get("fieldSelector", "")),
        lists.version_in(query),
        query.get("allowWatchBookmarks", "") in ("true", "1"),
        initial_events,
        float(timeout) if timeout.isdigit() and timeout != "0" else None,
    )


def _check_initial_events(query: Mapping[str, str], *, streaming_lists: bool) -> None:
    field = "sendInitialEvents"
    if not streaming_lists:
        detail = f"{field} is forbidden for watch unless the WatchList feature gate is enabled"
        raise lists.invalid(status.forbidden_value(field, detail))
    if query.get("resourceVersionMatch") != "NotOlderThan":
        detail = f"{field} requires setting resourceVersionMatch to NotOlderThan"
        raise lists.invalid(status.forbidden_value("resourceVersionMatch", detail))


class Cursor:
    """One watcher's place in the history of a resource."""

    def __init__(
        self,
        objects: storage.Storage,
        resource: Resource,
        namespace: str | None,
        selector: selectors.Selector,
        version: int,
    ) -> None:
        self._objects = objects
        self._resource = resource
        self._prefix = "" if namespace is None else f"{namespace}/"
        self._selector = selector
        self.version = version
        """The version up to which everything has been told."""

    def initial(self) -> Iterator[Change]:
        """The present state as events; what comes next continues from it."""
        items = self._objects.list(self._resource)
        self.version = self._objects.resource_version
        for item in items:
            if self._is_selected(item):
                yield Change("ADDED", item)

    def next(self) -> Sequence[Change]:
        """What has happened since. Raises Expired if that is not known any more."""
        events = self._objects.events_since(self._resource, self.version)
        # Not the last event's: a bookmark may say that nothing has happened since.
        self.version = max(self.version, self._objects.resource_version)
        return list(self._translated(events))

    def _translated(self, events: Iterable[storage.Event]) -> Iterator[Change]:
        for event in events:
            was_selected = event.previous is not None and self._is_selected(event.previous)
            is_selected = event.type != "DELETED" and self._is_selected(event.object)
            if is_selected:
                yield Change("MODIFIED" if was_selected else "ADDED", event.object)
            elif was_selected and event.previous is not None:
                yield Change("DELETED", _as_deleted(event.previous, event.resource_version))

    def _is_selected(self, item: Object) -> bool:
        return storage.key_of(item).startswith(self._prefix) and self._selector.matches(item)


def bookmark(resource: Resource, version: int, *, ends_initial_events: bool = False) -> Change:
    """The event that tells a version and nothing else."""
    metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if ends_initial_events:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    identity = {"kind": resource.kind, "apiVersion": resource.api_version}
    return Change("BOOKMARK", {**identity, "metadata": metadata, **_ZERO.get(resource.kind, {})})


def _as_deleted(last: Object, version: int) -> Object:
    return {**last, "metadata": {**last["metadata"], "resourceVersion": str(version)}}


_ZERO: Mapping[str, Object] = {
    "Service": {"spec": {}, "status": {"loadBalancer": {}}},
    "EndpointSlice": {"addressType": "", "endpoints": None, "ports": None},
    "Pod": {"spec": {"containers": None}, "status": {}},
    "Node": {"spec": {}, "status": {}},
    "Namespace": {"spec": {}, "status": {}},
    "Deployment": {"spec": {"selector": None, "template": {"metadata": {}, "spec": {}}}},
}
"""The fields that Go writes even of an empty object: decoders must expect them in a bookmark."""
