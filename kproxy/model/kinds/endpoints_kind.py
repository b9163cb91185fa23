"""The kind Endpoints, which EndpointSlices have replaced: API shape, and kube-apiserver's rules."""

import dataclasses
import operator
from collections.abc import Generator, Sequence

import msgspec

from kproxy.model import objects
from kproxy.model.judging import endpoint_rules, field_rules, findings
from kproxy.model.kinds import endpoints
from kproxy.model.kinds.kind import Collection, Kind, Policy

NAME = "Endpoints"


class EndpointAddress(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`subsets[].addresses[]` of Endpoints."""

    ip: str | None = None
    node_name: str | None = None
    target_ref: endpoint_rules.TargetRef | None = None
    hostname: str | None = None


class EndpointSubset(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`subsets[]` of Endpoints: every address with every port."""

    addresses: tuple[EndpointAddress, ...] | None = None
    not_ready_addresses: tuple[EndpointAddress, ...] | None = None
    ports: tuple[endpoint_rules.EndpointPort, ...] | None = None


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """`v1` Endpoints."""

    metadata: objects.ObjectMeta | None = None
    subsets: tuple[EndpointSubset, ...] | None = None


def judge(
    shape: Endpoints, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """What an Endpoints object says, or None when it is invalid or not for a proxy.

    Its notReadyAddresses become endpoints that are neither ready nor serving (row 21). Yields
    where others can be let run.
    """
    if endpoint_rules.is_headless(shape.metadata):
        return None
    return (yield from _judge(shape, found, policy))


def judge_for_names(
    shape: Endpoints, found: findings.Findings, policy: Policy, /
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """As `judge`, with the `hosts` that a name server needs, and those of headless Services too."""
    return (yield from _judge(shape, found, policy, for_names=True))


def _judge(
    shape: Endpoints, found: findings.Findings, policy: Policy, *, for_names: bool = False
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    yield
    is_headless = endpoint_rules.is_headless(shape.metadata)
    shown: list[endpoints.Hosts] = []
    key = field_rules.identity(shape.metadata, field_rules.DNS_SUBDOMAIN, found)
    groups: endpoint_rules.Groups = {}
    gate = endpoint_rules.Gate(found, allow_loopback=policy.allow_loopback)
    made = 0
    for index, subset in enumerate(shape.subsets or ()):
        where = f"subsets[{index}]"
        if not subset.addresses and not subset.not_ready_addresses:
            found.violate(f"{where}.addresses", None, "must be given, or notReadyAddresses")
        ports = yield from _subset_ports(subset.ports or (), where, found)
        room = max((endpoint_rules.MOST_ENDPOINTS - made) // max(len(ports), 1), 0)
        hosts: list[endpoints.Host] = []
        for ready in (True, False):
            listed = subset.addresses if ready else subset.not_ready_addresses
            path = f"{where}.{'addresses' if ready else 'notReadyAddresses'}"
            if listed and len(listed) > room:
                rule = f"must be at most {room} of the same object with {len(ports)} ports"
                found.refuse(path, len(listed), rule)
            kept = (listed or ())[:room]
            room -= len(kept)
            made += len(kept) * len(ports)
            for position, entry in enumerate(kept):
                if position % endpoint_rules.PIECE == endpoint_rules.PIECE - 1:
                    yield
                address = gate.admitted(entry.ip, f"{path}[{position}].ip")
                if address and for_names:
                    where_named = f"{path}[{position}].hostname"
                    name = endpoint_rules.hostname(entry.hostname, where_named, found)
                    hosts.append(endpoints.Host(address, name, ready))
                if address and not is_headless:
                    pod = endpoint_rules.pod_of(entry.target_ref)
                    conditions = ready, ready, False, entry.node_name or "", (), (), pod
                    yield from endpoint_rules.add(groups, ports, [(address, conditions)])
        if hosts:
            shown.append(endpoints.Hosts(tuple(sorted(set(hosts))), tuple(ports)))
    gate.conclude()
    if found.violations:
        return None
    ports_made = yield from endpoint_rules.merged_ports(groups)
    says_more = any(not group.ports or any(map(_hostname, group.hosts)) for group in shown)
    hosts_shown = tuple(shown) if is_headless or says_more else ()
    return endpoints.EndpointsObject(key, key, NAME, ports_made, hosts_shown)


_hostname = operator.attrgetter("hostname")


def _subset_ports(
    ports: Sequence[endpoint_rules.EndpointPort], where: str, found: findings.Findings
) -> Generator[None, None, list[endpoints.Port]]:
    made = []
    for index, port in enumerate(ports):
        if index % endpoint_rules.PIECE == endpoint_rules.PIECE - 1:
            yield
        made.append(
            endpoint_rules.port(port, f"{where}.ports[{index}]", found, required=len(ports) > 1)
        )
    return made


# The control plane mirrors Endpoints into slices: where there are slices, they speak
# (decision 7 of docs/behaviour.md). A server that has no slices is older than Kubernetes 1.17.
KIND = Kind(
    name=NAME,
    collection=Collection("endpoints", selector=endpoint_rules.NOT_HEADLESS),
    shape=Endpoints,
    judge=judge,
    owner=endpoint_rules.owner,
    fallback_for="EndpointSlice",
)

FOR_NAMES = dataclasses.replace(
    KIND, collection=dataclasses.replace(KIND.collection, selector=""), judge=judge_for_names
)
"""The same kind, read by a name server."""
