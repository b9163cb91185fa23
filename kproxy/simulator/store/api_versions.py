"""The API versions that are served: those that are stored, and views of them."""

from collections.abc import Mapping, Sequence

from kproxy.simulator.store import resources
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.statuses import StatusError
from kproxy.simulator.store.storage import Object
from kproxy.simulator.store.views import endpoint_slices, gateways, ingresses
from kproxy.simulator.store.views.view import View

ENDPOINT_SLICES_V1BETA1 = endpoint_slices.V1BETA1.served
INGRESSES_V1BETA1 = ingresses.NETWORKING_V1BETA1.served
INGRESSES_EXTENSIONS = ingresses.EXTENSIONS_V1BETA1.served
GATEWAYS = tuple(view.served for view in gateways.VIEWS)
"""The older versions of the Gateway API's resources."""
INGRESS_CLASSES_V1BETA1 = ingresses.CLASSES_V1BETA1.served

_VIEWS: Mapping[Resource, View] = {
    view.served: view
    for view in (
        endpoint_slices.V1BETA1,
        ingresses.NETWORKING_V1BETA1,
        ingresses.EXTENSIONS_V1BETA1,
        ingresses.CLASSES_V1BETA1,
        *gateways.VIEWS,
    )
}
ALL = (*resources.ALL, *_VIEWS)
"""Every resource in every version that any server serves."""

_VERSIONS: Mapping[Resource, Sequence[Resource]] = {
    stored: (stored, *(view.served for view in _VIEWS.values() if view.stored == stored))
    for stored in resources.ALL
}


def stored_as(served: Resource) -> Resource:
    """The resource under which objects of `served` are stored."""
    view = _VIEWS.get(served)
    return served if view is None else view.stored


def versions_of(stored: Resource) -> Sequence[Resource]:
    """The resources whose objects are stored as those of `stored`, which comes first."""
    return _VERSIONS.get(stored, (stored,))


def to_served(served: Resource, item: Object) -> Object:
    """A stored object as `served` shows it; the same object if that is how it is stored."""
    view = _VIEWS.get(served)
    if view is None:
        return item
    return {**view.to_served(item), "apiVersion": served.api_version}


def as_served(served: Resource, error: StatusError) -> StatusError:
    """An error about a stored object, with the names that fields have in `served`."""
    view = _VIEWS.get(served)
    return error.renamed(view.renamed) if view is not None and view.renamed else error


def to_stored(served: Resource, item: Object) -> Object:
    """The reverse of `to_served`."""
    view = _VIEWS.get(served)
    if view is None:
        return item
    return {**view.to_stored(item), "apiVersion": view.stored.api_version}
