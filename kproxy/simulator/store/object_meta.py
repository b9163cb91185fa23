"""The shape of `metadata`, which is the same for every resource."""

import msgspec

from kproxy.simulator.store import statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object


class _OwnerReference(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class _ObjectMeta(msgspec.Struct, rename="camel"):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[_OwnerReference] | None = None


class _Object(msgspec.Struct):
    metadata: _ObjectMeta


def check(resource: Resource, new: Object) -> None:
    """Raise BadRequest unless the fields of `metadata` have the types of the API."""
    try:
        msgspec.convert(new, _Object)
    except msgspec.ValidationError as error:
        raise statuses.unreadable(resource, error) from error
