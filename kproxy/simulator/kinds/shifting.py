"""Ports that this process may not bind are moved up by 10000, in the objects themselves.

What kubectl prints is then what curl reaches. A port is moved where it enters, in a whole object
or in a patch, before it meets what is stored: the patch of `kubectl apply` has the ports of
the manifest, so applying that again changes nothing, and a port that the manifest drops is found
under its new number. (kubectl, which compares the manifest with the live object, says
"configured" nevertheless.) The annotation says what was moved.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from kproxy.portal import loopback
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import api_versions, patch, registry, resources, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

ANNOTATION_SHIFTED_PORTS = "kproxy.io/shifted-ports"
"""On the moved object: "80=10080,443=10443"."""

_SHIFTED = frozenset(
    {
        resources.SERVICES,
        resources.DEPLOYMENTS,
        resources.PODS,
        resources.INGRESSES,
        resources.GATEWAYS,
        resources.TCP_ROUTES,
        resources.UDP_ROUTES,
    }
)
_PORT_FIELDS = frozenset({"port", "targetPort", "containerPort", "number", "servicePort"})
"""The last two are of Ingresses, in v1 and in v1beta1."""

Moves: TypeAlias = dict[int, int]


def shifted(port: int, below: int) -> int:
    """Where `port` is found when ports under `below` cannot be bound."""
    return port + loopback.PORT_SHIFT if 0 < port < below else port


def shift(value: Any, below: int, moves: Moves) -> Any:
    """A copy of a part of an object or of a patch, with its ports moved; `moves` gets which."""
    if isinstance(value, list):
        return [shift(each, below, moves) for each in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for field, each in value.items():
        if field in _PORT_FIELDS and type(each) is int and 0 < each < below:
            made[field] = moves[each] = shifted(each, below)
        elif field in pods.PORTS_ANNOTATIONS and isinstance(each, str):
            made[field] = ",".join(_shift_text(port, below, moves) for port in each.split(","))
        else:
            made[field] = shift(each, below, moves)
    return made


def _shift_text(port: str, below: int, moves: Moves) -> str:
    """A port number as text, moved; the strategy refuses text that is no number."""
    number = int(port) if port.strip().isdecimal() and len(port) < 7 else 0
    if 0 < number < below:
        moves[number] = shifted(number, below)
    return str(moves[number]) if number in moves else port


class ShiftingRegistry(registry.Registry):
    """A registry in which no object has a port under `below` that a process binds, or one of a
    Service."""

    def __init__(
        self,
        objects: storage.Storage,
        strategies: Mapping[Resource, registry.Strategy] | None = None,
        *,
        below: int,
        **options: Any,
    ) -> None:
        super().__init__(objects, strategies, **options)
        self._below = below

    def create(self, resource: Resource, new: Object, *, dry_run: bool = False) -> Object:
        """`Registry.create`, with the ports moved."""
        return super().create(resource, self._shift(resource, new, None), dry_run=dry_run)

    def update(self, resource: Resource, new: Object, *, dry_run: bool = False) -> Object:
        """`Registry.update`, with the ports moved."""
        metadata = new["metadata"]
        old = self.find(resource, metadata.get("name", ""), metadata.get("namespace", ""))
        return super().update(resource, self._shift(resource, new, old), dry_run=dry_run)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch_type: patch.Type,
        body: Any,
        subresource: registry.Subresource = "",
        *,
        dry_run: bool = False,
    ) -> Object:
        """`Registry.patch`, with the ports of a merge patch moved."""
        if isinstance(body, dict) and not subresource:
            stored = api_versions.stored_as(resource)
            body = self._shift(stored, body, self.find(stored, name, namespace))
        return super().patch(
            resource, namespace, name, patch_type, body, subresource, dry_run=dry_run
        )

    def _shift(self, resource: Resource, new: Object, old: Object | None) -> Object:
        """`new` with its ports moved, and an annotation that says so."""
        moves: Moves = {}
        if resource not in _SHIFTED:
            return new
        parts = {name: new[name] for name in ("metadata", "spec") if name in new}
        made = {**new, **shift(parts, self._below, moves)}
        if not moves:
            return new
        metadata = made.get("metadata") or {}
        annotations = metadata.get("annotations") or {}
        known = ((old or {}).get("metadata", {}).get("annotations") or {}).get(
            ANNOTATION_SHIFTED_PORTS, annotations.get(ANNOTATION_SHIFTED_PORTS, "")
        )
        moved = {ANNOTATION_SHIFTED_PORTS: _moves_text(known, moves)}
        metadata = {**metadata, "annotations": {**annotations, **moved}}
        return {**made, "metadata": metadata}


def _moves_text(known: str, moves: Moves) -> str:
    """The annotation's value: what it said, and `moves`."""
    entries = {entry for entry in known.split(",") if entry}
    entries.update(f"{port}={moved}" for port, moved in moves.items())
    return ",".join(sorted(entries, key=lambda entry: (len(entry), entry)))
