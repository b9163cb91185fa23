"""Backends: which service port the requests of a path go to."""

from collections.abc import Mapping

from kproxy.ingress.rules import remarks
from kproxy.model import names, objects
from kproxy.model.kinds import services
from kproxy.model.kinds.ingress import ingresses

_CONSEQUENCE = "requests for it are answered 503"


class Backends:
    """Looks backends up among Services, which must not change meanwhile."""

    def __init__(
        self,
        found: Mapping[names.NamespacedName, services.Service],
        *,
        through_endpoints: bool,
    ) -> None:
        self._services = found
        self._through_endpoints = through_endpoints

    def target(
        self, backend: ingresses.Backend, namespace: str, said: remarks.Remarks
    ) -> names.ServicePortName | None:
        """The service port, or None when there is nothing to send requests to, which is said."""
        if backend.resource:
            said.warn(
                "ResourceNotSupported",
                f"the backend {objects.shown(backend.resource)} is no Service; {_CONSEQUENCE}",
            )
            return None
        name = names.NamespacedName(namespace, backend.service)
        service = self._services.get(name)
        if service is None:
            said.warn("ServiceNotFound", f"there is no Service {name}; {_CONSEQUENCE}")
            return None
        if service.type is services.ServiceType.EXTERNAL_NAME:
            said.warn(
                "ServiceNotReachable",
                f"Service {name} is of type ExternalName, which kproxy does not pass requests to; "
                f"{_CONSEQUENCE}",
            )
            return None
        for port in service.ports:
            if port.protocol is names.Protocol.TCP and backend.port in (port.port, port.name):
                self._note_reloads(service, said)
                return names.ServicePortName(name, port.name)
        said.warn(
            "PortNotFound",
            f"Service {name} has no TCP port {backend.port}{_known_ports(service)}; {_CONSEQUENCE}",
        )
        return None

    def has_frontend(self, target: names.ServicePortName) -> bool:
        """Whether requests for a service port go to a frontend of kproxy, not to endpoints."""
        service = self._services.get(target.service)
        return service is not None and service.is_proxied and not self._through_endpoints

    def _note_reloads(self, service: services.Service, said: remarks.Remarks) -> None:
        """Say where the endpoints of a Service are nginx's business, against what is usual."""
        if not service.is_proxied and not self._through_endpoints:
            why = "is headless" if service.is_headless else "is not served by this proxy"
            said.note(
                "ReloadsForEndpoints",
                f"Service {service.name} {why}, so nginx sends requests to its endpoints itself, "
                "and reloads whenever they change",
            )


def _known_ports(service: services.Service) -> str:
    known = [
        f"{port.port} ({port.name})" if port.name else str(port.port)
        for port in service.ports[:8]  # as many as a sentence bears
        if port.protocol is names.Protocol.TCP
    ]
    return f"; it has {', '.join(known)}" if known else ""
