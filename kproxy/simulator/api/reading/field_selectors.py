"""Label and field selectors: which objects a list or a watch is about."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kproxy.model import labels as label_selectors
from kproxy.simulator.store import statuses
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object


@dataclass(frozen=True, slots=True)
class Selector:
    """What a request selects. An empty one selects everything."""

    labels: tuple[label_selectors.Requirement, ...] = ()
    fields: tuple[tuple[Callable[[Object], str], str, bool], ...] = ()
    """Each: how to read the field, the value, and whether equal (True) or not is wanted."""

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, item: Object) -> bool:
        """Whether the object is selected."""
        labels = item["metadata"].get("labels") or {}
        return label_selectors.match(self.labels, labels) and all(
            (read(item) == value) is wanted for read, value, wanted in self.fields
        )


def parse(resource: Resource, label_selector: str, field_selector: str) -> Selector:
    """The selectors of a request. Raises BadRequest."""
    return Selector(parse_labels(label_selector), _parse_fields(resource, field_selector))


def parse_labels(text: str) -> tuple[label_selectors.Requirement, ...]:
    """A label selector. Raises BadRequest."""
    try:
        return label_selectors.parse(text)
    except label_selectors.SelectorError as error:
        raise statuses.bad_request(str(error)) from None


def _path(*names: str) -> Callable[[Object], str]:
    def read(item: Object) -> str:
        value: object = item
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return "false" if names[-1] in _BOOLEANS else ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return read


_BOOLEANS = ("unschedulable",)
"""Fields that are false when they are not there."""
_EVERYWHERE = ("metadata.name", "metadata.namespace")
_FIELDS: Mapping[str, Sequence[str]] = {
    "Pod": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "Node": ("spec.unschedulable",),
    "Namespace": ("status.phase",),
    "Service": ("spec.clusterIP", "spec.type"),
    "Secret": ("type",),
    "Event": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}
"""What can be selected by, as each type's `GetAttrs` or conversion in kube-apiserver allows."""


def _parse_fields(
    resource: Resource, text: str
) -> tuple[tuple[Callable[[Object], str], str, bool], ...]:
    found = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([^=!]+?)\s*(==|!=|=)\s*(.*)", term)
        if match is None:
            raise statuses.bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, operator, value = match.groups()
        if field not in _EVERYWHERE and field not in _FIELDS.get(resource.kind, ()):
            raise statuses.bad_request(
                f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match '
                f'label selector "", field selector "{text}": field label not supported: {field}'
            )
        path = ("source", "component") if field == "source" else field.split(".")
        found.append((_path(*path), value, operator != "!="))
    return tuple(found)
