"""The rules for changing objects: what the HTTP server and the controllers call.

A `Strategy` knows one resource: its defaults, what it allocates, what is valid. The registry
does what is the same for all of them, as kube-apiserver's generic registry does: names,
namespaces, versions, subresources, patches, dry runs, and what deletion takes with it.

Ownership. Whatever deletes an owner deletes, in the same call, the dependants that have no
owner left (`ownerReferences`), unless it asks for `Orphan`; "Foreground" is taken as
"Background". A namespace goes once everything in it has gone.
"""

import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from kproxy.simulator.store import (
    api_versions,
    formats,
    object_meta,
    patch,
    resources,
    statuses,
    storage,
)
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

Propagation: TypeAlias = Literal["Background", "Foreground", "Orphan"]
Subresource: TypeAlias = Literal["", "status"]

_PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public")
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_LONGEST_GENERATED = 58
_OWNED_BY_SERVER = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


class Strategy(Protocol):
    """What is particular to a resource.

    The objects it is given are stored ones or the caller's; it returns new ones and mutates
    none. It raises `status.StatusError` to refuse. What it allocates is only chosen here, and held
    from the storage's event on: what is a dry run, or fails to be stored, holds nothing.
    """

    def prepare_create(self, new: Object) -> Object:
        """The object with its defaults and what it was allocated. Raises Invalid."""
        ...

    def prepare_update(self, old: Object, new: Object) -> Object:
        """The same for a change. `new` has the status of `old`. Raises Invalid."""
        ...

    def prepare_status(self, old: Object, new: Object) -> Object:
        """The object with a new status. Raises Invalid."""
        ...

    def begin_delete(self, old: Object, grace_seconds: int | None) -> Object | None:
        """None: remove it at once. Otherwise the object to store, with a `deletionTimestamp`; a
        controller later ends it with `Registry.remove`."""
        ...


class PlainStrategy:
    """The strategy of a resource without defaults, allocations or rules; a base for others."""

    def prepare_create(self, new: Object) -> Object:
        """Stored as it comes."""
        return new

    def prepare_update(self, old: Object, new: Object) -> Object:  # noqa: ARG002
        """Stored as it comes."""
        return new

    def prepare_status(self, old: Object, new: Object) -> Object:  # noqa: ARG002
        """Stored as it comes."""
        return new

    def begin_delete(self, old: Object, grace_seconds: int | None) -> Object | None:  # noqa: ARG002
        """Removed at once."""
        return None


class NamespaceStrategy(PlainStrategy):
    """Namespaces: active until deleted, and then terminating until they are empty."""

    def prepare_create(self, new: Object) -> Object:
        """Active, and labelled with its name."""
        metadata = new["metadata"]
        labels = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": metadata["name"]}
        return {
            **new,
            "metadata": {**metadata, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }

    def begin_delete(self, old: Object, grace_seconds: int | None) -> Object | None:  # noqa: ARG002
        """Terminating until it is empty. Raises Forbidden for namespaces that cannot be deleted."""
        name = old["metadata"]["name"]
        if name in _PERMANENT_NAMESPACES:
            raise statuses.forbidden(
                resources.NAMESPACES, name, "this namespace may not be deleted"
            )
        return {**old, "status": {"phase": "Terminating"}}


class Registry:
    """Reads and writes objects. Every method may raise `status.StatusError`.

    `choose` draws the random letters of generated names.
    """

    def __init__(
        self,
        objects: storage.Storage,
        strategies: Mapping[Resource, Strategy] | None = None,
        *,
        choose: Callable[[str], str] = random.choice,
    ) -> None:
        self.storage = objects
        self._strategies: dict[Resource, Strategy] = {
            resources.NAMESPACES: NamespaceStrategy(),
            **(strategies or {}),
        }
        self._plain = PlainStrategy()
        self._choose = choose
        # Owner's UID → the dependants that name it, as (resource, namespace, name).
        self._dependants: dict[str, dict[tuple[Resource, str, str], None]] = {}
        objects.subscribe(self._index_owners)

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """The object. Raises NotFound."""
        return self.storage.get(resource, name, namespace)

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """The object as it is stored, None if there is none. Do not change it."""
        return self.storage.find(resource, name, namespace)

    def list(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects, or those of a namespace, in the order of `namespace/name`."""
        return self.storage.list(resource, namespace)

    def create(self, resource: Resource, new: Object, *, dry_run: bool = False) -> Object:
        """Store a new object: defaulted, named if it has only a `generateName`, and checked."""
        object_meta.check(resource, new)
        new = self._named(resource, new)
        metadata = new["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        self._check_names(resource, new)
        self._check_namespace(resource, name, namespace)
        if self.storage.find(resource, name, namespace) is not None:
            raise statuses.already_exists(resource, name)
        new = self._strategy(resource).prepare_create(new)
        if dry_run:
            return self._dry(new, new["metadata"])
        return self.storage.create(resource, new)

    def update(self, resource: Resource, new: Object, *, dry_run: bool = False) -> Object:
        """Replace an object, except for its status and what the server owns of its metadata.

        Unconditional unless `new` has a `resourceVersion`, which must then be the latest.
        """
        object_meta.check(resource, new)
        old = self._old(resource, new)
        new = self._owned_by_server(resource, old, new)
        if resource.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        self._check_names(resource, new)
        new = self._strategy(resource).prepare_update(old, new)
        if dry_run:
            return self._dry(new, old["metadata"])
        return self._stored(resource, new)

    def update_status(self, resource: Resource, new: Object, *, dry_run: bool = False) -> Object:
        """Replace only an object's status; the rest of `new` is ignored."""
        old = self._old(resource, new)
        changed = {**old, "status": new.get("status", {})}
        changed = self._strategy(resource).prepare_status(old, changed)
        if dry_run:
            return changed
        return self.storage.update(resource, changed)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch_type: patch.Type,
        body: Any,
        subresource: Subresource = "",
        *,
        dry_run: bool = False,
    ) -> Object:
        """Apply a decoded patch. With a `resourceVersion` in it, that must be the latest.

        `resource` may be a version that is not stored: `body` is a patch of the object as that
        version shows it.
        """
        served, resource = resource, api_versions.stored_as(resource)
        shown = api_versions.to_served(served, self.storage.get(resource, name, namespace))
        new = api_versions.to_stored(served, patch.apply(served.kind, shown, patch_type, body))
        if not resource.namespaced:
            new["metadata"].pop("namespace", None)
        if new["metadata"].get("name") != name or new["metadata"].get("namespace", "") != namespace:
            raise statuses.bad_request("the name and the namespace of an object cannot be patched")
        if subresource == "status":
            return self.update_status(resource, new, dry_run=dry_run)
        return self.update(resource, new, dry_run=dry_run)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        grace_seconds: int | None = None,
        propagation: Propagation = "Background",
        preconditions: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Delete an object, or begin to: its last state so far, with a `deletionTimestamp` if
        it is not gone yet. Finalizers are waited for."""
        old = self.storage.get(resource, name, namespace)
        storage.check_preconditions(resource, old, dict(preconditions or {}))
        if dry_run:
            return old
        if propagation == "Orphan":
            self._orphan_dependants(old)
        ending = self._strategy(resource).begin_delete(old, grace_seconds)
        if ending is None and old["metadata"].get("finalizers"):
            ending = old
        if ending is None:
            return self.remove(resource, name, namespace)
        ending = self.storage.update(resource, self._terminating(ending))
        if resource == resources.NAMESPACES:
            self._delete_content(name)
            self._finish_namespace(name)
            return self.storage.find(resource, name) or ending
        return ending

    def remove(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Remove an object now, and with it what it alone owned. Returns its last state."""
        removed = self.storage.delete(resource, name, namespace)
        self._delete_dependants(removed["metadata"]["uid"])
        if namespace:
            self._finish_namespace(namespace)
        return removed

    def _strategy(self, resource: Resource) -> Strategy:
        return self._strategies.get(resource, self._plain)

    def _named(self, resource: Resource, new: Object) -> Object:
        metadata = {
            field: value
            for field, value in (new.get("metadata") or {}).items()
            if field not in (*_OWNED_BY_SERVER, "generation", "selfLink")
        }
        if metadata.pop("resourceVersion", ""):
            raise statuses.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and (prefix := metadata.get("generateName")):
            letters = "".join(self._choose(_SUFFIX_LETTERS) for _ in range(5))
            metadata["name"] = prefix[:_LONGEST_GENERATED] + letters
        if not metadata.get("name"):
            causes = [statuses.required_value("metadata.name", "name or generateName is required")]
            raise statuses.invalid(resource, "", causes)
        identity = {"apiVersion": resource.api_version, "kind": resource.kind}
        return {**new, **identity, "metadata": metadata}

    def _check_names(self, resource: Resource, new: Object) -> None:
        metadata = new["metadata"]
        name = metadata["name"]
        causes = list(statuses.malformed_value("metadata.name", name, _name_format(resource)))
        if causes:
            raise statuses.invalid(resource, name, causes)

    def _check_namespace(self, resource: Resource, name: str, namespace: str) -> None:
        if not resource.namespaced:
            return
        found = self.storage.get(resources.NAMESPACES, namespace)
        if "deletionTimestamp" in found["metadata"]:
            raise statuses.forbidden(
                resource,
                name,
                f"unable to create new content in namespace {namespace} because it is being "
                "terminated",
            )

    def _old(self, resource: Resource, new: Object) -> Object:
        metadata = new["metadata"]
        old = self.storage.get(resource, metadata["name"], metadata.get("namespace", ""))
        storage.check_preconditions(resource, old, metadata)
        return old

    def _owned_by_server(self, resource: Resource, old: Object, new: Object) -> Object:
        metadata = {key: value for key, value in new["metadata"].items() if key != "selfLink"}
        for field in _OWNED_BY_SERVER:
            metadata.pop(field, None)
            if field in old["metadata"]:
                metadata[field] = old["metadata"][field]
        identity = {"apiVersion": resource.api_version, "kind": resource.kind}
        return {**new, **identity, "metadata": metadata}

    def _stored(self, resource: Resource, new: Object) -> Object:
        """Store `new`, and end it if this took the last finalizer that its deletion waited for."""
        metadata = new["metadata"]
        held = self.storage.get(resource, metadata["name"], metadata.get("namespace", ""))
        stored = self.storage.update(resource, new)
        was_last = held["metadata"].get("finalizers") and not metadata.get("finalizers")
        is_ending = "deletionTimestamp" in metadata
        if was_last and is_ending and not metadata.get("deletionGracePeriodSeconds"):
            return self.remove(resource, metadata["name"], metadata.get("namespace", ""))
        return stored

    def _dry(self, new: Object, metadata: Object) -> Object:
        """The result of a dry run: the object as it would be, with its present version."""
        server = {
            "uid": metadata.get("uid", ""),
            "creationTimestamp": metadata.get("creationTimestamp")
            or storage.timestamp(self.storage.now()),
        }
        return {**new, "metadata": {**new["metadata"], **server}}

    def _terminating(self, old: Object) -> Object:
        defaults = {
            "deletionTimestamp": storage.timestamp(self.storage.now()),
            "deletionGracePeriodSeconds": 0,
        }
        return {**old, "metadata": {**defaults, **old["metadata"]}}

    def _delete_content(self, namespace: str) -> None:
        for resource in resources.ALL:
            if resource.namespaced:
                for item in self.storage.list(resource, namespace):
                    self._delete_if_there(resource, namespace, item["metadata"]["name"])

    def _finish_namespace(self, name: str) -> None:
        found = self.storage.find(resources.NAMESPACES, name)
        if found is None or "deletionTimestamp" not in found["metadata"]:
            return
        if not any(
            self.storage.list(resource, name) for resource in resources.ALL if resource.namespaced
        ):
            self.remove(resources.NAMESPACES, name)

    def _delete_if_there(self, resource: Resource, namespace: str, name: str) -> None:
        if self.storage.find(resource, name, namespace) is not None:
            self.delete(resource, name, namespace)

    def _index_owners(self, event: storage.Event) -> None:
        metadata = event.object["metadata"]
        key = (event.resource, metadata.get("namespace", ""), metadata["name"])
        for uid in _owners(event.previous):
            dependants = self._dependants[uid]
            del dependants[key]
            if not dependants:
                del self._dependants[uid]
        if event.type != "DELETED":
            for uid in _owners(event.object):
                self._dependants.setdefault(uid, {})[key] = None

    def _delete_dependants(self, owner: str) -> None:
        for resource, namespace, name in tuple(self._dependants.get(owner, ())):
            found = self.storage.find(resource, name, namespace)
            if found is not None:
                if _owners(found) == {owner}:
                    self._delete_if_there(resource, namespace, name)
                else:
                    self.storage.update(resource, _without_owner(found, owner))

    def _orphan_dependants(self, owner: Object) -> None:
        uid = owner["metadata"]["uid"]
        for resource, namespace, name in tuple(self._dependants.get(uid, ())):
            found = self.storage.find(resource, name, namespace)
            if found is not None:
                self.storage.update(resource, _without_owner(found, uid))


def _name_format(resource: Resource) -> formats.Format:
    if resource == resources.SERVICES:
        return formats.dns_1035_label
    is_label = resource == resources.NAMESPACES
    return formats.dns_1123_label if is_label else formats.dns_1123_subdomain


def _owners(item: Object | None) -> set[str]:
    references = item["metadata"].get("ownerReferences") if item else None
    return {reference["uid"] for reference in references or ()}


def _without_owner(item: Object, uid: str) -> Object:
    metadata = copy.deepcopy(item["metadata"])
    metadata["ownerReferences"] = [
        reference for reference in metadata["ownerReferences"] if reference["uid"] != uid
    ]
    return {**item, "metadata": metadata}
