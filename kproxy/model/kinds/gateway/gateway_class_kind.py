"""The kind GatewayClass: which controller serves the Gateways that name it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from kproxy.model import names
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.gateway import meta, references
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service


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
    name = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    domain, slash, path = (spec.controller_name or "").partition("/")
    if not (slash and path and field_rules.DNS_SUBDOMAIN.admits(domain)):
        found.violate(
            "spec.controllerName",
            spec.controller_name,
            f"must be a domain, a slash and a path, for instance {references.CONTROLLER}",
        )
    made = GatewayClass(
        name,
        spec.controller_name or "",
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
