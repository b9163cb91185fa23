"""Discovery documents: which groups, versions and resources there are.

In the classic form (`/api`, `/apis`, and a list for each version) and in the aggregated one
(`apidiscovery.k8s.io`, KEP-3352), which newer clients ask for in their Accept header.
"""

import platform
from collections.abc import Iterable, Sequence
from typing import Any

from kproxy.simulator.api.emulation import Emulation
from kproxy.simulator.store.resources import Resource


def version(emulated: Emulation) -> dict[str, str]:
    """What `/version` answers."""
    return {
        "major": "1",
        "minor": str(emulated.minor),
        "gitVersion": emulated.git_version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": f"linux/{platform.machine()}",
    }


def api_versions(address: str) -> dict[str, Any]:
    """What `/api` answers; `address` is the server's host and port."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(served: Sequence[Resource]) -> dict[str, Any]:
    """What `/apis` answers."""
    groups = [_group(served, name) for name in _groups(served)]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(served: Sequence[Resource], name: str) -> dict[str, Any]:
    """What `/apis/GROUP` answers."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(served, name)}


def resource_list(served: Iterable[Resource], group_version: str) -> dict[str, Any]:
    """What `/api/v1` and `/apis/GROUP/VERSION` answer."""
    resources = [
        entry
        for resource in served
        if resource.api_version == group_version
        for entry in (_resource(resource), *_subresources(resource))
    ]
    head = {"kind": "APIResourceList", "groupVersion": group_version, "resources": resources}
    return head if group_version == "v1" else {"apiVersion": "v1", **head}


def aggregated(served: Sequence[Resource], *, core: bool, version: str) -> dict[str, Any]:
    """What `/api` (`core`) or `/apis` answers in the aggregated form, v2 or v2beta1."""
    names = [""] if core else _groups(served)
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": [_aggregated_group(served, name) for name in names],
    }


def _groups(served: Iterable[Resource]) -> list[str]:
    return list(dict.fromkeys(resource.group for resource in served if resource.group))


def _versions(served: Iterable[Resource], name: str) -> list[str]:
    return list(dict.fromkeys(resource.version for resource in served if resource.group == name))


def _group(served: Sequence[Resource], name: str) -> dict[str, Any]:
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for version in _versions(served, name)
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resource(resource: Resource) -> dict[str, Any]:
    entry = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    return entry


def _subresources(resource: Resource) -> list[dict[str, Any]]:
    verbs = ["get", "patch", "update"]
    head = {"singularName": "", "namespaced": resource.namespaced}
    found: list[dict[str, Any]] = []
    if resource.has_scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": verbs}
        found.append({"name": f"{resource.plural}/scale", **head, **scale})
    if resource.has_status:
        found.append(
            {"name": f"{resource.plural}/status", **head, "kind": resource.kind, "verbs": verbs}
        )
    return found


def _aggregated_group(served: Sequence[Resource], name: str) -> dict[str, Any]:
    versions = [
        {
            "version": version,
            "resources": [
                _aggregated_resource(resource)
                for resource in served
                if (resource.group, resource.version) == (name, version)
            ],
            "freshness": "Current",
        }
        for version in _versions(served, name)
    ]
    metadata = {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None}
    return {"metadata": metadata, "versions": versions}


def _aggregated_resource(resource: Resource) -> dict[str, Any]:
    entry = {
        "resource": resource.plural,
        "responseKind": _kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    subresources = [_aggregated_subresource(resource, each) for each in _subresources(resource)]
    return entry | ({"subresources": subresources} if subresources else {})


def _aggregated_subresource(resource: Resource, entry: dict[str, Any]) -> dict[str, Any]:
    kind = _kind(
        entry.get("group", resource.group), entry.get("version", resource.version), entry["kind"]
    )
    name = entry["name"].partition("/")[2]
    return {"subresource": name, "responseKind": kind, "verbs": entry["verbs"]}


def _kind(group: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": version, "kind": kind}
