"""The front door: one raw document in, accepted objects and findings out.

`admit` never raises for what a document says. It opens lists, skips kinds that a proxy does not
read, and judges every object by itself, so that a bad one costs its siblings nothing
(docs/faults.md K19).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from kproxy.model import names, objects, steps
from kproxy.model.kinds import endpoint_rules, endpoints, service_rules, services

Accepted: TypeAlias = services.Service | endpoints.EndpointsObject
Key: TypeAlias = tuple[names.Kind, names.NamespacedName]

MAX_STATEMENTS = 5
"""How many broken rules or refused addresses one finding spells out; the rest are counted."""

_READ: Mapping[tuple[str, str], names.Kind] = {
    ("v1", "Service"): names.Kind.SERVICE,
    ("v1", "Endpoints"): names.Kind.ENDPOINTS,
    ("discovery.k8s.io/v1", "EndpointSlice"): names.Kind.ENDPOINT_SLICE,
    ("discovery.k8s.io/v1beta1", "EndpointSlice"): names.Kind.ENDPOINT_SLICE,
}
_LISTS: Mapping[tuple[str, str], names.Kind | None] = {
    ("v1", "List"): None,
    **{(version, f"{kind}List"): read for (version, kind), read in _READ.items()},
}
_MEANT: Mapping[str, tuple[str, str]] = {
    "service": ("v1", "Service"),
    "services": ("v1", "Service"),
    "endpoint": ("v1", "Endpoints"),
    "endpoints": ("v1", "Endpoints"),
    "endpointslice": ("discovery.k8s.io/v1", "EndpointSlice"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
}
"""What is meant by a kind in other letters or in the plural, by its lower-case spelling."""


class Severity(StrEnum):
    """What a finding means for the object it is about."""

    ERROR = "error"
    """It is not used."""
    WARNING = "warning"
    """It is used, without some part of it."""
    NOTE = "note"
    """Nothing is wrong, and yet it may surprise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said about one object: clauses without a full stop, joined by semicolons."""

    severity: Severity
    text: str
    violations: tuple[service_rules.Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one object.

    `subject` is its kind and name as far as they can be read; `key` is both, None if one is
    missing. `accepted` is None when the object is invalid, and also when it is valid but not for
    a proxy: a consumer keeps the last good version in the first case and removes it in the second.
    `position` is where in a list it stands ("items[3]"), "" outside lists.
    """

    subject: str
    key: Key | None = None
    accepted: Accepted | None = None
    finding: Finding | None = None
    position: str = ""

    @property
    def is_invalid(self) -> bool:
        """Whether the object breaks a rule of its API type, or cannot be read at all."""
        return self.finding is not None and self.finding.severity is Severity.ERROR

    @property
    def is_nameless(self) -> bool:
        """Whether it is invalid and has no readable name either."""
        return self.is_invalid and self.key is None


def admit(raw: objects.RawObject, *, allow_loopback: bool = False) -> list[Admission]:
    """What becomes of the object `raw`, or of every item if it is a list.

    `allow_loopback` lifts the address policy for 127/8 and ::1, and for nothing else
    (decision 9 of docs/behaviour.md).
    """
    return [each for each in admit_steps(raw, allow_loopback=allow_loopback) if each is not None]


def admit_steps(
    raw: objects.RawObject, *, allow_loopback: bool = False
) -> Iterator[Admission | None]:
    """`admit` in steps: yields None at least every 2 ms, where a caller can let others run."""
    try:
        envelope = objects.envelope(raw)
        group_kind = (envelope.api_version, envelope.kind)
        if group_kind not in _LISTS:
            yield from _object_steps(raw, "", allow_loopback=allow_loopback)
            return
        items = objects.items(envelope.items)
    except objects.ShapeError as error:
        yield _unreadable(error, "")
        return
    of_kind = _LISTS[group_kind]
    for index, item in enumerate(items):
        position = f"items[{index}]"
        if of_kind is None:
            yield from _object_steps(item, position, allow_loopback=allow_loopback)
        else:
            yield (
                yield from admit_as_steps(of_kind, item, position, allow_loopback=allow_loopback)
            )


def reject(raw: objects.RawObject, text: str) -> Admission:
    """The object `raw`, refused because of `text`; named as far as it can be."""
    finding = Finding(Severity.ERROR, text)
    try:
        envelope = objects.envelope(raw)
    except objects.ShapeError:
        return Admission("", finding=finding)
    kind = _READ.get((envelope.api_version, envelope.kind))
    subject, key = _named(raw, kind, kind or f"{envelope.api_version} {envelope.kind}")
    return Admission(subject, key, finding=finding)


def reject_as(kind: names.Kind, raw: objects.RawObject, text: str) -> Admission:
    """The object `raw` of a kind that is known, refused because of `text`."""
    subject, key = _named(raw, kind, kind)
    return Admission(subject, key, finding=Finding(Severity.ERROR, text))


def remarked(admitted: Admission, remark: str) -> Admission:
    """`admitted` with one more thing to say about it: a warning, unless it is refused anyway."""
    finding = admitted.finding
    severity = Severity.WARNING
    if finding is not None:
        remark = f"{finding.text}; {remark}"
        severity = Severity.ERROR if admitted.is_invalid else severity
    violations = finding.violations if finding else ()
    return replace(admitted, finding=Finding(severity, remark, violations))


def _object_steps(
    raw: objects.RawObject, position: str, *, allow_loopback: bool
) -> Iterator[Admission | None]:
    """One object that says itself what it is."""
    try:
        envelope = objects.envelope(raw)
    except objects.ShapeError as error:
        yield _unreadable(error, position)
        return
    group_kind = (envelope.api_version, envelope.kind)
    kind = _READ.get(group_kind)
    if kind is not None:
        yield (yield from admit_as_steps(kind, raw, position, allow_loopback=allow_loopback))
        return
    meant = _meant(*group_kind)
    subject, key = _named(raw, meant and _READ[meant], _readable(" ".join(group_kind)))
    if meant is not None:
        right = f'apiVersion "{meant[0]}" and kind "{meant[1]}"'
        text = f"Kubernetes has no such kind in that apiVersion; is {right} meant?"
        yield Admission(subject, key, None, Finding(Severity.ERROR, text), position)
        return
    if group_kind in _LISTS:
        finding = Finding(Severity.ERROR, "a list inside a list is not opened")
    else:
        finding = Finding(Severity.NOTE, "not a kind a proxy reads")
    yield Admission(subject, None, None, finding, position)


def _meant(api_version: str, kind: str) -> tuple[str, str] | None:
    """The apiVersion and kind that these are a misspelling of; None if they may be right.

    Other groups have kinds of their own (Knative has a Service), and a version that is not known
    here may be a later one.
    """
    group = api_version.rpartition("/")[0].lower()
    meant = _MEANT.get(kind.lower()) if group in ("", "discovery.k8s.io") else None
    if meant is None:
        return None
    is_right = (group, kind) == (meant[0].rpartition("/")[0], meant[1])
    return None if is_right else meant


def admit_as(
    kind: names.Kind, raw: objects.RawObject, position: str = "", *, allow_loopback: bool = False
) -> Admission:
    """What becomes of one object of a kind that is known, as in a list of one kind.

    `position` is where in that list it stands; the rest is as for `admit`.
    """
    return steps.at_once(admit_as_steps(kind, raw, position, allow_loopback=allow_loopback))


def admit_as_steps(
    kind: names.Kind, raw: objects.RawObject, position: str = "", *, allow_loopback: bool = False
) -> Generator[None, None, Admission]:
    """`admit_as` bit by bit: yields where others can be let run, at least every 2 ms."""
    found = service_rules.Findings()
    try:
        accepted = yield from _judge(kind, raw, found, allow_loopback=allow_loopback)
    except objects.ShapeError as error:
        accepted = None
        where = error.field or "the object"
        found.violations.append(
            service_rules.Violation(where, error.found, f"must be {error.expected}")
        )
    finding = _finding(found)
    if accepted is not None:
        key = (kind, accepted.name)
        return Admission(f"{kind} {accepted.name}", key, accepted, finding, position)
    subject, known = _named(raw, kind, kind)
    return Admission(subject, known, None, finding, position)


def _judge(
    kind: names.Kind,
    raw: objects.RawObject,
    found: service_rules.Findings,
    *,
    allow_loopback: bool,
) -> Generator[None, None, Accepted | None]:
    if kind is names.Kind.SERVICE:
        service = objects.decode(raw, objects.Service)
        return (yield from service_rules.service_steps(service, found))
    if kind is names.Kind.ENDPOINTS:
        shape = objects.decode(raw, objects.Endpoints)
        yield
        return (
            yield from endpoint_rules.endpoints_object(shape, found, allow_loopback=allow_loopback)
        )
    sliced = objects.decode(raw, objects.EndpointSlice)
    yield
    return (yield from endpoint_rules.endpoint_slice(sliced, found, allow_loopback=allow_loopback))


def _finding(found: service_rules.Findings) -> Finding | None:
    """One finding for one object: what makes it invalid, else what was left out and noted."""
    if found.violations:
        text = _joined(found.violations)
        return Finding(Severity.ERROR, text, tuple(found.violations))
    if found.refused:
        text = _joined([f"address left out: {refused}" for refused in found.refused])
        text = "; ".join([text, *found.notes])
        return Finding(Severity.WARNING, text, tuple(found.refused))
    return Finding(Severity.NOTE, _joined(found.notes)) if found.notes else None


def _joined(statements: Sequence[object]) -> str:
    spelled = [str(statement) for statement in statements[:MAX_STATEMENTS]]
    if len(statements) > MAX_STATEMENTS:
        spelled.append(f"and {len(statements) - MAX_STATEMENTS} more")
    return "; ".join(spelled)


def _unreadable(error: objects.ShapeError, position: str) -> Admission:
    return Admission("", None, None, Finding(Severity.ERROR, str(error)), position)


def _named(raw: objects.RawObject, kind: names.Kind | None, label: str) -> tuple[str, Key | None]:
    """The subject of an object that was not accepted, and its key if it has a readable name."""
    metadata = objects.field_or_none(raw, "metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        return f"{label} without a name", None
    namespace = metadata.get("namespace") or service_rules.DEFAULT_NAMESPACE
    if not isinstance(namespace, str):
        return f"{label} {_readable(name)}", None
    key = names.NamespacedName(namespace, name)
    return f"{label} {_readable(str(key))}", (kind, key) if kind else None


def _readable(text: str) -> str:
    """`text` where it is fit for a sentence, else quoted and cut."""
    return text if text.isprintable() and len(text) <= 200 else objects.shown(text)
