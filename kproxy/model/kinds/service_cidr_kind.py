"""The kind ServiceCIDR: a network that the API server gives ClusterIPs from (KEP-1880).

Kubernetes 1.33 has them; 1.31 and 1.32 have v1beta1, where an administrator enables it. Optional:
without them, or without the right to read them, each ClusterIP gets a route of its own. One that is
being deleted counts until it is gone: the API server keeps it for as long as a Service has an
address from it.
"""

import ipaddress
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ServiceCidr:
    """Networks of ClusterIPs: one, or one for each family."""

    kind: ClassVar[str] = "ServiceCIDR"

    name: names.NamespacedName
    networks: tuple[Network, ...]


class ServiceCidrSpec(msgspec.Struct, frozen=True, gc=False):
    """`spec` of a ServiceCIDR."""

    cidrs: tuple[str, ...] | None = None


class ServiceCidrShape(msgspec.Struct, frozen=True, gc=False):
    """`networking.k8s.io/v1` ServiceCIDR."""

    metadata: objects.ObjectMeta | None = None
    spec: ServiceCidrSpec | None = None


def judge(
    shape: ServiceCidrShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, ServiceCidr | None]:
    """The networks of a ServiceCIDR, by the rules of `ValidateServiceCIDR`."""
    yield
    name = field_rules.name_in_cluster(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    cidrs = (shape.spec.cidrs if shape.spec else None) or ()
    networks: list[Network] = []
    for index, text in enumerate(cidrs[:2]):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            found.violate(f"spec.cidrs[{index}]", text, "must be a CIDR such as 10.96.0.0/16")
    versions = [each.version for each in networks]
    if not 1 <= len(cidrs) <= 2 or len(versions) != len(set(versions)):
        found.violate("spec.cidrs", list(cidrs), "must be one CIDR, or one of each family")
    return None if found.violations else ServiceCidr(name, tuple(networks))


KIND = Kind(
    name=ServiceCidr.kind,
    collection=Collection(
        "servicecidrs",
        "networking.k8s.io",
        ("v1", "v1beta1"),
        needed=False,
        is_namespaced=False,
    ),
    shape=ServiceCidrShape,
    judge=judge,
    owner=concerns_no_service,
)
