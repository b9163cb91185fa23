"""The kind Namespace: its labels, by which a Gateway's listener selects routes.

Optional: a namespace that is not known, among files or without the right to read it, has the label
that the API server gives to each, `kubernetes.io/metadata.name`.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

LABEL_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace's labels, sorted."""

    kind: ClassVar[str] = "Namespace"

    name: names.NamespacedName
    labels: tuple[tuple[str, str], ...] = ()


class NamespaceShape(msgspec.Struct, frozen=True, gc=False):
    """`v1` Namespace."""

    metadata: objects.ObjectMeta | None = None


def judge(
    shape: NamespaceShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Namespace | None]:
    """A Namespace needs no more than a name."""
    yield
    name = field_rules.name_in_cluster(shape.metadata, field_rules.DNS_LABEL, found)
    given = (shape.metadata.labels if shape.metadata else None) or {}
    return None if found.violations else Namespace(name, tuple(sorted(given.items())))


def labels_of(name: str, known: Namespace | None) -> dict[str, str]:
    """What selectors see of a namespace, whether its Namespace is known or not."""
    return {**(dict(known.labels) if known else {}), LABEL_NAME: name}


KIND = Kind(
    name=Namespace.kind,
    collection=Collection("namespaces", needed=False, is_namespaced=False),
    shape=NamespaceShape,
    judge=judge,
    owner=concerns_no_service,
)
