"""Tables, as `kubectl get` prints them: the server chooses columns and makes the cells.

Columns and cells are those of kube-apiserver (`pkg/printers/internalversion/printers.go`).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kproxy.model import ages
from kproxy.simulator.api.reading import configuration_tables, custom_tables, networking_tables
from kproxy.simulator.api.reading.columns import (
    AGE,
    NAME,
    NONE,
    Column,
    Layout,
    age_of,
    value_in,
    wide,
)
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

UNKNOWN = "<unknown>"


def table(
    resource: Resource,
    items: Iterable[Object],
    *,
    version: str,
    metadata: Mapping[str, Any],
    now: datetime,
    include_object: str = "Metadata",
    with_columns: bool = True,
) -> Object:
    """A Table of objects. `include_object` is Metadata, Object or None, as in the query."""
    columns, row = _KINDS.get(resource.kind, _PLAIN)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": dict(metadata),
        "columnDefinitions": [_definition(column) for column in columns] if with_columns else [],
        "rows": [
            {"cells": list(row(item, now)), **_included(item, include_object, version)}
            for item in items
        ],
    }


def _definition(column: Column) -> Object:
    return {
        "name": column.name,
        "type": column.type,
        "format": "name" if column.name == "Name" and column.priority == 0 else "",
        "description": column.name,
        "priority": column.priority,
    }


def _included(item: Object, include_object: str, version: str) -> Object:
    if include_object == "None":
        return {"object": None}
    if include_object == "Object":
        return {"object": item}
    partial = {"kind": "PartialObjectMetadata", "apiVersion": f"meta.k8s.io/{version}"}
    return {"object": {**partial, "metadata": item["metadata"]}}


def _plain(item: Object, now: datetime) -> Sequence[Any]:
    return item["metadata"]["name"], age_of(item, now)


def _namespace(item: Object, now: datetime) -> Sequence[Any]:
    return (
        item["metadata"]["name"],
        value_in(item, "status", "phase", default=""),
        age_of(item, now),
    )


def _service(item: Object, now: datetime) -> Sequence[Any]:
    spec = item.get("spec") or {}
    ports = [_service_port(port) for port in spec.get("ports") or ()]
    return (
        item["metadata"]["name"],
        spec.get("type", "ClusterIP"),
        spec.get("clusterIP") or NONE,
        _external_ip(item),
        ",".join(ports) or NONE,
        age_of(item, now),
        _labels(spec.get("selector")),
    )


def _service_port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"


def _external_ip(item: Object) -> str:
    spec = item.get("spec") or {}
    kind, external = spec.get("type"), list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        return str(spec.get("externalName", NONE))
    if kind != "LoadBalancer":
        return ",".join(external) or NONE
    ingress = value_in(item, "status", "loadBalancer", "ingress", default=[])
    found = [entry.get("ip") or entry.get("hostname", "") for entry in ingress]
    return ",".join(found + external) or "<pending>"


def _endpoints(item: Object, now: datetime) -> Sequence[Any]:
    return item["metadata"]["name"], _format_endpoints(item), age_of(item, now)


def _format_endpoints(item: Object) -> str:
    pairs = [
        f"{address.get('ip')}:{port.get('port')}" if port else str(address.get("ip"))
        for subset in item.get("subsets") or ()
        for port in subset.get("ports") or (None,)
        for address in subset.get("addresses") or ()
    ]
    return _first(pairs, 3)


def _endpoint_slice(item: Object, now: datetime) -> Sequence[Any]:
    ports = [str(port.get("port", "*")) for port in item.get("ports") or ()]
    addresses = [
        address for entry in item.get("endpoints") or () for address in entry.get("addresses") or ()
    ]
    unset = "<unset>"
    return (
        item["metadata"]["name"],
        item.get("addressType", ""),
        _first(ports, 3) if ports else unset,
        _first(addresses, 3) if addresses else unset,
        age_of(item, now),
    )


def _first(values: Sequence[str], count: int) -> str:
    if not values:
        return NONE
    more = f" + {len(values) - count} more..." if len(values) > count else ""
    return ",".join(values[:count]) + more


def _pod(item: Object, now: datetime) -> Sequence[Any]:
    spec, current = item.get("spec") or {}, item.get("status") or {}
    statuses = current.get("containerStatuses") or ()
    ready = sum(bool(each.get("ready")) for each in statuses)
    gates = spec.get("readinessGates") or ()
    return (
        item["metadata"]["name"],
        f"{ready}/{len(spec.get('containers') or ())}",
        _pod_status(item),
        _restarts(statuses, now),
        age_of(item, now),
        current.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        current.get("nominatedNodeName") or NONE,
        f"0/{len(gates)}" if gates else NONE,
    )


def _restarts(statuses: Sequence[Object], now: datetime) -> str:
    """How many, and how long ago the last one was."""
    count = sum(each.get("restartCount", 0) for each in statuses)
    ends = [
        value_in(each, "lastState", "terminated", "finishedAt", default="") for each in statuses
    ]
    last = max(ends, default="")
    return f"{count} ({ages.age(last, now)} ago)" if count and last else str(count)


def _pod_status(item: Object) -> str:
    if item["metadata"].get("deletionTimestamp"):
        return "Terminating"
    current = item.get("status") or {}
    reason = current.get("reason") or current.get("phase") or "Unknown"
    for each in reversed(current.get("containerStatuses") or ()):
        state = each.get("state") or {}
        ending = state.get("waiting") or state.get("terminated") or {}
        reason = ending.get("reason") or reason
    return str(reason)


def _node(item: Object, now: datetime) -> Sequence[Any]:
    info = value_in(item, "status", "nodeInfo", default={})
    addresses = {
        entry.get("type"): entry.get("address")
        for entry in reversed(value_in(item, "status", "addresses", default=[]))
    }
    return (
        item["metadata"]["name"],
        _node_status(item),
        _roles(item),
        age_of(item, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    )


def _node_status(item: Object) -> str:
    conditions = value_in(item, "status", "conditions", default=[])
    ready = [each.get("status") for each in conditions if each.get("type") == "Ready"]
    word = {"True": "Ready", "False": "NotReady"}.get(ready[0], "NotReady") if ready else "Unknown"
    if (item.get("spec") or {}).get("unschedulable"):
        return f"{word},SchedulingDisabled"
    return word


def _roles(item: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = item["metadata"].get("labels") or {}
    found = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    return ",".join(found) or NONE


def _deployment(item: Object, now: datetime) -> Sequence[Any]:
    spec, current = item.get("spec") or {}, item.get("status") or {}
    containers = value_in(item, "spec", "template", "spec", "containers", default=[])
    return (
        item["metadata"]["name"],
        f"{current.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        current.get("updatedReplicas", 0),
        current.get("availableReplicas", 0),
        age_of(item, now),
        ",".join(each.get("name", "") for each in containers),
        ",".join(each.get("image", "") for each in containers),
        _label_selector(spec.get("selector")),
    )


def _service_cidr(item: Object, now: datetime) -> Sequence[Any]:
    cidrs = value_in(item, "spec", "cidrs", default=[])
    return item["metadata"]["name"], ",".join(cidrs), age_of(item, now)


def _event(item: Object, now: datetime) -> Sequence[Any]:
    involved = item.get("involvedObject") or {}
    source = item.get("source") or {}
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = item.get("lastTimestamp") or first
    return (
        ages.age(last, now),
        item.get("type", ""),
        item.get("reason", ""),
        f"{involved.get('kind', '').lower()}/{involved.get('name', '')}",
        involved.get("fieldPath", ""),
        ", ".join(filter(None, (source.get("component", ""), source.get("host", "")))),
        str(item.get("message", "")).strip(),
        ages.age(first, now),
        item.get("count", 1),
        item["metadata"]["name"],
    )


def _label_selector(selector: Object | None) -> str:
    if not selector:
        return NONE
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    terms.extend(_expression(each) for each in selector.get("matchExpressions") or ())
    return ",".join(terms) or NONE


def _expression(each: Object) -> str:
    key, values = each.get("key", ""), ",".join(each.get("values") or ())
    words = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})"}
    return words.get(each.get("operator", ""), f"!{key}" if "Not" in each["operator"] else key)


def _labels(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


_PLAIN: Layout = ((NAME, AGE), _plain)
_KINDS: Mapping[str, Layout] = {
    **networking_tables.LAYOUTS,
    **configuration_tables.LAYOUTS,
    **custom_tables.LAYOUTS,
    "Namespace": ((NAME, Column("Status"), AGE), _namespace),
    "Service": (
        (
            NAME,
            Column("Type"),
            Column("Cluster-IP"),
            Column("External-IP"),
            Column("Port(s)"),
            AGE,
            *wide("Selector"),
        ),
        _service,
    ),
    "Endpoints": ((NAME, Column("Endpoints"), AGE), _endpoints),
    "EndpointSlice": (
        (NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), AGE),
        _endpoint_slice,
    ),
    "Pod": (
        (
            NAME,
            Column("Ready"),
            Column("Status"),
            Column("Restarts"),
            AGE,
            *wide("IP", "Node", "Nominated Node", "Readiness Gates"),
        ),
        _pod,
    ),
    "Node": (
        (
            NAME,
            Column("Status"),
            Column("Roles"),
            AGE,
            Column("Version"),
            *wide("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        ),
        _node,
    ),
    "Deployment": (
        (
            NAME,
            Column("Ready"),
            Column("Up-to-date", "integer"),
            Column("Available", "integer"),
            AGE,
            *wide("Containers", "Images", "Selector"),
        ),
        _deployment,
    ),
    "ServiceCIDR": ((NAME, Column("CIDRs"), AGE), _service_cidr),
    "Event": (
        (
            Column("Last Seen"),
            Column("Type"),
            Column("Reason"),
            Column("Object"),
            *wide("Subobject", "Source"),
            Column("Message"),
            *wide("First Seen"),
            Column("Count", "integer", 1),
            *wide("Name"),
        ),
        _event,
    ),
}
