"""The kind Node: of the node that this proxy is on, its zone, and whether it is about to go.

Optional: without the right to read it, or among files, `--node-zone` says the zone.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

LABEL_ZONE = "topology.kubernetes.io/zone"
TAINT_LEAVING = "ToBeDeletedByClusterAutoscaler"
"""The key of the taint with which the cluster autoscaler marks a node that it will delete."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node. `zone` is "" if it has no such label.

    `is_leaving`: it is being deleted, so load balancers should send no new connections
    (docs/behaviour.md row 49).
    """

    kind: ClassVar[str] = "Node"

    name: names.NamespacedName
    zone: str = ""
    is_leaving: bool = False


class Metadata(objects.ObjectMeta, frozen=True, gc=False, rename="camel"):
    """`metadata` of a Node."""

    deletion_timestamp: str | None = None


class Taint(msgspec.Struct, frozen=True, gc=False):
    """`spec.taints[]`."""

    key: str | None = None


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """`spec` of a Node."""

    taints: tuple[Taint, ...] | None = None


class NodeShape(msgspec.Struct, frozen=True, gc=False):
    """`v1` Node."""

    metadata: Metadata | None = None
    spec: NodeSpec | None = None


def judge(
    shape: NodeShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Node | None]:
    """What a Node says of itself."""
    yield
    metadata, spec = shape.metadata or Metadata(), shape.spec or NodeSpec()
    name = field_rules.name_in_cluster(metadata, field_rules.DNS_SUBDOMAIN, found)
    is_tainted = any(taint.key == TAINT_LEAVING for taint in spec.taints or ())
    made = Node(
        name,
        zone=(metadata.labels or {}).get(LABEL_ZONE, ""),
        is_leaving=is_tainted or metadata.deletion_timestamp is not None,
    )
    return None if found.violations else made


KIND = Kind(
    name=Node.kind,
    collection=Collection("nodes", needed=False, is_namespaced=False),
    shape=NodeShape,
    judge=judge,
    owner=concerns_no_service,
)


def only(name: str) -> Kind[Node]:
    """The kind, of which an API server is asked for one object. Each proxy reads its own Node."""
    return replace(KIND, collection=replace(KIND.collection, fields=f"metadata.name={name}"))
