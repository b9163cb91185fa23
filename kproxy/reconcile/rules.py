"""The forwarding rules of one Service: a pure function of its objects."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from kproxy.model import endpoints, forwarding, names, services


class ObjectReader(Protocol):
    """What the proxier reads: the latest accepted objects. A cluster Store satisfies it."""

    def service(self, name: names.NamespacedName, /) -> services.Service | None:
        """The Service so named, if there is one."""

    def endpoints(self, port: names.ServicePortName, /) -> tuple[endpoints.Endpoint, ...]:
        """The endpoints of a service port, of any readiness."""

    def service_names(self) -> frozenset[names.NamespacedName]:
        """The names of all Services."""


def rules_for(
    service: services.Service | None,
    reader: ObjectReader,
    *,
    node: str,
    default_strategy: services.Strategy,
) -> dict[names.ServicePortName, forwarding.Rule]:
    """What `service` wants of the data plane; nothing when it is not to be proxied.

    `node` is this node's name, for the Local policies. Ports that are not TCP have no rule.
    """
    if service is None or not service.is_proxied:
        return {}
    policy = forwarding.Policy(service.strategy or default_strategy, service.affinity_seconds)
    rules = {}
    for port in service.ports:
        if port.protocol is not names.Protocol.TCP:
            continue
        name = names.ServicePortName(service.name, port.name, port.protocol)
        frontends = tuple(_frontends(service, port))
        found = _of_one_family(frontends, reader.endpoints(name))
        rules[name] = forwarding.Rule(
            name=name,
            frontends=frontends,
            policy=policy,
            cluster=_backends(endpoints.serving_set(found)),
            local=_backends(endpoints.serving_set(endpoints.on_node(found, node))),
        )
    return rules


def _of_one_family(
    frontends: tuple[forwarding.Frontend, ...], found: tuple[endpoints.Endpoint, ...]
) -> tuple[endpoints.Endpoint, ...]:
    """Of a dual-stack Service, whose pods are there twice, the endpoints of one family.

    That is the frontends', IPv4 if they have both: only those can be bound (service-behaviour row
    39). Where there is but one family, it is dialled from frontends of either.
    """
    ipv4 = tuple(each for each in found if ":" not in each.backend.address)
    if not ipv4 or len(ipv4) == len(found):
        return found
    if any(":" not in frontend.address for frontend in frontends):  # a node port's is ""
        return ipv4
    return tuple(each for each in found if ":" in each.backend.address)


def _backends(chosen: Iterable[endpoints.Endpoint]) -> tuple[endpoints.Backend, ...]:
    return tuple(endpoint.backend for endpoint in chosen)


def _frontends(
    service: services.Service, port: services.ServicePort
) -> Iterator[forwarding.Frontend]:
    """The virtual addresses of one port, in the order they are shown."""
    kinds = forwarding.FrontendKind
    internal = _scope(service.internal_policy)
    external = _scope(service.external_policy)
    yield forwarding.Frontend(kinds.CLUSTER_IP, service.cluster_ip, port.port, internal)
    if port.node_port:
        yield forwarding.Frontend(kinds.NODE_PORT, "", port.node_port, external)
    for address in service.external_ips:
        yield forwarding.Frontend(kinds.EXTERNAL_IP, address, port.port, external)
    for address in service.load_balancer_ips:
        yield forwarding.Frontend(kinds.LOAD_BALANCER, address, port.port, external)


def _scope(policy: services.TrafficPolicy) -> forwarding.Scope:
    if policy is services.TrafficPolicy.LOCAL:
        return forwarding.Scope.LOCAL
    return forwarding.Scope.CLUSTER
