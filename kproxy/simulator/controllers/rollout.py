"""What a Deployment does next: which pods to make, which to delete, and what its status says.

Pure. ReplicaSets are not objects here; a pod's `pod-template-hash` label says which template it
was made from, and the pods of one hash are what a ReplicaSet would be. The arithmetic is that of
kube-controller-manager's `deployment/rolling.go` and `replicaset/replica_set.go`.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from kproxy.simulator.kinds import conditions, deployments, pods
from kproxy.simulator.store import storage
from kproxy.simulator.store.storage import Object

LABEL_TEMPLATE_HASH = "pod-template-hash"
_SAFE_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_HASH_LETTERS = 10


class Population(NamedTuple):
    """A Deployment's pods that are not being deleted, by whether they are of its template."""

    new: Sequence[Object]
    old: Sequence[Object]
    terminating: int


class Step(NamedTuple):
    """How many pods to make from the template, and which ones to delete."""

    create: int
    delete: Sequence[Object]


def template_hash(template: Object) -> str:
    """A short name for a template, in letters that spell no words (`SafeEncodeString`)."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_SAFE_LETTERS[byte % len(_SAFE_LETTERS)] for byte in digest[:_HASH_LETTERS])


def population(deployment: Object, owned: Sequence[Object]) -> Population:
    """Sort the pods that `deployment` owns."""
    current = template_hash(deployment["spec"]["template"])
    active = [pod for pod in owned if not pods.is_terminating(pod) and not pods.is_finished(pod)]
    new = [pod for pod in active if hash_of(pod) == current]
    old = [pod for pod in active if hash_of(pod) != current]
    return Population(new, old, terminating=sum(map(pods.is_terminating, owned)))


def next_step(deployment: Object, have: Population, now: datetime) -> Step:
    """The step that brings `deployment` closer to its spec, within its surge and its
    unavailability."""
    spec = deployment["spec"]
    desired: int = spec["replicas"]
    excess = len(have.new) - desired
    surplus = _by_worth(have.new, spec, now)[:excess] if excess > 0 else []
    if spec.get("paused"):
        return Step(0, surplus)
    if spec["strategy"]["type"] == "Recreate":
        is_clear = not have.old and (not have.terminating or bool(have.new))
        return Step(max(desired - len(have.new), 0) if is_clear else 0, [*surplus, *have.old])
    surge, unavailable = _bounds(spec)
    total = len(have.new) + len(have.old)
    create = max(min(desired - len(have.new), desired + surge - total), 0)
    return Step(create, [*surplus, *_replaceable(have, spec, desired - unavailable, now)])


def _replaceable(have: Population, spec: Object, least: int, now: datetime) -> list[Object]:
    """Old pods that can go: unavailable ones first, then what exceeds `least` available.

    New pods that are not available yet count as if they never would be, so that a template that
    does not work takes away no more than the Deployment allows.
    """
    if not have.old:
        return []
    available = [pod for pod in (*have.new, *have.old) if is_available(pod, spec, now)]
    new_unavailable = sum(not is_available(pod, spec, now) for pod in have.new)
    spare = len(have.new) + len(have.old) - least - new_unavailable
    ranked = _by_worth(have.old, spec, now)
    useless = [pod for pod in ranked if not is_available(pod, spec, now)][: max(spare, 0)]
    useful = [pod for pod in ranked if is_available(pod, spec, now)]
    surplus = min(len(available) - least, spare - len(useless))
    return [*useless, *useful[: max(surplus, 0)]]


def is_available(pod: Object, spec: Object, now: datetime) -> bool:
    """Whether it has been ready for `minReadySeconds`."""
    return ready_for(pod, now) >= (spec.get("minReadySeconds") or 0)


def ready_for(pod: Object, now: datetime) -> float:
    """Seconds for which it has been ready; -1 when it is not."""
    found = conditions.find((pod.get("status") or {}).get("conditions"), "Ready")
    if found is None or found["status"] != "True":
        return -1.0
    return max((now - _parsed(found["lastTransitionTime"])).total_seconds(), 0.0)


def status(deployment: Object, have: Population, now: datetime) -> Object:
    """`status` of a Deployment. Counts of zero are left out, as Go's omitempty does."""
    spec, old = deployment["spec"], deployment.get("status") or {}
    everyone = (*have.new, *have.old)
    counts = {
        "replicas": len(everyone),
        "updatedReplicas": len(have.new),
        "readyReplicas": sum(map(pods.is_ready, everyone)),
        "availableReplicas": sum(is_available(pod, spec, now) for pod in everyone),
    }
    counts["unavailableReplicas"] = max(spec["replicas"] - counts["availableReplicas"], 0)
    made = {
        "observedGeneration": deployment["metadata"]["generation"],
        **{name: count for name, count in counts.items() if count},
    }
    before = {name: old[name] for name in old if name != "conditions"}
    given = [
        _available(spec, counts, now),
        _progressing(deployment, counts, now, has_moved=made != before),
    ]
    known = old.get("conditions") or []
    return {**made, "conditions": _kept(known, conditions.since(known, given))}


def _available(spec: Object, counts: dict[str, int], now: datetime) -> Object:
    _, unavailable = _bounds(spec)
    holds = counts["availableReplicas"] >= spec["replicas"] - unavailable
    return {
        **conditions.condition(
            "Available",
            holds=holds,
            now=storage.timestamp(now),
            reason=f"MinimumReplicas{'A' if holds else 'Una'}vailable",
            message=f"Deployment {'has' if holds else 'does not have'} minimum availability.",
        ),
        "lastUpdateTime": storage.timestamp(now),
    }


def _progressing(
    deployment: Object, counts: dict[str, int], now: datetime, *, has_moved: bool
) -> Object:
    """Done, under way, or stuck: without a change of the counts for the progress deadline."""
    spec = deployment["spec"]
    name = f'ReplicaSet "{deployment["metadata"]["name"]}-{template_hash(spec["template"])}"'
    known = conditions.find((deployment.get("status") or {}).get("conditions"), "Progressing")
    done = all(counts[each] == spec["replicas"] for each in ("replicas", "updatedReplicas"))
    moment, holds = storage.timestamp(now), True
    if done and counts["availableReplicas"] == spec["replicas"]:
        reason, message = "NewReplicaSetAvailable", f"{name} has successfully progressed."
    elif has_moved or known is None or known["reason"] == "NewReplicaSetAvailable":
        reason, message = "ReplicaSetUpdated", f"{name} is progressing."
    else:
        moment = known["lastUpdateTime"]
        waited = (now - _parsed(moment)).total_seconds()
        holds = waited < spec["progressDeadlineSeconds"]
        reason = "ReplicaSetUpdated" if holds else "ProgressDeadlineExceeded"
        message = f"{name} {'is progressing' if holds else 'has timed out progressing'}."
    made = conditions.condition(
        "Progressing", holds=holds, now=moment, reason=reason, message=message
    )
    return {**made, "lastUpdateTime": moment}


def _kept(old: Sequence[Object], new: Sequence[Object]) -> list[Object]:
    """`new`, with the old times of the conditions that have not changed."""
    before = {each["type"]: each for each in old}
    kept = []
    for each in new:
        known = before.get(each["type"], {})
        same = all(known.get(field) == each[field] for field in ("status", "reason", "message"))
        is_stuck_or_done = each["reason"] != "ReplicaSetUpdated"
        kept.append(known if same and is_stuck_or_done else each)
    return kept


def _bounds(spec: Object) -> tuple[int, int]:
    """How many pods above the number desired, and how many below it (`ResolveFenceposts`)."""
    desired = spec["replicas"]
    if spec["strategy"]["type"] != "RollingUpdate":
        return 0, 0
    rolling = spec["strategy"]["rollingUpdate"]
    surge = deployments.resolved(rolling["maxSurge"], desired, up=True)
    unavailable = deployments.resolved(rolling["maxUnavailable"], desired, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, desired)


def _by_worth(found: Sequence[Object], spec: Object, now: datetime) -> list[Object]:
    """Pods in the order of deletion (`ActivePodsWithRanks`): without a node, not running, not
    ready; of those that serve, the youngest."""

    def worth(pod: Object) -> tuple[bool, bool, bool, bool]:
        running = (pod.get("status") or {}).get("phase") == "Running"
        bound = bool(pod["spec"].get("nodeName"))
        return bound, running, pods.is_ready(pod), is_available(pod, spec, now)

    youngest_first = sorted(
        found, key=lambda pod: int(pod["metadata"]["resourceVersion"]), reverse=True
    )
    youngest_first.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    return sorted(youngest_first, key=worth)


def hash_of(pod: Object) -> str:
    """The hash of the template that a pod was made from; "" if the pod has none."""
    return str((pod["metadata"].get("labels") or {}).get(LABEL_TEMPLATE_HASH, ""))


def _parsed(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp)
