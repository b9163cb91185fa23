"""What a watch sends: events as one watcher sees them. Pure; `watch_stream` does the sending.

A watcher is a cursor in the history and has no queue of its own. If it reads so slowly that the
history has moved past it, it gets 410, as kube-apiserver ends such watches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kproxy.simulator.api.emulation import StreamingLists
from kproxy.simulator.api.reading import field_selectors, lists, watch_cache
from kproxy.simulator.api.reading import query as parameters
from kproxy.simulator.store import statuses, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""The annotation of the bookmark that ends the initial events of a streaming list."""


class Change(NamedTuple):
    """An event as it is sent: `type` and `object`."""

    type: str
    object: Object


@dataclass(frozen=True, slots=True)
class Options:
    """The query parameters of a watch. `timeout` is in seconds; None leaves it to the server.

    `with_state` is whether the watch begins with the present state, as events; a streaming list,
    `initial_events`, ends that state with a bookmark.
    """

    selector: field_selectors.Selector
    resource_version: str
    bookmarks: bool
    initial_events: bool
    with_state: bool
    timeout: float | None


def options(
    resource: Resource,
    query: Mapping[str, str],
    *,
    streaming_lists: StreamingLists = StreamingLists.SERVED,
) -> Options:
    """The options in a query string. Raises BadRequest, Invalid."""
    timeout = parameters.integer(query, "timeoutSeconds")
    parameters.integer(query, "limit")
    initial_events = None
    if streaming_lists is not StreamingLists.UNKNOWN:
        initial_events = parameters.boolean(query, "sendInitialEvents")
    _check_match(query, streaming_lists, initial_events=initial_events)
    version = parameters.version(query)
    return Options(
        field_selectors.parse(
            resource, query.get("labelSelector", ""), query.get("fieldSelector", "")
        ),
        version,
        parameters.boolean(query, "allowWatchBookmarks") or False,
        initial_events or False,
        version in ("", "0") if initial_events is None else initial_events,
        float(timeout) if timeout else None,
    )


def _check_match(
    query: Mapping[str, str], streaming_lists: StreamingLists, *, initial_events: bool | None
) -> None:
    """The rules of apimachinery's `internalversion/validation`. Raises Invalid."""
    match, wrong = query.get("resourceVersionMatch", ""), []
    if streaming_lists is StreamingLists.UNKNOWN:
        if match:
            wrong.append(_forbidden_match("is forbidden for watch"))
    else:
        if initial_events is not None:
            if match != "NotOlderThan":
                detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                wrong.append(statuses.forbidden_value("resourceVersionMatch", detail))
            if streaming_lists is StreamingLists.REFUSED:
                detail = (
                    "sendInitialEvents is forbidden for watch unless the WatchList feature gate "
                    "is enabled"
                )
                wrong.append(statuses.forbidden_value("sendInitialEvents", detail))
        elif match:
            detail = "is forbidden for watch unless sendInitialEvents is provided"
            wrong.append(_forbidden_match(detail))
        if match not in ("", "NotOlderThan"):
            supported = ("NotOlderThan",)
            wrong.append(statuses.not_supported_value("resourceVersionMatch", match, supported))
        if match and query.get("continue"):
            wrong.append(_forbidden_match("is forbidden when continue is provided"))
    if wrong:
        raise lists.invalid(*wrong)


def _forbidden_match(detail: str) -> statuses.Cause:
    return statuses.forbidden_value("resourceVersionMatch", f"resourceVersionMatch {detail}")


class Cursor:
    """One watcher's place in the history of a resource."""

    def __init__(
        self,
        cache: watch_cache.WatchCache,
        resource: Resource,
        namespace: str | None,
        selector: field_selectors.Selector,
        version: int,
    ) -> None:
        self._cache = cache
        self.resource = resource
        self._prefix = "" if namespace is None else f"{namespace}/"
        self._selector = selector
        self.version = version
        """The version up to which every event has been sent."""

    def initial(self) -> Iterator[Change]:
        """The present state as events; what comes next continues from it."""
        items = self._cache.objects.list(self.resource)
        self.version = self._cache.version(self.resource)
        for item in items:
            if self._is_selected(item):
                yield Change("ADDED", item)

    def next(self) -> Sequence[Change]:
        """What has happened since. Raises Expired if the history no longer has it."""
        events = self._cache.events_since(self.resource, self.version)
        # Not the last event's: a bookmark may say that nothing has happened since.
        self.version = max(self.version, self._cache.version(self.resource))
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
    """The event that carries a version and nothing else."""
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
