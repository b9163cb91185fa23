"""discovery.k8s.io/v1beta1 as a view of v1.

The conversion is kube-apiserver's (`pkg/apis/discovery/v1beta1/conversion.go`): in v1beta1 the
node and the zone of an endpoint are keys of its `topology`.
"""

from dataclasses import replace

from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from kproxy.simulator.store.views.view import View

_HOSTNAME = "kubernetes.io/hostname"
_ZONE = "topology.kubernetes.io/zone"


def _to_served(item: Object) -> Object:
    # Without any it is null, as Go writes a slice that was never made.
    endpoints = [_to_v1beta1(endpoint) for endpoint in item.get("endpoints") or ()] or None
    return {**item, "endpoints": endpoints}


def _to_stored(item: Object) -> Object:
    endpoints = item.get("endpoints") or []
    if not isinstance(endpoints, list):
        return dict(item)
    converted = [_to_v1(each) if isinstance(each, dict) else each for each in endpoints]
    return {**item, "endpoints": converted}


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


V1BETA1 = View(
    replace(resources.ENDPOINT_SLICES, version="v1beta1"),
    resources.ENDPOINT_SLICES,
    _to_served,
    _to_stored,
)
