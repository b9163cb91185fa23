"""Objects and storages for the tests of the simulated API server."""

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kproxy.simulator.store import registry, resources, storage
from kproxy.simulator.store.storage import Object

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def new_storage(history: int = 1000) -> storage.Storage:
    """A storage in which time stands still and UIDs are numbered."""
    numbers = itertools.count(1)
    return storage.Storage(now=lambda: NOW, new_uid=lambda: f"uid-{next(numbers)}", history=history)


def new_registry(history: int = 1000) -> registry.Registry:
    """A registry with the namespaces default and other."""
    made = registry.Registry(new_storage(history), choose=lambda letters: letters[0])
    for name in ("default", "other"):
        made.create(resources.NAMESPACES, {"metadata": {"name": name}})
    return made


def service(name: str, namespace: str = "default", **metadata: Any) -> Object:
    """A Service with one port."""
    identity = {"name": name, "namespace": namespace, **metadata}
    return {"metadata": identity, "spec": {"ports": [{"port": 80, "name": "http"}]}}


def pod(name: str, owner: Mapping[str, Any] | None = None) -> Object:
    """A Pod, owned by an object or by nobody."""
    metadata: Object = {"name": name, "namespace": "default"}
    if owner is not None:
        reference = {"uid": owner["metadata"]["uid"], "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Any", **reference}]
    return {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}}
