"""The kind EndpointSlice: API shape, and kube-apiserver's rules."""

import dataclasses
from collections.abc import Generator, Sequence

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import endpoint_rules, field_rules, findings
from kproxy.model.kinds import endpoints
from kproxy.model.kinds.kind import Collection, Kind, Policy

NAME = "EndpointSlice"
LABEL_SERVICE_NAME = "kubernetes.io/service-name"
TOPOLOGY_HOSTNAME = "kubernetes.io/hostname"
_MOST_HINTS = 8
"""Of each sort, at one endpoint: kube-apiserver's bound."""


class EndpointConditions(msgspec.Struct, frozen=True, gc=False):
    """`endpoints[].conditions` of an EndpointSlice; what absence means is row 35's."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(msgspec.Struct, frozen=True, gc=False):
    """`endpoints[].hints.forZones[]` and `forNodes[]`."""

    name: str | None = None


class EndpointHints(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`endpoints[].hints`: whose clients should use an endpoint (row 33)."""

    for_zones: tuple[Hint, ...] | None = None
    for_nodes: tuple[Hint, ...] | None = None


class SliceEndpoint(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`endpoints[]` of an EndpointSlice. `topology` is v1beta1's, before it had nodeName."""

    addresses: tuple[str, ...] | None = None
    conditions: EndpointConditions | None = None
    node_name: str | None = None
    topology: dict[str, str] | None = None
    hints: EndpointHints | None = None
    target_ref: endpoint_rules.TargetRef | None = None
    hostname: str | None = None


class EndpointSlice(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`discovery.k8s.io/v1` and `v1beta1` EndpointSlice."""

    metadata: objects.ObjectMeta | None = None
    address_type: str | None = None
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[endpoint_rules.EndpointPort, ...] | None = None


def judge(
    shape: EndpointSlice, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """What an EndpointSlice says, or None when it is invalid or not for a proxy.

    Not for a proxy are slices that name no Service, and those of type FQDN (rows 36, 37).
    The Service is looked for in the slice's own namespace only (docs/faults.md S09), and of
    every endpoint only the first address counts (row 36). Yields where others can be let run.
    """
    if endpoint_rules.is_headless(shape.metadata):
        return None
    return (yield from _judge(shape, found, policy))


def judge_for_names(
    shape: EndpointSlice, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """As `judge`, with the `hosts` that a name server needs, and headless Services' slices too."""
    return (yield from _judge(shape, found, policy, for_names=True))


def _judge(
    shape: EndpointSlice, found: findings.Findings, policy: Policy, *, for_names: bool = False
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    yield
    key = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    ports = yield from _slice_ports(shape.ports or (), found)
    if shape.address_type not in {"IPv4", "IPv6", "FQDN"}:
        found.violate("addressType", shape.address_type, "must be IPv4, IPv6 or FQDN")
    if shape.address_type == "FQDN":
        found.notes.append("addressType is FQDN, which a proxy cannot dial")
        return None
    listed: list[tuple[str, endpoint_rules.Conditions]] = []
    hosts: list[endpoints.Host] = []
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    gate = endpoint_rules.Gate(
        found, allow_loopback=policy.allow_loopback, family=shape.address_type
    )
    for index, entry in enumerate(shape.endpoints or ()):
        if index % endpoint_rules.PIECE == endpoint_rules.PIECE - 1:
            yield
        text = entry.addresses[0] if entry.addresses else None
        address = gate.admitted(text, f"endpoints[{index}].addresses[0]")
        if address:
            hints = _hints(entry, f"endpoints[{index}].hints", shared, found)
            pod = endpoint_rules.pod_of(entry.target_ref)
            conditions = _conditions(entry)
            listed.append((address, (*conditions, *hints, pod)))
            if for_names:
                where = f"endpoints[{index}].hostname"
                hostname = endpoint_rules.hostname(entry.hostname, where, found)
                hosts.append(endpoints.Host(address, hostname, conditions[0]))
    gate.conclude()
    service = (shape.metadata.labels or {}).get(LABEL_SERVICE_NAME) if shape.metadata else None
    if not service:
        found.notes.append(f"no label {LABEL_SERVICE_NAME} says which Service it belongs to")
    if found.violations or not service:
        return None
    owner = names.NamespacedName(key.namespace, service)
    if endpoint_rules.is_headless(shape.metadata):
        return endpoints.EndpointsObject(key, owner, NAME, (), _hosts(hosts, ports))
    groups: endpoint_rules.Groups = {}
    room = endpoint_rules.MOST_ENDPOINTS // max(len(ports), 1)
    if len(listed) > room:
        found.refuse("endpoints", len(listed), f"must be at most {room} with {len(ports)} ports")
    yield from endpoint_rules.add(groups, ports, listed[:room])
    ports_made = yield from endpoint_rules.merged_ports(groups)
    says_more = not ports or any(each.hostname for each in hosts)
    shown = _hosts(hosts, ports) if says_more else ()
    return endpoints.EndpointsObject(key, owner, NAME, ports_made, shown)


def _hosts(
    hosts: Sequence[endpoints.Host], ports: Sequence[endpoints.Port]
) -> tuple[endpoints.Hosts, ...]:
    return (endpoints.Hosts(tuple(sorted(set(hosts))), tuple(ports)),) if hosts else ()


def _hints(
    entry: SliceEndpoint,
    where: str,
    shared: dict[tuple[str, ...], tuple[str, ...]],
    found: findings.Findings,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The zones and the nodes that an endpoint is for. Equal ones are the same object."""
    if entry.hints is None:
        return (), ()
    made = []
    for field, hints in (
        ("forZones", entry.hints.for_zones or ()),
        ("forNodes", entry.hints.for_nodes or ()),
    ):
        if len(hints) > _MOST_HINTS:
            found.violate(f"{where}.{field}", len(hints), f"must be at most {_MOST_HINTS}")
        named = tuple(hint.name for hint in hints[:_MOST_HINTS] if hint.name)
        made.append(shared.setdefault(named, named))
    return made[0], made[1]


def _conditions(entry: SliceEndpoint) -> tuple[bool, bool, bool, str]:
    """Absent means ready, serving and not terminating (row 35); v1beta1 had topology (29)."""
    node = entry.node_name or (entry.topology or {}).get(TOPOLOGY_HOSTNAME, "")
    given = entry.conditions
    if given is None:
        return True, True, False, node
    return given.ready is not False, given.serving is not False, given.terminating is True, node


def _slice_ports(
    ports: Sequence[endpoint_rules.EndpointPort], found: findings.Findings
) -> Generator[None, None, list[endpoints.Port]]:
    """The ports a proxy can serve: one without a number means "every port", so it is not one."""
    made: dict[str, endpoints.Port] = {}
    for index, port in enumerate(ports):
        if index % endpoint_rules.PIECE == endpoint_rules.PIECE - 1:
            yield
        if port.port is None:
            found.notes.append(f"ports[{index}].port is absent, which a proxy cannot serve")
            continue
        read = endpoint_rules.port(port, f"ports[{index}]", found, required=False)
        if made.setdefault(read.name, read) is not read:
            found.violate(f"ports[{index}].name", read.name, "must be unique")
    return list(made.values())


# discovery.k8s.io/v1 came with Kubernetes 1.21, and v1beta1 went with 1.25.
KIND = Kind(
    name=NAME,
    collection=Collection(
        "endpointslices",
        "discovery.k8s.io",
        ("v1", "v1beta1"),
        selector=endpoint_rules.NOT_HEADLESS,
    ),
    shape=EndpointSlice,
    judge=judge,
    owner=endpoint_rules.owner,
)

FOR_NAMES = dataclasses.replace(
    KIND, collection=dataclasses.replace(KIND.collection, selector=""), judge=judge_for_names
)
"""The same kind, read by a name server."""
