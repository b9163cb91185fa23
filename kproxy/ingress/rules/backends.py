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
        if reason := self._unreachable(service):
            said.warn("ServiceNotReachable", f"Service {name} {reason}; {_CONSEQUENCE}")
            return None
        for port in service.ports:
            if port.protocol is names.Protocol.TCP and backend.port in (port.port, port.name):
                return names.ServicePortName(name, port.name)
        said.warn(
            "PortNotFound",
            f"Service {name} has no TCP port {backend.port}{_known_ports(service)}; {_CONSEQUENCE}",
        )
        return None

    def _unreachable(self, service: services.Service) -> str:
        if service.type is services.ServiceType.EXTERNAL_NAME:
            return "is of type ExternalName, which kproxy does not pass requests to"
        if self._through_endpoints:
            return ""
        if service.is_headless:
            return "is headless, so kproxy has no frontend for it (see --ingress-upstream)"
        if service.proxied_elsewhere:
            return "is another proxy's, by its label service.kubernetes.io/service-proxy-name"
        return ""


def _known_ports(service: services.Service) -> str:
    known = [
        f"{port.port} ({port.name})" if port.name else str(port.port)
        for port in service.ports[:8]  # as many as a sentence bears
        if port.protocol is names.Protocol.TCP
    ]
    return f"; it has {', '.join(known)}" if known else ""
