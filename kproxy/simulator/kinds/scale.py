"""The scale subresource: a Deployment seen as an `autoscaling/v1` Scale. Pure."""

from typing import Any

from kproxy.simulator.store import statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

SCALE = Resource("autoscaling", "v1", "Scale", "scales", "scale")


def scale_of(item: Object) -> Object:
    spec, metadata = item.get("spec") or {}, item["metadata"]
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": SCALE.api_version,
        "metadata": {field: metadata[field] for field in shown if field in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {
            "replicas": (item.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def scaled(item: Object, scale: Any) -> Object:
    """The object with the replicas of `scale`, under the version that `scale` has. Raises
    Invalid."""
    spec = scale.get("spec") if isinstance(scale, dict) else None
    replicas = (spec or {}).get("replicas", 0)
    name = item["metadata"]["name"]
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        detail = "must be greater than or equal to 0"
        raise statuses.invalid(
            SCALE, name, [statuses.invalid_value("spec.replicas", replicas, detail)]
        )
    metadata = scale.get("metadata") or {}
    if version := metadata.get("resourceVersion"):
        item = {**item, "metadata": {**item["metadata"], "resourceVersion": version}}
    return {**item, "spec": {**item["spec"], "replicas": replicas}}
