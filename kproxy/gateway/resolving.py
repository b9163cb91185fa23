"""Which backends of a route may be used, and why others may not.

A backend is a port of a Service. One in another namespace must be permitted there, by a
ReferenceGrant. What is not honoured of a Service: its traffic policies, session affinity,
annotations and cluster IP. The words of `Reason` are those of the API.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum

from kproxy.model import steps
from kproxy.model.kinds import services
from kproxy.model.kinds.gateway import reference_grant_kind, references, routes


class Reason(StrEnum):
    """Whether a backend can be used."""

    RESOLVED = "ResolvedRefs"
    INVALID_KIND = "InvalidKind"
    REF_NOT_PERMITTED = "RefNotPermitted"
    BACKEND_NOT_FOUND = "BackendNotFound"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What became of a backend: the port of its Service, or why there is none, in a clause."""

    reason: Reason
    port: services.ServicePort | None = None
    why: str = ""


def resolve(
    route: routes.Route,
    backend: routes.Backend,
    service: services.Service | None,
    *,
    is_permitted: bool,
) -> Resolved:
    """Resolve a backend of a route. `service` is the one that it names, if there is one."""
    name = backend.name
    if backend.kind != references.SERVICE:
        why = f"{backend.kind} {name} is no Service: only Services can be backends"
        return Resolved(Reason.INVALID_KIND, why=why)
    if not is_permitted:
        return Resolved(
            Reason.REF_NOT_PERMITTED,
            why=f"no ReferenceGrant in namespace {name.namespace} permits a {route.kind} of "
            f"namespace {route.name.namespace} to refer to Service {name.name}",
        )
    if service is None:
        return Resolved(Reason.BACKEND_NOT_FOUND, why=f"there is no Service {name}")
    if service.type is services.ServiceType.EXTERNAL_NAME:
        why = f"Service {name} is of type ExternalName, which has no endpoints"
        return Resolved(Reason.BACKEND_NOT_FOUND, why=why)
    for port in service.ports:
        if port.port == backend.port and port.protocol is route.protocol:
            return Resolved(Reason.RESOLVED, port)
    why = f"Service {name} has no {route.protocol} port {backend.port}"
    return Resolved(Reason.BACKEND_NOT_FOUND, why=why)


def permission(
    route: routes.Route,
    backend: routes.Backend,
    grants: Iterable[reference_grant_kind.ReferenceGrant],
) -> Generator[None, None, bool]:
    """Whether a route may refer to a backend: in its own namespace always. In steps.

    `grants` are those of the backend's namespace.
    """
    if backend.name.namespace == route.name.namespace:
        return True
    kind = references.GroupKind(references.GROUP, route.kind)
    origin = reference_grant_kind.From(kind, route.name.namespace)
    target = reference_grant_kind.To(backend.kind, backend.name.name)
    for run in steps.runs(grants):
        if any(each.permits(origin, target) for each in run):
            return True
        yield
    return False
