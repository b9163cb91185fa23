"""Nodes, and which of them a pod runs on.

All nodes are this machine. Their InternalIP is 127.0.0.1, since that is where node ports are
reached.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import kproxy
from kproxy import errors
from kproxy.model import names
from kproxy.simulator.kinds import conditions, event_recorder, pods
from kproxy.simulator.store import registry, resources, storage
from kproxy.simulator.store.storage import Object

ADDRESS = "127.0.0.1"
PODS_PER_NODE = 110
_SCHEDULER = "default-scheduler"
_RETRY = 1.0


Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def pod_cidrs(cidr: Network, nodes: int) -> list[Network]:
    """A /24 of `cidr` for each node, in IPv6 a /64, from the second on.

    Raises ConfigError if it has too few.
    """
    size, example = (24, "127.244.0.0/16") if cidr.version == 4 else (64, "fd00:10:244::/48")
    if cidr.prefixlen > size or 2 ** (size - cidr.prefixlen) <= nodes:
        raise errors.ConfigError(
            f"the pod CIDR {cidr} has no room for a /{size} for each of {nodes} nodes: give a "
            f"larger range, such as {example}"
        )
    subnets: Iterator[Network] = iter(cidr.subnets(new_prefix=size))
    next(subnets)  # addresses like a.b.0.c are left to things that are no pods
    return [next(subnets) for _ in range(nodes)]


def node(name: str, pod_cidrs: Sequence[Network], now: str) -> Object:
    """A Node that is ready."""
    size = {"cpu": "8", "memory": "16Gi", "pods": str(PODS_PER_NODE)}
    made = [
        conditions.condition(kind, holds=kind == "Ready", now=now, reason=reason, message=message)
        for kind, reason, message in (
            ("MemoryPressure", "KubeletHasSufficientMemory", "the simulated node has memory"),
            ("DiskPressure", "KubeletHasNoDiskPressure", "the simulated node has no disk"),
            ("PIDPressure", "KubeletHasSufficientPID", "the simulated node runs no processes"),
            ("Ready", "KubeletReady", "the simulated node is ready"),
        )
    ]
    return {
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "spec": {"podCIDR": str(pod_cidrs[0]), "podCIDRs": list(map(str, pod_cidrs))},
        "status": {
            "capacity": size,
            "allocatable": size,
            "conditions": [{**each, "lastHeartbeatTime": now} for each in made],
            "addresses": [
                {"type": "InternalIP", "address": ADDRESS},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": _node_info(name),
        },
    }


def _node_info(name: str) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "operatingSystem": "linux",
        "osImage": "kproxy simulate",
        "kernelVersion": "simulated",
        "kubeletVersion": "v1.33.0",
        "kubeProxyVersion": "v1.33.0",
        "containerRuntimeVersion": f"kproxy://{kproxy.__version__}",
        **dict.fromkeys(("machineID", "systemUUID", "bootID"), name),
    }


class Scheduler:
    """Gives each pod the node that has the fewest of its owner's pods, then the fewest at all.

    A controller of pods: `reconcile` takes a pod's name. It follows `objects` for its counts.
    """

    def __init__(self, objects: registry.Registry, recorder: event_recorder.Recorder) -> None:
        self._registry = objects
        self._recorder = recorder
        self._pods: Counter[str] = Counter()
        self._pods_of_owner: Counter[tuple[str, str]] = Counter()
        objects.storage.subscribe(self._follow)

    def concerned(self, event: storage.Event) -> Sequence[names.NamespacedName]:
        """The pod that `event` is about, if it is about one that waits for a node."""
        if event.resource is not resources.PODS or event.object["spec"].get("nodeName"):
            return ()
        metadata = event.object["metadata"]
        return (names.NamespacedName(metadata["namespace"], metadata["name"]),)

    def reconcile(self, key: names.NamespacedName) -> float | None:
        """Bind the pod if it has no node yet; seconds until the next try if none would have it."""
        pod = self._registry.find(resources.PODS, key.name, key.namespace)
        if pod is None or pod["spec"].get("nodeName") or pods.is_terminating(pod):
            return None
        fitting = [each for each in self._registry.list(resources.NODES) if self._fits(pod, each)]
        if not fitting:
            self._reject(pod)
            return _RETRY
        owner = _owner(pod)
        chosen = min(
            (each["metadata"]["name"] for each in fitting),
            key=lambda name: (self._pods_of_owner[owner, name], self._pods[name], name),
        )
        self._bind(pod, chosen)
        return None

    def _fits(self, pod: Object, candidate: Object) -> bool:
        labels = candidate["metadata"].get("labels") or {}
        wanted = pod["spec"].get("nodeSelector") or {}
        return (
            not candidate["spec"].get("unschedulable")
            and wanted.items() <= labels.items()
            and self._pods[candidate["metadata"]["name"]] < PODS_PER_NODE
        )

    def _bind(self, pod: Object, chosen: str) -> None:
        """Bind a pod, as the `binding` subresource does, which alone may set a pod's node."""
        now = storage.timestamp(self._registry.storage.now())
        scheduled = conditions.condition("PodScheduled", holds=True, now=now)
        bound = {
            **pod,
            "spec": {**pod["spec"], "nodeName": chosen},
            "status": {**pod["status"], "conditions": [scheduled]},
        }
        pod = self._registry.storage.update(resources.PODS, bound)
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        message = f"Successfully assigned {name} to {chosen}"
        self._recorder.normal(_SCHEDULER, pod, "Scheduled", message)

    def _reject(self, pod: Object) -> None:
        count = len(self._registry.list(resources.NODES))
        message = f"0/{count} nodes are available: none is schedulable, fits and has room."
        made = conditions.condition(
            "PodScheduled",
            holds=False,
            now=storage.timestamp(self._registry.storage.now()),
            reason="Unschedulable",
            message=message,
        )
        old = pod["status"].get("conditions") or []
        changed = {**pod["status"], "conditions": conditions.since(old, [made])}
        if changed != pod["status"]:
            pod = self._registry.update_status(resources.PODS, {**pod, "status": changed})
            self._recorder.warning(_SCHEDULER, pod, "FailedScheduling", message)

    def _follow(self, event: storage.Event) -> None:
        if event.resource is not resources.PODS:
            return
        after = event.object if event.type != "DELETED" else None
        for pod, change in ((event.previous, -1), (after, 1)):
            if pod and (name := pod["spec"].get("nodeName")):
                self._pods[name] += change
                self._pods_of_owner[_owner(pod), name] += change
                if not self._pods_of_owner[_owner(pod), name]:
                    del self._pods_of_owner[_owner(pod), name]


def _owner(pod: Object) -> str:
    """The UID of what controls it, or its own."""
    return controller_uid(pod) or str(pod["metadata"]["uid"])


def controller_uid(pod: Object) -> str:
    """The UID of what controls it; "" for a pod on its own."""
    references: Sequence[Object] = pod["metadata"].get("ownerReferences") or ()
    return next((str(each["uid"]) for each in references if each.get("controller")), "")


def create_nodes(objects: registry.Registry, cidrs: Mapping[str, Sequence[Network]]) -> None:
    """Create a Node of each name, with its pod CIDRs."""
    now = storage.timestamp(objects.storage.now())
    for name, cidr in cidrs.items():
        objects.create(resources.NODES, node(name, cidr, now))
