"""A cloud's part: Services of type LoadBalancer get an address, a moment after they were made."""

import ipaddress
import random

from kproxy.model import names
from kproxy.simulator.kinds import addressing, event_recorder
from kproxy.simulator.store import registry, resources, storage
from kproxy.simulator.store.storage import Object

DELAY = 0.5
"""Seconds for which the address is `<pending>`."""


class LoadBalancerController:
    """Gives each Service of type LoadBalancer an address of `cidr`, or its `loadBalancerIP`.

    One with a `loadBalancerClass` belongs to another controller.
    """

    def __init__(
        self,
        objects: registry.Registry,
        recorder: event_recorder.Recorder,
        cidr: ipaddress.IPv4Network,
        rng: random.Random,
    ) -> None:
        self._registry = objects
        self._recorder = recorder
        self._addresses = addressing.ClusterIPs(cidr, rng)
        self._pending: set[str] = set()
        objects.storage.subscribe(self._follow)

    def concerned(self, event: storage.Event) -> list[names.NamespacedName]:
        """The Service that `event` is about, if it is about one."""
        if event.resource is not resources.SERVICES:
            return []
        metadata = event.object["metadata"]
        return [names.NamespacedName(metadata["namespace"], metadata["name"])]

    def reconcile(self, key: names.NamespacedName) -> float | None:
        """Assign an address if one is wanted; seconds until the moment to do it."""
        service = self._registry.find(resources.SERVICES, key.name, key.namespace)
        if service is None or not _wants_address(service):
            return None
        uid = service["metadata"]["uid"]
        if uid not in self._pending:
            self._pending.add(uid)
            self._recorder.normal(
                "service-controller", service, "EnsuringLoadBalancer", "Ensuring load balancer"
            )
            return DELAY
        self._pending.discard(uid)
        address = self._choose(service)
        changed = {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}
        self._registry.update_status(resources.SERVICES, {**service, "status": changed})
        self._recorder.normal(
            "service-controller", service, "EnsuredLoadBalancer", "Ensured load balancer"
        )
        return None

    def _choose(self, service: Object) -> str:
        """The address it asks for, if that can be had, else any. Raises AllocationError."""
        if wanted := service["spec"].get("loadBalancerIP"):
            try:
                self._addresses.check(wanted)
            except (addressing.AllocationError, ValueError) as error:
                self._recorder.warning(
                    "service-controller",
                    service,
                    "SyncLoadBalancerFailed",
                    f"cannot use loadBalancerIP {wanted}: {error}",
                )
            else:
                return str(wanted)
        return self._addresses.pick()

    def _follow(self, event: storage.Event) -> None:
        """Hold what the stored Services have been given."""
        if event.resource is not resources.SERVICES:
            return
        if event.type == "DELETED":
            self._pending.discard(event.object["metadata"]["uid"])
        after = event.object if event.type != "DELETED" else None
        for service, record in (
            (event.previous, self._addresses.release),
            (after, self._addresses.hold),
        ):
            for entry in _ingress(service) if service else ():
                if entry.get("ip"):
                    record(entry["ip"])


def _wants_address(service: Object) -> bool:
    spec = service["spec"]
    is_ours = spec["type"] == "LoadBalancer" and not spec.get("loadBalancerClass")
    return is_ours and not _ingress(service)


def _ingress(service: Object) -> list[Object]:
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    found: list[Object] = balancer.get("ingress") or []
    return found
