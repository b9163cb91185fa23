"""The kind IngressClass: which controller serves the Ingresses that name it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

CONTROLLER = "kproxy.io/ingress"
"""The `spec.controller` of the classes that kproxy serves."""

ANNOTATION_DEFAULT = "ingressclass.kubernetes.io/is-default-class"
_LONGEST_CONTROLLER = 250


@dataclass(frozen=True, slots=True)
class IngressClass:
    """A class of Ingresses. `is_default`: it is meant where an Ingress names no class."""

    kind: ClassVar[str] = "IngressClass"

    name: names.NamespacedName
    controller: str
    is_default: bool = False


class IngressClassSpec(msgspec.Struct, frozen=True, gc=False):
    """`spec` of an IngressClass. Its parameters are not read."""

    controller: str | None = None


class IngressClassShape(msgspec.Struct, frozen=True, gc=False):
    """`networking.k8s.io/v1` and `v1beta1` IngressClass."""

    metadata: objects.ObjectMeta | None = None
    spec: IngressClassSpec | None = None


def judge(
    shape: IngressClassShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, IngressClass | None]:
    """What an IngressClass says, or None when it is invalid."""
    yield
    name = field_rules.name_in_cluster(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    controller = (shape.spec.controller if shape.spec else None) or ""
    if not field_rules.is_controller(controller, _LONGEST_CONTROLLER):
        rule = f"must be a domain, a slash and a path, such as {CONTROLLER}"
        found.violate("spec.controller", controller or None, rule)
    annotations = (shape.metadata.annotations if shape.metadata else None) or {}
    made = IngressClass(name, controller, annotations.get(ANNOTATION_DEFAULT) == "true")
    return None if found.violations else made


# networking.k8s.io/v1 came with Kubernetes 1.19, and v1beta1 (since 1.18) went with 1.22.
KIND = Kind(
    name=IngressClass.kind,
    collection=Collection(
        "ingressclasses",
        "networking.k8s.io",
        ("v1", "v1beta1"),
        needed=False,
        is_namespaced=False,
    ),
    shape=IngressClassShape,
    judge=judge,
    owner=concerns_no_service,
)
