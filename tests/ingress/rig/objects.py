"""Ingresses and what belongs to them, as users write them, and the table that is made of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from kproxy.ingress import kinds, routing, table
from kproxy.model import addresses, admission, names, steps
from kproxy.model.kinds import registry, services
from kproxy.model.kinds.ingress import ingress_class_kind, ingresses, secret_kind

NOW = 1_800_000_000.0
"""Some moment in 2027."""

KINDS = (*registry.KINDS, *kinds.KINDS)


def ingress(
    name: str = "web",
    *paths: str,
    host: str = "",
    namespace: str = "default",
    created: str = "",
    service: str = "",
    annotations: Mapping[str, str] | None = None,
    tls: Sequence[Mapping[str, Any]] = (),
    rules: Sequence[Mapping[str, Any]] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """An Ingress of v1. A path is "Prefix /foo" or "Prefix /foo -> service:port"."""
    entries = [path_of(each, service or name) for each in paths]
    if rules is None:
        rules = [rule(host, *entries)] if entries or host else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": dict(annotations or {}),
            **({"creationTimestamp": created} if created else {}),
        },
        "spec": {
            **({"rules": list(rules)} if rules else {}),
            **({"tls": list(tls)} if tls else {}),
            **spec,
        },
    }


def rule(host: str, *entries: Mapping[str, Any]) -> dict[str, Any]:
    """One rule."""
    made: dict[str, Any] = {"host": host} if host else {}
    return made | ({"http": {"paths": list(entries)}} if entries else {})


def path_of(text: str, service: str) -> dict[str, Any]:
    """ "Prefix /foo -> service:port" as an entry of `paths`; the port is 80 unless given."""
    kind, _, rest = text.partition(" ")
    path, arrow, target = rest.partition(" -> ")
    return {"path": path, "pathType": kind, "backend": backend(target if arrow else service)}


def backend(target: str) -> dict[str, Any]:
    """ "service:port"; a port in digits is a number, else a name."""
    service, _, port = target.partition(":")
    port = port or "80"
    shown: dict[str, Any] = {"number": int(port)} if port.isdecimal() else {"name": port}
    return {"service": {"name": service, "port": shown}}


def ingress_class(
    name: str, controller: str = ingress_class_kind.CONTROLLER, *, default: bool = False
) -> dict[str, Any]:
    """An IngressClass."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": name,
            "annotations": {ingress_class_kind.ANNOTATION_DEFAULT: str(default).lower()},
        },
        "spec": {"controller": controller},
    }


def service(name: str, *ports: str, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A Service. A port is "80", "http:80" or "dns:53/UDP"."""
    entries = []
    for each in ports or ("80",):
        port_name, _, number = each.rpartition(":")
        number, _, protocol = number.partition("/")
        entries.append(
            {"port": int(number), "protocol": protocol or "TCP"}
            | ({"name": port_name} if port_name else {})
        )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": "10.0.0.1", "ports": entries, **spec},
    }


def labelled(document: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    """The same with a label."""
    return document | {"metadata": document["metadata"] | {"labels": {key: value}}}


def world(*documents: dict[str, Any], **more: Any) -> routing.World:
    """The world of these objects, all of which must be valid."""
    found: dict[type, dict[names.NamespacedName, Any]] = {}
    for document in documents:
        (judged,) = admission.admit(document, kinds=KINDS)
        assert judged.accepted is not None, judged
        found.setdefault(type(judged.accepted), {})[judged.accepted.name] = judged.accepted
    given: dict[str, Any] = {
        "ingresses": tuple(found.get(ingresses.Ingress, {}).values()),
        "classes": tuple(found.get(ingress_class_kind.IngressClass, {}).values()),
        "secrets": found.get(secret_kind.TlsSecret, {}),
        "services": found.get(services.Service, {}),
        "now": NOW,
    }
    return routing.World(**(given | more))


def table_of(seen: routing.World) -> table.Table:
    """The routing table of a world."""
    return steps.at_once(routing.build_in_steps(seen))


def made(*documents: dict[str, Any], **more: Any) -> table.Table:
    """The table of these objects; each Service that an Ingress names is added with port 80."""
    present = {
        (each["metadata"].get("namespace", "default"), each["metadata"]["name"])
        for each in documents
        if each["kind"] == "Service"
    }
    wanted = {
        (each["metadata"].get("namespace", "default"), name): None
        for each in documents
        if each["kind"] == "Ingress"
        for name in services_of(each)
    }
    added = [
        service(name, namespace=namespace)
        for namespace, name in wanted
        if (namespace, name) not in present
    ]
    return table_of(world(*documents, *added, **more))


def is_valid(document: dict[str, Any]) -> bool:
    """Whether an API server would have it."""
    return admission.admit(document, kinds=KINDS)[0].accepted is not None


def services_of(document: Mapping[str, Any]) -> list[str]:
    """The Services that an Ingress names."""
    spec = document["spec"]
    backends = [
        entry["backend"]
        for each in spec.get("rules", ())
        for entry in each.get("http", {}).get("paths", ())
    ]
    if "defaultBackend" in spec:
        backends.append(spec["defaultBackend"])
    return [each["service"]["name"] for each in backends if "service" in each]


def said(found: table.Table) -> dict[str, list[str]]:
    """The reasons of its problems, by the name of the Ingress."""
    reasons: dict[str, list[str]] = {}
    for each in found.problems:
        reasons.setdefault(each.ingress.name, []).append(each.reason)
    return reasons


def nowhere(_: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
    """An upstream that has no address."""
    return ()


def somewhere(_: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
    """An upstream that has an address, for configurations that are not run."""
    return (addresses.SocketAddress("127.0.0.1", 9),)
