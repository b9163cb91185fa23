"""Services and endpoints for the tests of this folder, with defaults for what does not matter."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoint_slice_kind, endpoints, services
from kproxy.portal import loopback, portal
from kproxy.reconcile.planning import rules

TCP = names.Protocol.TCP
NAMESPACE = "default"


ALL_EXTERNAL_IPS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def options(**fields: Any) -> rules.Options:
    """Of a proxier over the loopback portal, which serves every external IP."""
    through = loopback.LoopbackPortal(1, portal.Settings(external_ips=ALL_EXTERNAL_IPS))
    return rules.Options(**{"portal": through, **fields})


def named(name: str, namespace: str = NAMESPACE) -> names.NamespacedName:
    return names.NamespacedName(namespace, name)


def port_of(service: str, port: str = "http", namespace: str = NAMESPACE) -> names.ServicePortName:
    return names.ServicePortName(named(service, namespace), port)


def service(
    name: str = "web",
    ip: str = "10.0.9.1",
    ports: dict[str, int] | tuple[services.ServicePort, ...] | None = None,
    *,
    namespace: str = NAMESPACE,
    **fields: Any,
) -> services.Service:
    """A Service; `ports` are numbers by name, {"http": 80} unless given, or whole ports."""
    if ports is None:
        ports = {"http": 80}
    if isinstance(ports, dict):
        ports = tuple(services.ServicePort(port, TCP, number) for port, number in ports.items())
    fields = {"type": services.ServiceType.CLUSTER_IP, **fields}
    return services.Service(name=named(name, namespace), cluster_ip=ip, ports=ports, **fields)


def backend(text: str) -> addresses.SocketAddress:
    """From "10.1.0.1" or "10.1.0.1:8080"; the port is 8080 unless given."""
    address, _, port = text.partition(":")
    return addresses.SocketAddress(address, int(port or 8080))


def backends(texts: str) -> tuple[addresses.SocketAddress, ...]:
    """From several, separated by spaces."""
    return tuple(backend(text) for text in texts.split())


def pools(
    cluster: str, local: str = "", family: addresses.Family = addresses.Family.IPV4
) -> tuple[forwarding.Pool, ...]:
    """The pools of one family, from addresses separated by spaces; empty ones are left out."""
    sides = {forwarding.Scope.CLUSTER: cluster, forwarding.Scope.LOCAL: local}
    return tuple(
        forwarding.Pool(scope, family, backends(texts)) for scope, texts in sides.items() if texts
    )


def endpoint(text: str, **conditions: Any) -> endpoints.Endpoint:
    return endpoints.Endpoint(backend(text), **conditions)


def sliced(
    of: str,
    found: str | Iterable[endpoints.Endpoint] = "10.1.0.1",
    *,
    ports: Iterable[str] = ("http",),
    suffix: str = "1",
    namespace: str = NAMESPACE,
    protocol: names.Protocol = TCP,
) -> endpoints.EndpointsObject:
    """An EndpointSlice of the Service `of`, with the same endpoints at each of `ports`."""
    listed = [endpoint(text) for text in found.split()] if isinstance(found, str) else found
    merged = endpoints.merged(listed)
    return endpoints.EndpointsObject(
        named(f"{of}-{suffix}", namespace),
        named(of, namespace),
        endpoint_slice_kind.KIND.name,
        tuple(endpoints.EndpointPort(port, protocol, merged) for port in ports),
    )
