"""Store: the latest accepted objects, and which Services a change concerns.

A source writes it, the proxier reads it, both on the event loop's thread: no I/O, no locks, no
callbacks. Every write returns the *dirty* Services: those of which a reader could now see
something else. Writing an object that equals the stored one dirties nothing.
"""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from kproxy.model import admission, names
from kproxy.model.kinds import endpoints, services

Dirty: TypeAlias = frozenset[names.NamespacedName]
_NOTHING: Dirty = frozenset()

_Endpoint: TypeAlias = endpoints.Endpoint
_EndpointsObject: TypeAlias = endpoints.EndpointsObject


class Store:
    """Services and endpoints by name, as last accepted.

    Where endpoints come from (decision 7 of docs/behaviour.md): if any EndpointSlice names a
    Service, its slices speak, and the Endpoints object of the Service's name is ignored, because
    the control plane mirrors the one into the other. Only without a slice does the Endpoints
    object count. Slices are kept one by one under their own names, so that an endpoint that
    moves between two slices is never lost in between (row 36).
    """

    def __init__(self) -> None:
        self._services: dict[names.NamespacedName, services.Service] = {}
        self._endpoints: dict[names.NamespacedName, _EndpointsObject] = {}
        self._slices: dict[names.NamespacedName, _EndpointsObject] = {}
        self._slices_of: dict[names.NamespacedName, dict[names.NamespacedName, None]] = {}

    def service(self, name: names.NamespacedName) -> services.Service | None:
        """The Service so named, whether it is to be proxied or not."""
        return self._services.get(name)

    def service_names(self) -> frozenset[names.NamespacedName]:
        """The names of all Services. Endpoints without a Service are not among them."""
        return frozenset(self._services)

    def sources(self, service: names.NamespacedName) -> tuple[_EndpointsObject, ...]:
        """The objects that say where the endpoints of a Service are: slices, or one Endpoints."""
        slices = self._slices_of.get(service)
        if slices:
            return tuple(self._slices[name] for name in slices)
        single = self._endpoints.get(service)
        return (single,) if single else ()

    def endpoints(self, port: names.ServicePortName) -> tuple[_Endpoint, ...]:
        """The endpoints of a service port, of any readiness, one per ip:port, sorted."""
        found = [source.at(port.port, port.protocol) for source in self.sources(port.service)]
        if len(found) == 1:
            return found[0]
        return endpoints.merged(endpoint for each in found for endpoint in each)

    def has(self, kind: names.Kind, name: names.NamespacedName) -> bool:
        """Whether an object of this kind and name is stored."""
        return name in self._table(kind)

    def apply(self, accepted: admission.Accepted) -> Dirty:
        """Store an object in place of the one of its kind and name."""
        if isinstance(accepted, services.Service):
            return self._apply_service(accepted)
        if accepted.origin is names.Kind.ENDPOINTS:
            return self._apply_endpoints(accepted)
        return self._apply_slice(accepted)

    def delete(self, kind: names.Kind, name: names.NamespacedName) -> Dirty:
        """Forget an object. An unknown one dirties nothing (docs/faults.md K14)."""
        if kind is names.Kind.SERVICE:
            return frozenset((name,)) if self._services.pop(name, None) else _NOTHING
        if kind is names.Kind.ENDPOINTS:
            known = self._endpoints.pop(name, None)
            return frozenset((name,)) if known and name not in self._slices_of else _NOTHING
        gone = self._slices.pop(name, None)
        return self._release(gone) if gone else _NOTHING

    def replace(
        self,
        kind: names.Kind,
        objects: Mapping[names.NamespacedName, admission.Accepted],
    ) -> Dirty:
        """Make `objects` all there is of `kind`, as after a list."""
        gone = [name for name in self._table(kind) if name not in objects]
        changes = [self.apply(accepted) for accepted in objects.values()]
        changes += [self.delete(kind, name) for name in gone]
        return _NOTHING.union(*changes)

    def _table(self, kind: names.Kind) -> Collection[names.NamespacedName]:
        if kind is names.Kind.SERVICE:
            return self._services
        return self._endpoints if kind is names.Kind.ENDPOINTS else self._slices

    def _apply_service(self, service: services.Service) -> Dirty:
        if _same(self._services.get(service.name), service):
            return _NOTHING
        self._services[service.name] = service
        return frozenset((service.name,))

    def _apply_endpoints(self, single: _EndpointsObject) -> Dirty:
        if _same(self._endpoints.get(single.name), single):
            return _NOTHING
        self._endpoints[single.name] = single
        return _NOTHING if single.service in self._slices_of else frozenset((single.service,))

    def _apply_slice(self, new: _EndpointsObject) -> Dirty:
        old = self._slices.get(new.name)
        if _same(old, new):
            return _NOTHING
        self._slices[new.name] = new
        moved = self._release(old) if old and old.service != new.service else _NOTHING
        self._slices_of.setdefault(new.service, {})[new.name] = None
        return moved | {new.service}

    def _release(self, gone: _EndpointsObject) -> Dirty:
        """A slice no longer speaks for its Service."""
        remaining = self._slices_of[gone.service]
        remaining.pop(gone.name, None)
        if not remaining:
            del self._slices_of[gone.service]
        return frozenset((gone.service,))


def _same(old: admission.Accepted | None, new: admission.Accepted) -> bool:
    return old is new or old == new
