"""The kind GatewayClass: which controller serves the Gateways that name it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.gateway import meta, references
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

_LONGEST_CONTROLLER = 253


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """A class of Gateways. `has_parameters`: it refers to parameters, of which kproxy has none."""

    kind: ClassVar[str] = "GatewayClass"

    name: names.NamespacedName
    controller: str
    has_parameters: bool = False
    generation: int = 0


class GatewayClassSpec(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`spec` of a GatewayClass."""

    controller_name: str | None = None
    parameters_ref: dict[str, object] | None = None


class GatewayClassShape(msgspec.Struct, frozen=True, gc=False):
    """`gateway.networking.k8s.io/v1` GatewayClass."""

    metadata: meta.Metadata | None = None
    spec: GatewayClassSpec | None = None


def judge(
    shape: GatewayClassShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, GatewayClass | None]:
    """A GatewayClass needs a controller: a domain, a slash and a path."""
    yield
    spec = shape.spec or GatewayClassSpec()
    name = field_rules.name_in_cluster(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    controller = spec.controller_name or ""
    if not field_rules.is_controller(controller, _LONGEST_CONTROLLER):
        rule = f"must be a domain, a slash and a path, such as {references.CONTROLLER}"
        found.violate("spec.controllerName", controller or None, rule)
    made = GatewayClass(
        name,
        controller,
        has_parameters=spec.parameters_ref is not None,
        generation=meta.generation(shape.metadata),
    )
    return None if found.violations else made


KIND = Kind(
    name=GatewayClass.kind,
    collection=Collection(
        "gatewayclasses",
        references.GROUP,
        ("v1", "v1beta1"),
        needed=False,
        is_namespaced=False,
    ),
    shape=GatewayClassShape,
    judge=judge,
    owner=concerns_no_service,
)
