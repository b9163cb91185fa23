"""The Deployment controller: makes and deletes pods until there is what the spec asks for."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kproxy.model import names
from kproxy.simulator.controllers import nodes, rollout
from kproxy.simulator.kinds import deployments, event_recorder, pods
from kproxy.simulator.store import indexes, registry, resources, storage
from kproxy.simulator.store.storage import Object

_COMPONENT = "deployment-controller"
_RECHECK = 1.0
"""Seconds between looks at a rollout that waits for time to pass."""
_BURST = 5
"""Pods made or deleted in one go: others on the event loop get their turn in between."""
_NOBODY = ""
"""In place of the controller's UID, for pods that a Deployment has made and let go."""


class DeploymentController:
    """Reconciles Deployments. A pod is owned by the Deployment itself: there are no ReplicaSets."""

    def __init__(self, objects: registry.Registry, recorder: event_recorder.Recorder) -> None:
        self._registry = objects
        self._recorder = recorder
        self._pods = indexes.Index(objects.storage, resources.PODS, _by_controller)
        # How many pods of each template there were to be, when that was last looked at.
        self._targets: dict[names.NamespacedName, dict[str, int]] = {}

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The Deployments that `event` may concern."""
        metadata = event.object["metadata"]
        if event.resource is resources.DEPLOYMENTS:
            return [names.NamespacedName(metadata["namespace"], metadata["name"])]
        if event.resource is not resources.PODS:
            return ()
        found: dict[names.NamespacedName, None] = {}
        for pod in (event.object, event.previous):
            owner = _owner_name(pod) if pod else ""
            if owner:
                found[names.NamespacedName(metadata["namespace"], owner)] = None
        if found or not (metadata.get("labels") or {}).get(rollout.LABEL_TEMPLATE_HASH):
            return list(found)
        return [  # an orphan, which any of these may adopt
            names.NamespacedName(metadata["namespace"], each["metadata"]["name"])
            for each in self._registry.list(resources.DEPLOYMENTS, metadata["namespace"])
        ]

    def reconcile(self, key: names.NamespacedName) -> float | None:
        """Take the Deployment a step further; seconds until the next look, if one is needed."""
        found = self._registry.find(resources.DEPLOYMENTS, key.name, key.namespace)
        if found is None or "deletionTimestamp" in found["metadata"]:
            self._targets.pop(key, None)
            return None
        now = self._registry.storage.now()
        have = rollout.population(found, self._claim(found))
        step = rollout.next_step(found, have, now)
        self._record_scaling(key, found, have, step)
        # Each new pod makes the Deployment dirty again, so the rest of a large step follows.
        self._take(
            found, step._replace(create=min(step.create, _BURST), delete=step.delete[:_BURST])
        )
        have = rollout.population(found, self._owned(found))
        made = rollout.status(found, have, now)
        if made != found.get("status"):
            self._registry.update_status(resources.DEPLOYMENTS, {**found, "status": made})
        return None if _is_complete(made, found["spec"]) else _RECHECK

    def _take(self, deployment: Object, step: rollout.Step) -> None:
        for _ in range(step.create):
            self._registry.create(resources.PODS, new_pod(deployment))
        for pod in step.delete:
            metadata = pod["metadata"]
            self._registry.delete(resources.PODS, metadata["name"], metadata["namespace"])

    def _record_scaling(
        self,
        key: names.NamespacedName,
        deployment: Object,
        have: rollout.Population,
        step: rollout.Step,
    ) -> None:
        """Record an Event for each template whose number of pods is to change.

        A pod that only replaces another gets none.
        """
        counts = Counter(map(rollout.hash_of, (*have.new, *have.old)))
        current = rollout.template_hash(deployment["spec"]["template"])
        leaving = Counter(map(rollout.hash_of, step.delete))
        known = self._targets.get(key, {})
        targets = {each: counts[each] - leaving[each] for each in (current, *counts)}
        targets[current] += step.create
        for each, target in targets.items():
            if target not in (counts[each], known.get(each)):
                verb = "up" if target > counts[each] else "down"
                name = f"{key.name}-{each}"
                message = f"Scaled {verb} replica set {name} from {counts[each]} to {target}"
                self._recorder.normal(_COMPONENT, deployment, "ScalingReplicaSet", message)
        self._targets[key] = targets

    def _owned(self, deployment: Object) -> list[Object]:
        """The pods that name it as their controller."""
        metadata = deployment["metadata"]
        return self._pods.get((metadata["namespace"], metadata["uid"]))

    def _claim(self, deployment: Object) -> list[Object]:
        """Its pods, once orphans that match are adopted and pods that do not are let go.

        Only an orphan with a template's hash once belonged to a Deployment. A pod that a user made
        by hand is never adopted, whatever its labels.
        """
        selector = deployment["spec"]["selector"]
        for pod in self._pods.get((deployment["metadata"]["namespace"], _NOBODY)):
            if _fits(selector, pod) and not pods.is_terminating(pod):
                self._set_owners(pod, [_reference(deployment)])
        for pod in self._owned(deployment):
            if not _fits(selector, pod):
                self._set_owners(pod, [])
        return self._owned(deployment)

    def _set_owners(self, pod: Object, references: list[Object]) -> None:
        changed = {**pod, "metadata": {**pod["metadata"], "ownerReferences": references}}
        self._registry.update(resources.PODS, changed)


def _by_controller(pod: Object) -> Sequence[tuple[str, str]]:
    """Keys of the index: the namespace, and the UID of the controller."""
    owner = nodes.controller_uid(pod)
    return ((pod["metadata"]["namespace"], owner),) if owner or rollout.hash_of(pod) else ()


def _fits(selector: Object, pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return rollout.LABEL_TEMPLATE_HASH in labels and deployments.matches(selector, labels)


def new_pod(deployment: Object) -> Object:
    """A pod from its template, named by the server."""
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    made: dict[str, Any] = copy.deepcopy(template)
    name = rollout.template_hash(template)
    labels = {**(made["metadata"].get("labels") or {}), rollout.LABEL_TEMPLATE_HASH: name}
    identity = {
        "generateName": f"{metadata['name']}-{name}-",
        "namespace": metadata["namespace"],
        "labels": labels,
        "ownerReferences": [_reference(deployment)],
    }
    if annotations := made["metadata"].get("annotations"):
        identity["annotations"] = annotations
    return {"metadata": identity, "spec": made["spec"]}


def _reference(deployment: Object) -> Object:
    return {
        "apiVersion": resources.DEPLOYMENTS.api_version,
        "kind": resources.DEPLOYMENTS.kind,
        "name": deployment["metadata"]["name"],
        "uid": deployment["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _owner_name(pod: Object) -> str:
    """The name of the Deployment that controls it; "" without one."""
    for reference in pod["metadata"].get("ownerReferences") or ():
        if reference.get("controller") and reference["kind"] == resources.DEPLOYMENTS.kind:
            return str(reference["name"])
    return ""


def _is_complete(status: Object, spec: Object) -> bool:
    """Whether nothing is left to wait for."""
    wanted = spec["replicas"]
    return all(
        status.get(count, 0) == wanted
        for count in ("replicas", "updatedReplicas", "availableReplicas")
    )
