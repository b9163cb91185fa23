"""Which pods a Service selects, and which Services select a pod, without looking at all of them."""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from kproxy.simulator.kinds import subsets
from kproxy.simulator.store import indexes, resources, storage
from kproxy.simulator.store.storage import Object

_Term: TypeAlias = tuple[str, str, str]
"""A namespace, a label and its value."""


class Selection:
    """Services and pods, matched by the selectors of the ones and the labels of the others."""

    def __init__(self, objects: storage.Storage) -> None:
        self._services = indexes.Index(objects, resources.SERVICES, _first_term)
        self._pods = indexes.Index(objects, resources.PODS, _labels)

    def pods(self, service: Object) -> list[Object]:
        """The pods that `service` selects; none if it has no selector."""
        terms = _terms(service, service["spec"].get("selector"))
        rarest = min(terms, key=self._pods.count, default=None)
        found = [] if rarest is None else self._pods.get(rarest)
        return [pod for pod in found if subsets.selects(service, _labels_of(pod))]

    def services(self, pod: Object) -> list[Object]:
        labels = _labels_of(pod)
        return [
            service
            for term in _labels(pod)
            for service in self._services.get(term)
            if subsets.selects(service, labels)
        ]


def _first_term(service: Object) -> Iterable[_Term]:
    """One label of the selector, which indexes the Service: every selected pod has it too."""
    return _terms(service, service["spec"].get("selector"))[:1]


def _labels(pod: Object) -> Iterable[_Term]:
    return _terms(pod, _labels_of(pod))


def _labels_of(pod: Object) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _terms(holder: Object, pairs: Mapping[str, str] | None) -> list[_Term]:
    namespace = holder["metadata"]["namespace"]
    return [(namespace, label, value) for label, value in (pairs or {}).items()]
