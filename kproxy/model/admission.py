"""Admission: one raw document in, accepted objects and findings out.

`admit` never raises for the content of a document. It opens lists, skips kinds that a proxy does
not read, and judges every object by itself, so that an invalid one does not affect the others
(docs/faults.md K19).
"""

import functools
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from kproxy.model import names, objects, steps
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds import registry
from kproxy.model.kinds.kind import Kind, Object, Policy

Accepted: TypeAlias = Object
Key: TypeAlias = tuple[str, names.NamespacedName]
"""An object's kind, by name, and its own name."""

MAX_STATEMENTS = 5
"""How many broken rules or refused addresses one finding spells out; the rest are counted."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What documents may be, by apiVersion and kind: objects, and lists (None: of any kind).

    `meant` has the kind that is meant by a name in other letters or in the plural, by its
    lower-case spelling.
    """

    objects: Mapping[tuple[str, str], Kind[Any]]
    lists: Mapping[tuple[str, str], Kind[Any] | None]
    meant: Mapping[str, Kind[Any]]


@functools.cache
def _known(kinds: registry.Kinds) -> _Known:
    found = {(version, each.name): each for each in kinds for version in each.api_versions}
    lists = {(version, f"{name}List"): each for (version, name), each in found.items()}
    meant: dict[str, Kind[Any]] = {}
    for each in kinds:
        name = each.name.lower()
        meant |= dict.fromkeys((name, name.removesuffix("s"), each.collection.plural), each)
    return _Known(found, {("v1", "List"): None, **lists}, meant)


class Severity(StrEnum):
    """What a finding means for the object it is about."""

    ERROR = "error"
    """It is not used."""
    WARNING = "warning"
    """It is used, without some part of it."""
    NOTE = "note"
    """Nothing is wrong, and yet it may surprise."""

    @property
    def level(self) -> int:
        """The level of a line in the log about it, as `logging` numbers levels."""
        return _LEVELS[self]


_LEVELS = {
    Severity.ERROR: logging.ERROR,
    Severity.WARNING: logging.WARNING,
    Severity.NOTE: logging.INFO,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A message about one object: clauses without a full stop, joined by semicolons."""

    severity: Severity
    text: str
    violations: tuple[findings.Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """The result of judging one object.

    `subject` is its kind and name as far as they can be read; `key` is both, None if one is
    missing. `accepted` is None when the object is invalid, and also when it is valid but not for a
    proxy: a consumer keeps the last good version in the first case and removes it in the second.
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


def admit(
    raw: objects.RawObject,
    *,
    allow_loopback: bool = False,
    kinds: registry.Kinds = registry.KINDS,
) -> list[Admission]:
    """What becomes of the object `raw`, or of every item if it is a list; `kinds` are read.

    `allow_loopback` lifts the address policy for 127/8 and ::1, and for nothing else
    (decision 9 of docs/behaviour.md).
    """
    taken = admit_steps(raw, allow_loopback=allow_loopback, kinds=kinds)
    return [each for each in taken if each is not None]


def admit_steps(
    raw: objects.RawObject,
    *,
    allow_loopback: bool = False,
    kinds: registry.Kinds = registry.KINDS,
) -> Iterator[Admission | None]:
    """`admit` in steps: yields None at least every 2 ms, where a caller can let others run."""
    known = _known(kinds)
    try:
        envelope = objects.envelope(raw)
        group_kind = (envelope.api_version, envelope.kind)
        if group_kind not in known.lists:
            yield from _object_steps(raw, "", known, allow_loopback=allow_loopback)
            return
        items = objects.items(envelope.items)
    except objects.ShapeError as error:
        yield _unreadable(error, "")
        return
    of_kind = known.lists[group_kind]
    for index, item in enumerate(items):
        position = f"items[{index}]"
        if of_kind is None:
            yield from _object_steps(item, position, known, allow_loopback=allow_loopback)
        else:
            yield (
                yield from admit_as_steps(of_kind, item, position, allow_loopback=allow_loopback)
            )


def reject(raw: objects.RawObject, text: str, kinds: registry.Kinds = registry.KINDS) -> Admission:
    """The object `raw`, refused because of `text`; named as far as it can be."""
    finding = Finding(Severity.ERROR, text)
    try:
        envelope = objects.envelope(raw)
    except objects.ShapeError:
        return Admission("", finding=finding)
    kind = _known(kinds).objects.get((envelope.api_version, envelope.kind))
    label = kind.name if kind else f"{envelope.api_version} {envelope.kind}"
    subject, key = _named(raw, kind, label)
    return Admission(subject, key, finding=finding)


def reject_as(kind: Kind[Any], raw: objects.RawObject, text: str) -> Admission:
    """The object `raw` of a kind that is known, refused because of `text`."""
    subject, key = _named(raw, kind, kind.name)
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
    raw: objects.RawObject, position: str, known: _Known, *, allow_loopback: bool
) -> Iterator[Admission | None]:
    """Judge one object by its own apiVersion and kind."""
    try:
        envelope = objects.envelope(raw)
    except objects.ShapeError as error:
        yield _unreadable(error, position)
        return
    group_kind = (envelope.api_version, envelope.kind)
    kind = known.objects.get(group_kind)
    if kind is not None:
        yield (yield from admit_as_steps(kind, raw, position, allow_loopback=allow_loopback))
        return
    meant = _meant(*group_kind, known)
    subject, key = _named(raw, meant, _readable(" ".join(group_kind)))
    if meant is not None:
        right = f'apiVersion "{meant.api_versions[0]}" and kind "{meant.name}"'
        text = f"Kubernetes has no such kind in that apiVersion; is {right} meant?"
        yield Admission(subject, key, None, Finding(Severity.ERROR, text), position)
        return
    if group_kind in known.lists:
        finding = Finding(Severity.ERROR, "a list inside a list is not opened")
    else:
        finding = Finding(Severity.NOTE, "not a kind a proxy reads")
    yield Admission(subject, None, None, finding, position)


def _meant(api_version: str, kind: str, known: _Known) -> Kind[Any] | None:
    """The kind that these are a misspelling of; None if they may be right.

    Other groups have kinds of their own (Knative has a Service), and a version that is not known
    here may be a later one.
    """
    group = _group(api_version).lower()
    meant = known.meant.get(kind.lower())
    if meant is None or group not in {_group(each) for each, _ in known.objects}:
        return None
    is_right = kind == meant.name and group in map(_group, meant.api_versions)
    return None if is_right else meant


def _group(api_version: str) -> str:
    """The group of an apiVersion; "" for the core group."""
    return api_version.rpartition("/")[0]


def admit_as(
    kind: Kind[Any], raw: objects.RawObject, position: str = "", *, allow_loopback: bool = False
) -> Admission:
    """What becomes of one object of a kind that is known, as in a list of one kind.

    `position` is where in that list it stands; the rest is as for `admit`.
    """
    return steps.at_once(admit_as_steps(kind, raw, position, allow_loopback=allow_loopback))


def admit_as_steps(
    kind: Kind[Any], raw: objects.RawObject, position: str = "", *, allow_loopback: bool = False
) -> Generator[None, None, Admission]:
    """`admit_as` bit by bit: yields where others can be let run, at least every 2 ms."""
    found = findings.Findings()
    accepted: Object | None = None
    try:
        shape = objects.decode(raw, kind.shape)
        accepted = yield from kind.judge(shape, found, Policy(allow_loopback))
    except objects.ShapeError as error:
        where = error.field or "the object"
        found.violations.append(findings.Violation(where, error.found, f"must be {error.expected}"))
    finding = _finding(found)
    if accepted is not None:
        key = (kind.name, accepted.name)
        return Admission(f"{kind.name} {accepted.name}", key, accepted, finding, position)
    subject, known = _named(raw, kind, kind.name)
    return Admission(subject, known, None, finding, position)


def _finding(found: findings.Findings) -> Finding | None:
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


def _named(raw: objects.RawObject, kind: Kind[Any] | None, label: str) -> tuple[str, Key | None]:
    """The subject of an object that was not accepted, and its key if it has a readable name."""
    metadata = objects.field_or_none(raw, "metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        return f"{label} without a name", None
    is_namespaced = kind is None or kind.collection.is_namespaced
    namespace = (is_namespaced and metadata.get("namespace")) or field_rules.DEFAULT_NAMESPACE
    if not isinstance(namespace, str):
        return f"{label} {_readable(name)}", None
    key = names.NamespacedName(namespace, name)
    return f"{label} {_readable(str(key))}", (kind.name, key) if kind else None


def _readable(text: str) -> str:
    """`text` where it is fit for a sentence, else quoted and cut."""
    return text if text.isprintable() and len(text) <= 200 else objects.shown(text)
