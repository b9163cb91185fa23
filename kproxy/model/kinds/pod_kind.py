"""The kind Pod: what a pod's labels say, for Services that weigh their endpoints by one.

Nothing else of a pod is read: its address and its readiness come with the endpoints, and a pod of
which only the status changes is the same to kproxy. An API server is asked for pods only once a
Service asks for such weights.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's labels, sorted."""

    kind: ClassVar[str] = "Pod"

    name: names.NamespacedName
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, key: str) -> str | None:
        """The value of a label; None if the pod does not have it."""
        return next((value for each, value in self.labels if each == key), None)


class PodShape(msgspec.Struct, frozen=True, gc=False):
    """`v1` Pod."""

    metadata: objects.ObjectMeta | None = None


def judge(
    shape: PodShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Pod | None]:
    """A Pod needs no more than a name. Yields where others can be let run."""
    yield
    name = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    labels = (shape.metadata.labels if shape.metadata else None) or {}
    return None if found.violations else Pod(name, tuple(sorted(labels.items())))


def _owner(_: Pod) -> tuple[names.NamespacedName, ...]:
    """The Store knows which Services weigh their pods: a pod does not say whose it is."""
    return ()


KIND = Kind(
    name=Pod.kind,
    collection=Collection("pods", needed=False, on_demand=True),
    shape=PodShape,
    judge=judge,
    owner=_owner,
)
