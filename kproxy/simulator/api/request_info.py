"""What a request asks for, read from its method and URL, as apiserver's
`pkg/endpoints/request/requestinfo.go` does."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kproxy.simulator.api.reading import query as parameters
from kproxy.simulator.store import resources, statuses
from kproxy.simulator.store.resources import Resource

_OF_CONTAINERS = ("attach", "exec", "log", "portforward", "proxy")
"""Subresources of Pods that need a process in the pod."""
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request for a resource. `namespace` is None for all of them, "" if it has none."""

    verb: str
    resource: Resource
    namespace: str | None
    name: str = ""
    subresource: str = ""


def parse(
    method: str, path: str, query: Mapping[str, str], served: Collection[Resource]
) -> RequestInfo:
    """Raises NotFound for a URL that names nothing, MethodNotAllowed for a wrong method, and
    NotImplemented for what only real containers can do."""
    group, version, parts = _group_version(path.strip("/").split("/"))
    namespace: str | None = None
    # /namespaces/x and /namespaces/x/status are the Namespace itself, the rest is in it.
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] != "status":
        namespace, parts = parts[1], parts[2:]
    resource = _find(served, group, version, parts[0])
    name = parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    if resource == resources.PODS and subresource in _OF_CONTAINERS:
        raise statuses.not_implemented(
            resource,
            name,
            f"pods/{subresource} needs containers, and simulated pods have none: they answer HTTP "
            "at their pod IP, and kubectl get events shows what happens to them",
        )
    if len(parts) > 3 or not _has(resource, subresource):
        raise statuses.no_such_path()
    if resource.namespaced and namespace is None and name:
        raise statuses.no_such_path()
    if not resource.namespaced:
        if namespace is not None:
            raise statuses.no_such_path()
        namespace = ""
    verb = _verb(method, query, name)
    if not _allows(resource, subresource, verb, name, namespace):
        raise statuses.method_not_allowed(resource, verb)
    return RequestInfo(verb, resource, namespace, name, subresource)


def _group_version(parts: list[str]) -> tuple[str, str, list[str]]:
    if parts[0] == "api" and len(parts) > 2:
        return "", parts[1], parts[2:]
    if parts[0] == "apis" and len(parts) > 3:
        return parts[1], parts[2], parts[3:]
    raise statuses.no_such_path()


def _find(served: Collection[Resource], group: str, version: str, plural: str) -> Resource:
    for resource in served:
        if (resource.group, resource.version, resource.plural) == (group, version, plural):
            return resource
    raise statuses.no_such_path()


def _has(resource: Resource, subresource: str) -> bool:
    return (
        not subresource
        or (subresource == "status" and resource.has_status)
        or (subresource == "scale" and resource.has_scale)
    )


def _verb(method: str, query: Mapping[str, str], name: str) -> str:
    if method in ("GET", "HEAD"):
        if parameters.boolean(query, "watch"):
            return "watch"
        return "get" if name else "list"
    if method == "DELETE" and not name:
        return "deletecollection"
    return _VERBS.get(method, method.lower())


def _allows(
    resource: Resource, subresource: str, verb: str, name: str, namespace: str | None
) -> bool:
    if subresource:
        return verb in ("get", "update", "patch")
    if verb == "create":
        return not name and namespace is not None
    if verb == "deletecollection":
        return verb in resource.verbs and namespace is not None
    return verb in resource.verbs and (bool(name) or verb not in ("update", "patch"))
