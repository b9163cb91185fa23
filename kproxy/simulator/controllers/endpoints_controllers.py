"""The controllers that keep Endpoints and EndpointSlices, as kube-controller-manager has three.

One for Endpoints and one for slices of Services with a selector, and one that mirrors Endpoints
made by hand, for Services without, into slices.
"""

from collections.abc import Mapping, Sequence

from kproxy.model import names
from kproxy.model.judging import endpoint_rules
from kproxy.model.kinds import endpoint_slice_kind
from kproxy.simulator.controllers import selection
from kproxy.simulator.kinds import service_validation, subsets
from kproxy.simulator.store import indexes, registry, resources, storage
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
LABEL_SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
ANNOTATION_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
ANNOTATION_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
_ANNOTATION_LEADER = "control-plane.alpha.kubernetes.io/leader"
_SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
_MIRROR_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
_ENDPOINTS_MANAGED_BY = {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}


class _Selected:
    """What the first two controllers share: Services, and the pods that they select."""

    managed: Resource

    def __init__(self, objects: registry.Registry) -> None:
        self._registry = objects
        self._selection = selection.Selection(objects.storage)

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The Services that `event` may concern."""
        if event.resource is resources.SERVICES:
            return [_key(event.object)]
        if event.resource is self.managed:
            # Endpoints may be there before their Service; the controller then leaves them alone.
            key = _service_key(event.object)
            has_service = self._registry.find(resources.SERVICES, key.name, key.namespace)
            return [key] if has_service else ()
        if event.resource is resources.PODS:
            both = (event.object, event.previous or event.object)
            found = (_key(each) for pod in both for each in self._selection.services(pod))
            return list(dict.fromkeys(found))
        return ()


class EndpointsController(_Selected):
    """Keeps the Endpoints of Services that have a selector; takes along those of any that goes."""

    managed = resources.ENDPOINTS

    def reconcile(self, key: names.NamespacedName) -> None:
        """Make the Endpoints of the Service `key` equal to its pods."""
        service = self._registry.find(resources.SERVICES, key.name, key.namespace)
        old = self._registry.find(resources.ENDPOINTS, key.name, key.namespace)
        if service is None:
            if old is not None and _is_ours_to_remove(old):
                self._registry.delete(resources.ENDPOINTS, key.name, key.namespace)
            return
        if _has_endpoints(service):
            self._write(service, old)

    def _write(self, service: Object, old: Object | None) -> None:
        made = subsets.subsets(service, self._selection.pods(service))
        kept = subsets.truncated(made)
        metadata = service["metadata"]
        labels = {**_labels(service), **_ENDPOINTS_MANAGED_BY}
        said = old and (old.get("subsets") or [], old["metadata"].get("labels"))
        if said == (kept, labels):
            return
        annotations = {
            name: value
            for name, value in (old or {"metadata": {}})["metadata"].get("annotations", {}).items()
            if name != ANNOTATION_OVER_CAPACITY
        }
        annotations[ANNOTATION_TRIGGER_TIME] = storage.timestamp(self._registry.storage.now())
        if kept != made:
            annotations[ANNOTATION_OVER_CAPACITY] = "truncated"
        identity = {"name": metadata["name"], "namespace": metadata["namespace"]}
        new = {
            "metadata": {**identity, "labels": labels, "annotations": annotations},
            "subsets": kept,
        }
        write = self._registry.create if old is None else self._registry.update
        write(resources.ENDPOINTS, new)


class EndpointSliceController(_Selected):
    """Keeps the slices of Services that have a selector. They go with the Service, their owner."""

    managed = resources.ENDPOINT_SLICES

    def __init__(self, objects: registry.Registry) -> None:
        super().__init__(objects)
        self._slices = _Slices(objects, _SLICE_CONTROLLER)

    def reconcile(self, key: names.NamespacedName) -> None:
        """Make the slices of the Service `key` equal to its pods."""
        service = self._registry.find(resources.SERVICES, key.name, key.namespace)
        if service is None or not _has_endpoints(service):
            return
        found = self._selection.pods(service)
        groups = {
            family: subsets.groups(service, found, family) for family in subsets.families(service)
        }
        self._slices.write(service, _labels(service), groups, keeps_one=True)


class EndpointSliceMirroringController:
    """Mirrors Endpoints made by hand into slices, for proxies that read only those."""

    def __init__(self, objects: registry.Registry) -> None:
        self._registry = objects
        self._slices = _Slices(objects, _MIRROR_CONTROLLER)

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The Endpoints that `event` may concern."""
        if event.resource in (resources.SERVICES, resources.ENDPOINTS):
            return [_key(event.object)]
        if event.resource is resources.ENDPOINT_SLICES and self._slices.has(event.object):
            return [_service_key(event.object)]
        return ()

    def reconcile(self, key: names.NamespacedName) -> None:
        """Make the mirror of the Endpoints `key` equal to them, or remove it."""
        service = self._registry.find(resources.SERVICES, key.name, key.namespace)
        source = self._registry.find(resources.ENDPOINTS, key.name, key.namespace)
        if source is None:
            return  # its slices have gone with it
        wanted = service is not None and not service["spec"].get("selector")
        is_mirrored = wanted and _is_to_be_mirrored(source)
        families = ("IPv4", "IPv6") if is_mirrored else ()
        groups = {family: subsets.mirrored(source, family) for family in families}
        self._slices.write(source, _labels(source), groups)


class _Slices:
    """Writes the slices of one controller."""

    def __init__(self, objects: registry.Registry, manager: str) -> None:
        self._registry = objects
        self._manager = manager
        self._by_service = indexes.Index(objects.storage, resources.ENDPOINT_SLICES, self._owners)

    def _owners(self, found: Object) -> Sequence[names.NamespacedName]:
        return (_service_key(found),) if self.has(found) else ()

    def has(self, found: Object) -> bool:
        """Whether a slice is this controller's."""
        return bool(_labels(found).get(LABEL_MANAGED_BY) == self._manager)

    def write(
        self,
        owner: Object,
        labels: dict[str, str],
        groups: Mapping[str, subsets.Groups],
        *,
        keeps_one: bool = False,
    ) -> None:
        """Make the slices of `owner`, a Service or its Endpoints, hold `groups`, by family.

        With `keeps_one` there is an empty slice of each family where there would be none.
        """
        labels = {
            **labels,
            endpoint_slice_kind.LABEL_SERVICE_NAME: owner["metadata"]["name"],
            LABEL_MANAGED_BY: self._manager,
        }
        by_family: dict[str, list[Object]] = {family: [] for family in groups}
        for each in self._by_service.get(_key(owner)):
            by_family.setdefault(each["addressType"], []).append(each)
        for family, existing in by_family.items():
            plan = subsets.plan(groups.get(family, {}), existing)
            if keeps_one and family in groups:
                plan = subsets.with_placeholder(plan, existing)
            self._carry_out(owner, labels, family, existing, subsets.reusing(plan))

    def _carry_out(
        self,
        owner: Object,
        labels: dict[str, str],
        family: str,
        existing: Sequence[Object],
        plan: subsets.SlicePlan,
    ) -> None:
        name, namespace = owner["metadata"]["name"], owner["metadata"]["namespace"]
        now = storage.timestamp(self._registry.storage.now())
        trigger = {ANNOTATION_TRIGGER_TIME: now}
        for each in plan.delete:
            self._registry.delete(resources.ENDPOINT_SLICES, each["metadata"]["name"], namespace)
        for each in plan.create:
            metadata = {
                "generateName": f"{name}-",
                "namespace": namespace,
                "labels": labels,
                "annotations": trigger,
                "ownerReferences": [_reference(owner)],
            }
            new = {"addressType": family, "metadata": metadata, **each}
            self._registry.create(resources.ENDPOINT_SLICES, new)
        updates = {each["metadata"]["name"]: each for each in plan.update}
        gone = {each["metadata"]["name"] for each in plan.delete}
        for old in existing:
            new = updates.get(old["metadata"]["name"], old)
            is_changed = new is not old or old["metadata"]["labels"] != labels
            if is_changed and old["metadata"]["name"] not in gone:
                metadata = {**old["metadata"], "labels": labels, "annotations": trigger}
                self._registry.update(resources.ENDPOINT_SLICES, {**new, "metadata": metadata})


def _has_endpoints(service: Object) -> bool:
    """Whether the Service gets endpoints by its selector; one that is a mere name does not."""
    spec = service["spec"]
    return bool(spec.get("selector")) and spec["type"] != "ExternalName"


def _is_to_be_mirrored(source: Object) -> bool:
    metadata = source["metadata"]
    skipped = (metadata.get("labels") or {}).get(LABEL_SKIP_MIRROR) == "true"
    return not skipped and _ANNOTATION_LEADER not in (metadata.get("annotations") or {})


def _is_ours_to_remove(found: Object) -> bool:
    """Endpoints without a Service go, as upstream, unless they are a leader's lock."""
    return _ANNOTATION_LEADER not in (found["metadata"].get("annotations") or {})


def _labels(owner: Object) -> dict[str, str]:
    """The labels that its endpoints get: its own, and the mark of a headless Service."""
    labels = dict(owner["metadata"].get("labels") or {})
    if owner["kind"] == resources.SERVICES.kind and service_validation.is_headless(owner):
        labels[endpoint_rules.LABEL_HEADLESS] = ""
    return labels


def _reference(owner: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _key(found: Object) -> names.NamespacedName:
    return names.NamespacedName(found["metadata"]["namespace"], found["metadata"]["name"])


def _service_key(found: Object) -> names.NamespacedName:
    """The Service that Endpoints or a slice belong to."""
    label = endpoint_slice_kind.LABEL_SERVICE_NAME
    name = (found["metadata"].get("labels") or {}).get(label, found["metadata"]["name"])
    return names.NamespacedName(found["metadata"]["namespace"], name)
