"""Where nginx sends the requests for a service port: to kproxy's own frontend, or to endpoints."""

from collections.abc import Generator, Mapping
from typing import Protocol, TypeAlias

from kproxy.ingress import table
from kproxy.model import addresses, forwarding, names, steps
from kproxy.model.kinds import endpoints, services
from kproxy.portal import portal

Targets: TypeAlias = tuple[addresses.SocketAddress, ...]


class Reader(Protocol):
    """What is read of a Store."""

    def service(self, name: names.NamespacedName, /) -> services.Service | None:
        """The Service so named, if there is one."""

    def endpoints(self, port: names.ServicePortName, /) -> tuple[endpoints.Endpoint, ...]:
        """The endpoints of a service port, of any readiness."""


class Frontends:
    """kproxy's frontends. They stay where they are when endpoints change.

    A Service that kproxy does not serve, such as a headless one, has none: requests go to its
    endpoints. `locate` is the Proxier's: nothing is sent to an address that another Service has.
    """

    def __init__(self, reader: Reader, locate: portal.Locate) -> None:
        self._reader = reader
        self._locate = locate
        self._endpoints = Endpoints(reader)

    def __call__(self, name: names.ServicePortName) -> Targets:
        """Where requests go; nowhere if the Service or the port is not there."""
        service = self._reader.service(name.service)
        if service is None:
            return ()
        if not service.is_proxied:
            return self._endpoints(name)
        port = next(
            (each for each in service.ports if (each.name, each.protocol) == name[1:]), None
        )
        if port is None:
            return ()
        for address in service.cluster_ips:
            frontend = forwarding.Frontend(
                forwarding.FrontendKind.CLUSTER_IP,
                address,
                port.port,
                protocol=port.protocol,
                family=addresses.family(address),
            )
            place = self._locate(name, frontend)
            if place is not None:
                return (place.socket_address,)
        return ()


def problems_in_steps(
    made: table.Table, where: Mapping[names.ServicePortName, Targets]
) -> Generator[None, None, list[table.Problem]]:
    """What is wrong with Ingresses whose Services have no address here, in steps.

    `where` has the addresses of each of `made.targets`. Services without a frontend have none while
    they have no endpoints, which is no fault.
    """
    absent = {each for each in made.frontends if not where[each]}
    found: set[table.Problem] = set()
    for host in made.hosts if absent else ():
        for run in steps.runs(host.routes()):
            yield
            found.update(
                table.Problem(ingress, "ServiceNotReachable", _absence(target))
                for route in run
                for ingress, target in route.targets()
                if target in absent
            )
    return sorted(found)


def _absence(target: names.ServicePortName) -> str:
    return (
        f"Service port {target} is served at no address here (kproxy get services says why); "
        "requests for it are answered 503"
    )


class Endpoints:
    """The endpoints themselves: the ready ones, else those that still serve while they end."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __call__(self, name: names.ServicePortName) -> Targets:
        """Where requests go; nowhere without an endpoint."""
        found = self._reader.endpoints(name)
        ready = tuple(each.backend for each in found if each.ready)
        return ready or tuple(each.backend for each in found if each.serving and each.terminating)
