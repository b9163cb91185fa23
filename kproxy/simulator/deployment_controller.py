"""The Deployment controller: makes and deletes pods until there is what the spec asks for."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kproxy.model import names
from kproxy.simulator import deployments, events, nodes, pods, registry, resources, rollout, storage
from kproxy.simulator.storage import Object

_COMPONENT = "deployment-controller"
_RECHECK = 1.0
"""Seconds between looks at a rollout that waits for time to pass."""
_BURST = 20
"""Pods made or deleted in one go: others on the event loop get their turn in between."""


class DeploymentController:
    """Reconciles Deployments. A pod is owned by the Deployment itself: there are no ReplicaSets."""

    def __init__(self, objects: registry.Registry, recorder: events.Recorder) -> None:
        self._registry = objects
        self._recorder = recorder

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The Deployments that `event` may mean something to."""
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
        return [  # an orphan, which somebody may adopt
            names.NamespacedName(metadata["namespace"], each["metadata"]["name"])
            for each in self._registry.list(resources.DEPLOYMENTS, metadata["namespace"])
        ]

    def reconcile(self, key: names.NamespacedName) -> float | None:
        """Take the Deployment a step further; seconds until the next look, if one is needed."""
        found = self._registry.find(resources.DEPLOYMENTS, key.name, key.namespace)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return None
        now = self._registry.storage.now()
        owned = self._claim(found)
        step = rollout.next_step(found, rollout.population(found, owned), now)
        # Each new pod makes the Deployment dirty again, so the rest of a large step follows.
        step = step._replace(create=min(step.create, _BURST), delete=step.delete[:_BURST])
        self._take(found, step)
        have = rollout.population(found, self._owned(found))
        made = rollout.status(found, have, now)
        if made != found.get("status"):
            self._registry.update_status(resources.DEPLOYMENTS, {**found, "status": made})
        return None if _is_complete(made, found["spec"]) else _RECHECK

    def _take(self, deployment: Object, step: rollout.Step) -> None:
        metadata = deployment["metadata"]
        for _ in range(step.create):
            self._registry.create(resources.PODS, new_pod(deployment))
        for pod in step.delete:
            self._registry.delete(resources.PODS, pod["metadata"]["name"], metadata["namespace"])
        if step.create:
            self._note(
                deployment, "up", rollout.template_hash(deployment["spec"]["template"]), step.create
            )
        for template_hash, count in Counter(map(rollout.hash_of, step.delete)).items():
            self._note(deployment, "down", template_hash, count)

    def _note(self, deployment: Object, verb: str, template_hash: str, count: int) -> None:
        name = f"{deployment['metadata']['name']}-{template_hash}"
        message = f"Scaled {verb} replica set {name} by {count}"
        self._recorder.normal(_COMPONENT, deployment, "ScalingReplicaSet", message)

    def _owned(self, deployment: Object) -> list[Object]:
        """The pods that name it as their controller."""
        uid = deployment["metadata"]["uid"]
        namespace = deployment["metadata"]["namespace"]
        listed = self._registry.list(resources.PODS, namespace)
        return [pod for pod in listed if nodes.controller_uid(pod) == uid]

    def _claim(self, deployment: Object) -> list[Object]:
        """Its pods, once orphans that match are adopted and pods that do not are let go.

        Only an orphan that carries a template's hash was a Deployment's once. A pod somebody
        made by hand stays their own, whatever its labels.
        """
        metadata, selector = deployment["metadata"], deployment["spec"]["selector"]
        for pod in self._registry.list(resources.PODS, metadata["namespace"]):
            labels = pod["metadata"].get("labels") or {}
            owner = nodes.controller_uid(pod)
            fits = deployments.matches(selector, labels) and rollout.LABEL_TEMPLATE_HASH in labels
            if fits and not owner and not pods.is_terminating(pod):
                self._set_owners(pod, [_reference(deployment)])
            elif not fits and owner == metadata["uid"]:
                self._set_owners(pod, [])
        return self._owned(deployment)

    def _set_owners(self, pod: Object, references: list[Object]) -> None:
        changed = {**pod, "metadata": {**pod["metadata"], "ownerReferences": references}}
        self._registry.update(resources.PODS, changed)


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
