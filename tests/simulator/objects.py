"""Objects and storages for the tests of the simulated API server."""

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kproxy.simulator.kinds.configuration import strategies as configuration_strategies
from kproxy.simulator.kinds.custom import strategies as custom_strategies
from kproxy.simulator.kinds.networking import strategies as networking_strategies
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


def ruled_registry() -> registry.Registry:
    """A registry with the namespace default, and rules for networking, configuration and more."""
    stored = new_storage()
    rules = {
        **networking_strategies.strategies(stored),
        **configuration_strategies.strategies(),
        **custom_strategies.strategies(),
    }
    made = registry.Registry(stored, rules, choose=lambda letters: letters[0])
    made.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return made


def ingress(name: str = "web", **spec: Any) -> Object:
    """An Ingress of one host and one path, for the Service "web" unless `spec` says otherwise."""
    path = {"path": "/", "pathType": "Prefix", "backend": backend()}
    rules = [{"host": "web.example", "http": {"paths": [path]}}]
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"rules": rules, **spec}}


def backend(name: str = "web", /, **port: Any) -> Object:
    """The backend of an Ingress: a Service and its port, 80 unless given."""
    return {"service": {"name": name, "port": port or {"number": 80}}}


def service(name: str, namespace: str = "default", **metadata: Any) -> Object:
    """A Service with one port."""
    identity = {"name": name, "namespace": namespace, **metadata}
    return {"metadata": identity, "spec": {"ports": [{"port": 80, "name": "http"}]}}


def pod(name: str, owner: Mapping[str, Any] | None = None) -> Object:
    """A Pod, with or without an owner."""
    metadata: Object = {"name": name, "namespace": "default"}
    if owner is not None:
        reference = {"uid": owner["metadata"]["uid"], "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Any", **reference}]
    return {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}}
