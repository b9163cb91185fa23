"""Store: the latest accepted objects, which Services a change concerns, and its subscribers.

A source writes it, any number of subscribers read it, all on the event loop's thread: no I/O, no
locks. Every write returns the *dirty* Services: those of which a reader could now see something
else. Writing an object that equals the stored one dirties nothing. The source calls `announce`
with what has become dirty when the Store is fit to be read.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar, cast

import structlog

from kproxy.model import names
from kproxy.model.kinds import (
    endpoint_slice_kind,
    endpoints,
    endpoints_kind,
    pod_kind,
    registry,
    services,
)
from kproxy.model.kinds.kind import Kind, Object

Dirty: TypeAlias = frozenset[names.NamespacedName]
Listener: TypeAlias = Callable[[Dirty], None]
"""Called with the names of the Services that a change concerns, after the change."""

_Made = TypeVar("_Made", bound=Object)
_Names: TypeAlias = dict[names.NamespacedName, None]
_Owners: TypeAlias = tuple[names.NamespacedName, ...]
_EndpointsObject: TypeAlias = endpoints.EndpointsObject

_NOTHING: Dirty = frozenset()

_log = structlog.get_logger(__name__)


class Subscription:
    """One subscriber of a Store, from `subscribe` to `cancel`."""

    def __init__(self, listener: Listener, cancel: Callable[["Subscription"], None]) -> None:
        self._listener = listener
        self._cancel = cancel
        self._missed = _NOTHING

    def cancel(self) -> None:
        """Stop calling the listener. A second call does nothing."""
        self._cancel(self)

    def deliver(self, dirty: Dirty) -> None:
        """Call the listener. If it raises, the same changes are in its next call as well."""
        self._missed = self._missed | dirty if self._missed else dirty
        try:
            self._listener(self._missed)
        except Exception:
            _log.exception("internal error: a subscriber failed; it gets the same changes again")
        else:
            self._missed = _NOTHING


class Store:
    """Objects of some kinds by name, as last accepted, whether they are proxied or not.

    Headless Services, those of type ExternalName and those of another proxy are here too:
    `Service.is_proxied` says which this proxy serves.

    Where endpoints come from (decision 7 of docs/behaviour.md): if any EndpointSlice names a
    Service, the slices count, and the Endpoints object of the Service's name is ignored, because
    the control plane mirrors the one into the other. Only without a slice does the Endpoints
    object count. Slices are kept one by one under their own names, so that an endpoint that
    moves between two slices is never lost in between (row 36).

    A pod concerns the Services of its namespace that weigh their endpoints by a label of pods.
    """

    def __init__(self, kinds: registry.Kinds = registry.KINDS) -> None:
        self.kinds = kinds
        self._tables: dict[str, _Table] = {each.name: _Table(each) for each in kinds}
        self._subscriptions: dict[Subscription, None] = {}
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        # By namespace, those that weigh endpoints by a label.
        self._weighing: dict[str, _Names] = {}

    def subscribe(self, listener: Listener) -> Subscription:
        """Call `listener` after each change from now on. It must return promptly.

        A listener that raises is logged as a bug, and affects no other.
        """
        made = Subscription(listener, self._unsubscribe)
        self._subscriptions[made] = None
        return made

    def watch(self, kind: Kind[Any], listener: Callable[[], None]) -> None:
        """Call `listener` at every change of an object of `kind`, which concerns no Service."""
        self._watchers.setdefault(kind.name, []).append(listener)

    def announce(self, dirty: Dirty) -> None:
        """Call every subscriber: these Services may look different now. For the source."""
        for each in tuple(self._subscriptions):
            if each in self._subscriptions:
                each.deliver(dirty)

    def get(self, kind: Kind[_Made], name: names.NamespacedName) -> _Made | None:
        """The object of this kind and name; None also for a kind that is not kept."""
        table = self._tables.get(kind.name)
        return cast("_Made | None", table.objects.get(name)) if table else None

    def all(self, kind: Kind[_Made]) -> Mapping[names.NamespacedName, _Made]:
        """All objects of a kind, by name: a view that follows the Store."""
        objects = cast("dict[names.NamespacedName, _Made]", self._tables[kind.name].objects)
        return MappingProxyType(objects)

    def of_service(self, kind: Kind[_Made], service: names.NamespacedName) -> tuple[_Made, ...]:
        """The objects of a kind that concern a Service."""
        return cast("tuple[_Made, ...]", self._tables[kind.name].concerning(service))

    def each_of_service(self, kind: Kind[_Made], service: names.NamespacedName) -> Iterator[_Made]:
        """What `of_service` gives, looked up one by one: for objects that may be so many that
        they are looked at in steps. Their names alone are copied, which is fast; one that is gone
        meanwhile is left out."""
        for name in self._tables[kind.name].names_concerning(service):
            found = self.get(kind, name)
            if found is not None:
                yield found

    def concerns(self, kind: Kind[Any], service: names.NamespacedName) -> bool:
        """Whether any object of a kind concerns a Service."""
        return self._tables[kind.name].concerns(service)

    def service(self, name: names.NamespacedName) -> services.Service | None:
        """The Service of this name, whether it is proxied or not."""
        return cast("services.Service | None", self._services.get(name))

    def service_names(self) -> frozenset[names.NamespacedName]:
        """The names of all Services. Endpoints without a Service are not among them."""
        return frozenset(self._services)

    def sources(self, service: names.NamespacedName) -> tuple[_EndpointsObject, ...]:
        """The objects that have the endpoints of a Service: slices, or one Endpoints."""
        slices = self.of_service(endpoint_slice_kind.KIND, service)
        return slices or self.of_service(endpoints_kind.KIND, service)

    def endpoints(self, port: names.ServicePortName) -> tuple[endpoints.Endpoint, ...]:
        """The endpoints of a service port, of any readiness, one per ip:port, sorted."""
        found = [source.at(port.port, port.protocol) for source in self.sources(port.service)]
        if len(found) == 1:
            return found[0]
        return endpoints.merged(endpoint for each in found for endpoint in each)

    @property
    def wants_pods(self) -> bool:
        """Whether a Service weighs its endpoints by a label of their pods.

        Pods are the only kind that is read on demand.
        """
        return bool(self._weighing)

    def pods(self, service: names.NamespacedName) -> tuple[pod_kind.Pod, ...]:
        """The pods of a Service's endpoints, if it weighs them by a label; else ()."""
        if service not in self._weighing.get(service.namespace, ()):
            return ()
        known = cast("Mapping[names.NamespacedName, pod_kind.Pod]", self._tables["Pod"].objects)
        wanted = {
            each.pod: None
            for source in self.sources(service)
            for port in source.ports
            for each in port.endpoints
        }
        found = (known.get(names.NamespacedName(service.namespace, pod)) for pod in wanted)
        return tuple(pod for pod in found if pod is not None)

    def has(self, kind: str, name: names.NamespacedName) -> bool:
        """Whether an object of this kind and name is stored."""
        return name in self._tables[kind].objects

    def apply(self, accepted: Object) -> Dirty:
        """Store an object in place of the one of its kind and name."""
        table = self._tables[accepted.kind]
        old = table.objects.get(accepted.name)
        if old is accepted or old == accepted:
            return _NOTHING
        owners = table.kind.owner(accepted)
        dirty = owners
        if old is not None and (before := table.kind.owner(old)) != owners:
            table.disown(old.name, before)
            dirty += before
        table.objects[accepted.name] = accepted
        table.own(accepted.name, owners)
        self._note_weights(accepted.name, accepted)
        self._call_watchers(accepted.kind)
        return self._that_count(table, dirty or self._weighers(accepted))

    def delete(self, kind: str, name: names.NamespacedName) -> Dirty:
        """Forget an object. An unknown one dirties nothing (docs/faults.md K14)."""
        table = self._tables[kind]
        gone = table.objects.pop(name, None)
        if gone is None:
            return _NOTHING
        owners = table.kind.owner(gone)
        table.disown(name, owners)
        if isinstance(gone, services.Service):
            self._note_weights(name, None)
        self._call_watchers(kind)
        return self._that_count(table, owners or self._weighers(gone))

    def replace(self, kind: str, objects: Mapping[names.NamespacedName, Object]) -> Dirty:
        """Replace all objects of `kind` by `objects`, as after a list."""
        gone = [name for name in self._tables[kind].objects if name not in objects]
        changes = [self.apply(accepted) for accepted in objects.values()]
        changes += [self.delete(kind, name) for name in gone]
        return _NOTHING.union(*changes)

    def _note_weights(self, name: names.NamespacedName, accepted: Object | None) -> None:
        """Keep `_weighing` true of the Service so named, which is gone if None is accepted."""
        if accepted is not None and not isinstance(accepted, services.Service):
            return
        weights = accepted.weights if accepted is not None else None
        if weights is not None and weights.by_label:
            self._weighing.setdefault(name.namespace, {})[name] = None
        elif (others := self._weighing.get(name.namespace)) is not None:
            others.pop(name, None)
            if not others:
                del self._weighing[name.namespace]

    def _weighers(self, changed: Object) -> _Owners:
        """The Services to which a pod matters."""
        if not isinstance(changed, pod_kind.Pod):
            return ()
        return tuple(self._weighing.get(changed.name.namespace, ()))

    def _call_watchers(self, kind: str) -> None:
        for each in self._watchers.get(kind, ()):
            each()

    def _unsubscribe(self, ended: Subscription) -> None:
        self._subscriptions.pop(ended, None)

    @property
    def _services(self) -> Mapping[names.NamespacedName, Object]:
        return self._tables[services.Service.kind].objects

    def _that_count(self, table: "_Table", owners: _Owners) -> Dirty:
        """`owners` without those for which a kind counts that `table`'s only stands in for."""
        preferred = self._tables.get(table.kind.fallback_for)
        if preferred is None:
            return frozenset(owners)
        return frozenset(owner for owner in owners if not preferred.concerning(owner))


class _Table:
    """The objects of one kind by name, and by the Services that they concern.

    An object that concerns the Service of its own name, as most do, has no entry in `_others`.
    """

    __slots__ = ("_others", "kind", "objects")

    def __init__(self, kind: Kind[Any]) -> None:
        self.kind = kind
        self.objects: dict[names.NamespacedName, Object] = {}
        self._others: dict[names.NamespacedName, _Names] = {}

    def own(self, name: names.NamespacedName, owners: _Owners) -> None:
        """Record that the object of this name concerns these Services."""
        for owner in owners:
            if owner != name:
                self._others.setdefault(owner, {})[name] = None

    def disown(self, name: names.NamespacedName, owners: _Owners) -> None:
        """Record that the object of this name no longer concerns these Services."""
        for owner in owners:
            if owner != name:
                remaining = self._others[owner]
                remaining.pop(name, None)
                if not remaining:
                    del self._others[owner]

    def concerning(self, service: names.NamespacedName) -> tuple[Object, ...]:
        """The objects that concern a Service."""
        found = tuple(self.objects[name] for name in self._others.get(service, ()))
        namesake = self.objects.get(service)
        if namesake is not None and service in self.kind.owner(namesake):
            return (namesake, *found)
        return found

    def names_concerning(self, service: names.NamespacedName) -> tuple[names.NamespacedName, ...]:
        """The names of the objects that concern a Service."""
        found = tuple(self._others.get(service, ()))
        return (service, *found) if self._namesake_concerns(service) else found

    def concerns(self, service: names.NamespacedName) -> bool:
        """Whether any object concerns a Service."""
        return service in self._others or self._namesake_concerns(service)

    def _namesake_concerns(self, service: names.NamespacedName) -> bool:
        namesake = self.objects.get(service)
        return namesake is not None and service in self.kind.owner(namesake)
