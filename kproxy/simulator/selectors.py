"""Label and field selectors: which objects a list or a watch is about.

The grammar of labels is apimachinery's (`pkg/labels/selector.go`): `a=b`, `a!=b`, `a in (b, c)`,
`a notin (b)`, `a`, `!a`, `a>1`, `a<1`, joined by commas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kproxy.simulator import status
from kproxy.simulator.resources import Resource
from kproxy.simulator.storage import Object

_TOKEN = re.compile(r"\s*(?:([A-Za-z0-9_./-]+)|(==|!=|[=!<>(),]))")
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?{_NAME}")
_INTEGER = re.compile(r"-?[0-9]+")
_VALUE = re.compile(rf"(?:{_NAME})?")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on the labels. Of a label that is not there, only `!a`, `a!=b` and
    `a notin (…)` hold."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` meet it."""
        value = labels.get(self.key)
        if self.operator == "exists":
            return value is not None
        if self.operator == "!":
            return value is None
        if self.operator == "in":
            return value in self.values
        if self.operator == "notin":
            return value not in self.values
        return value is not None and self._compares(value)

    def _compares(self, value: str) -> bool:
        if not _INTEGER.fullmatch(value):
            return False
        number, bound = int(value), int(next(iter(self.values)))
        return number > bound if self.operator == ">" else number < bound


@dataclass(frozen=True, slots=True)
class Selector:
    """What a request selects. An empty one selects everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[Callable[[Object], str], str, bool], ...] = ()
    """Each: how to read the field, the value, and whether equal (True) or not is wanted."""

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, item: Object) -> bool:
        """Whether the object is selected."""
        if self.labels:
            labels = item["metadata"].get("labels") or {}
            if not all(requirement.matches(labels) for requirement in self.labels):
                return False
        return all((read(item) == value) is wanted for read, value, wanted in self.fields)


def parse(resource: Resource, label_selector: str, field_selector: str) -> Selector:
    """The selectors of a request. Raises BadRequest."""
    return Selector(parse_labels(label_selector), _parse_fields(resource, field_selector))


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """A label selector. Raises BadRequest."""
    if not text.strip():
        return ()
    parser = _LabelParser(text)
    return tuple(parser.requirements())


class _LabelParser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenize(text)
        self._next = 0

    def requirements(self) -> Sequence[Requirement]:
        found = [self._requirement()]
        while self._peek():
            self._expect(",")
            found.append(self._requirement())
        return found

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._take()
            return Requirement(self._key(), "!")
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return Requirement(key, "exists")
        self._take()
        if operator in ("in", "notin"):
            return Requirement(key, operator, self._set())
        if operator in ("=", "==", "!="):
            means = "notin" if operator == "!=" else "in"
            return Requirement(key, means, frozenset({self._value()}))
        if operator in (">", "<"):
            bound = self._value()
            if not _INTEGER.fullmatch(bound):
                raise self._unparsable(f"for '{operator}' operators, the value must be an integer")
            return Requirement(key, operator, frozenset({bound}))
        raise self._unparsable(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _key(self) -> str:
        key = self._take()
        if not _KEY.fullmatch(key):
            raise self._unparsable(f"found '{key}', expected: !, identifier, or ','")
        return key

    def _value(self) -> str:
        if self._peek() in ("", ",", ")"):
            return ""  # `a=` asks for the empty value
        value = self._take()
        if not _VALUE.fullmatch(value):
            raise self._unparsable(f"found '{value}', expected: identifier")
        return value

    def _set(self) -> frozenset[str]:
        self._expect("(")
        if self._peek() == ")":
            raise self._unparsable("for 'in', 'notin' operators, values set can't be empty")
        values = {self._value()}
        while self._peek() == ",":
            self._take()
            values.add(self._value())
        self._expect(")")
        return frozenset(values)

    def _expect(self, token: str) -> None:
        found = self._take()
        if found != token:
            raise self._unparsable(f"found '{found}', expected: '{token}'")

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _tokenize(self, text: str) -> list[str]:
        tokens, position = [], 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._unparsable(f"found '{text[position]}'")
            tokens.append(match.group(1) or match.group(2))
            position = match.end()
        return tokens

    def _unparsable(self, detail: str) -> status.StatusError:
        return status.bad_request(f'unable to parse requirement: {detail} in "{self._text}"')


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
            raise status.bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, operator, value = match.groups()
        if field not in _EVERYWHERE and field not in _FIELDS.get(resource.kind, ()):
            raise status.bad_request(
                f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match '
                f'label selector "", field selector "{text}": field label not supported: {field}'
            )
        path = ("source", "component") if field == "source" else field.split(".")
        found.append((_path(*path), value, operator != "!="))
    return tuple(found)
