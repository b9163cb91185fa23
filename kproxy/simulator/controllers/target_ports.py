"""Ports for a pod whose containers declare none: the target ports of its Services.

A container may listen on a port without declaring it; most that are exposed with `kubectl expose
--target-port` do. Simulated containers run no image, so the Services decide. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kproxy.simulator.store.storage import Object


@dataclass(frozen=True, slots=True)
class TargetPorts:
    """`numbers` is the ports, each with the Services that lead to it; `names` is the named target
    ports, which only a container can resolve, as (Service, name of the port)."""

    numbers: Mapping[int, Sequence[str]]
    names: Sequence[tuple[str, str]]

    def listening(self) -> str:
        """What the pod does with the numbers, as a sentence without a full stop."""
        if self.numbers:
            listed = ", ".join(
                f"{port} (of Service {', '.join(services)})"
                for port, services in self.numbers.items()
            )
            return f"the containers declare no ports; the pod listens on the target port {listed}"
        return (
            "nothing listens: the containers declare no ports, and no Service that selects this "
            "pod has a number as its target port; declare a containerPort"
        )

    def unresolved(self) -> list[str]:
        """A sentence without a full stop on each named target port."""
        return [
            f"Service {service} has the target port {name}, and no container declares a port of "
            "that name"
            for service, name in self.names
        ]


def of(pod: Object, services: Iterable[Object]) -> TargetPorts:
    """The target ports of those Services in the pod's namespace which select it."""
    numbers: dict[int, list[str]] = {}
    names = []
    for service in services:
        if not selects(service, pod):
            continue
        name = service["metadata"]["name"]
        for port in service["spec"].get("ports") or ():
            if port.get("protocol", "TCP") != "TCP":
                continue
            target = port.get("targetPort") or port["port"]
            if isinstance(target, int):
                numbers.setdefault(target, []).append(name)
            else:
                names.append((name, target))
    return TargetPorts(dict(sorted(numbers.items())), names)


def selects(service: Object, pod: Object) -> bool:
    """Whether the Service's selector is that of the pod, which is in the same namespace."""
    selector = service["spec"].get("selector")
    labels = pod["metadata"].get("labels") or {}
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())
