"""API versions that are served but not stored: discovery.k8s.io/v1beta1 as a view of v1.

The conversion is kube-apiserver's (`pkg/apis/discovery/v1beta1/conversion.go`): in v1beta1 the
node and the zone of an endpoint are keys of its `topology`.
"""

from dataclasses import replace

from kproxy.simulator.store import resources
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

ENDPOINT_SLICES_V1BETA1 = replace(resources.ENDPOINT_SLICES, version="v1beta1")

_HOSTNAME = "kubernetes.io/hostname"
_ZONE = "topology.kubernetes.io/zone"


def stored_as(served: Resource) -> Resource:
    """The resource under which objects of `served` are stored."""
    return resources.ENDPOINT_SLICES if served == ENDPOINT_SLICES_V1BETA1 else served


def to_served(served: Resource, item: Object) -> Object:
    """A stored object as `served` shows it; the same object if that is how it is stored."""
    if served != ENDPOINT_SLICES_V1BETA1:
        return item
    # Without any it is null, as Go writes a slice that was never made.
    endpoints = [_to_v1beta1(endpoint) for endpoint in item.get("endpoints") or ()] or None
    return {**item, "apiVersion": served.api_version, "endpoints": endpoints}


def to_stored(served: Resource, item: Object) -> Object:
    """The reverse of `to_served`."""
    if served != ENDPOINT_SLICES_V1BETA1:
        return item
    converted = {**item, "apiVersion": resources.ENDPOINT_SLICES.api_version}
    endpoints = item.get("endpoints") or []
    if isinstance(endpoints, list):  # what else it may be is for validation to refuse
        converted["endpoints"] = [
            _to_v1(each) if isinstance(each, dict) else each for each in endpoints
        ]
    return converted


def _to_v1beta1(endpoint: Object) -> Object:
    topology = dict(endpoint.get("deprecatedTopology") or {})
    if endpoint.get("nodeName"):
        topology[_HOSTNAME] = endpoint["nodeName"]
    if endpoint.get("zone"):
        topology[_ZONE] = endpoint["zone"]
    moved = ("deprecatedTopology", "nodeName", "zone")  # nodeName is behind a gate in v1beta1
    kept = {name: endpoint[name] for name in endpoint if name not in moved}
    return {**kept, "topology": topology} if topology else kept


def _to_v1(endpoint: Object) -> Object:
    given = endpoint.get("topology") or {}
    new = {name: endpoint[name] for name in endpoint if name != "topology"}
    if not isinstance(given, dict):
        return {**new, "deprecatedTopology": given}
    topology = dict(given)
    if node := topology.pop(_HOSTNAME, ""):
        new.setdefault("nodeName", node)
    if zone := topology.pop(_ZONE, ""):
        new["zone"] = zone
    return {**new, "deprecatedTopology": topology} if topology else new
