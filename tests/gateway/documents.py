"""Objects of the Gateway API as users write them, with defaults for what does not matter."""

from typing import Any

from kproxy.model import admission, names
from kproxy.model.kinds import registry
from kproxy.model.kinds.gateway import registry as gateway_registry

Document = dict[str, Any]

GROUP = "gateway.networking.k8s.io"
KINDS = (*registry.KINDS, *gateway_registry.KINDS)


def document(kind: str, name: str, spec: Document, version: str = "v1", **meta: Any) -> Document:
    """An object of the Gateway API."""
    metadata = {"name": name, **meta}
    return {"apiVersion": f"{GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}


def gateway_class(name: str = "kproxy", **spec: Any) -> Document:
    """A GatewayClass of kproxy's controller, unless `spec` says otherwise."""
    return document("GatewayClass", name, {"controllerName": "kproxy.io/gateway", **spec})


def listener(name: str, port: int, protocol: str = "TCP", **fields: Any) -> Document:
    """An entry of `spec.listeners`."""
    return {"name": name, "port": port, "protocol": protocol, **fields}


def allowed(kinds: list[str] | None = None, **namespaces: Any) -> Document:
    """`allowedRoutes`, from kinds and fields of `namespaces`; `origin` stands for `from`."""
    if "origin" in namespaces:
        namespaces["from"] = namespaces.pop("origin")
    made: Document = {}
    if namespaces:
        made["namespaces"] = namespaces
    if kinds is not None:
        made["kinds"] = [{"kind": each} for each in kinds]
    return made


def gateway(
    *listeners: Document,
    name: str = "edge",
    addresses: tuple[str, ...] = (),
    class_name: str = "kproxy",
    spec: Document | None = None,
    **meta: Any,
) -> Document:
    """A Gateway."""
    fields: Document = {"gatewayClassName": class_name, "listeners": list(listeners)}
    if addresses:
        fields["addresses"] = [{"type": "IPAddress", "value": each} for each in addresses]
    return document("Gateway", name, {**fields, **(spec or {})}, **meta)


def backend(name: str, port: int = 80, **fields: Any) -> Document:
    """An entry of `backendRefs`."""
    return {"name": name, "port": port, **fields}


def route(
    *backends: Document,
    kind: str = "TCPRoute",
    name: str = "split",
    parents: list[Document] | None = None,
    version: str = "v1",
    **meta: Any,
) -> Document:
    """A route of the Gateway `edge`, unless `parents` says otherwise."""
    found = [{"name": "edge"}] if parents is None else parents
    spec = {"parentRefs": found, "rules": [{"backendRefs": list(backends)}]}
    return document(kind, name, spec, version, **meta)


def grant(
    namespace: str,
    origin: str,
    *,
    kind: str = "TCPRoute",
    service: str | None = None,
    name: str = "grant",
) -> Document:
    """A ReferenceGrant: routes of `origin` may refer to Services, or to one, of `namespace`."""
    to = {"group": "", "kind": "Service", **({"name": service} if service else {})}
    spec = {"from": [{"group": GROUP, "kind": kind, "namespace": origin}], "to": [to]}
    return document("ReferenceGrant", name, spec, namespace=namespace)


def namespace(name: str, **labels: str) -> Document:
    """A Namespace."""
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def admit(raw: Document) -> admission.Admission:
    """What becomes of a document with `--gateway`."""
    (judged,) = admission.admit(raw, kinds=KINDS)
    return judged


def accepted(raw: Document) -> Any:
    """What is made of a document that is valid."""
    judged = admit(raw)
    assert judged.accepted is not None, judged.finding
    return judged.accepted


def named(name: str, namespace: str = "default") -> names.NamespacedName:
    """An object's name."""
    return names.NamespacedName(namespace, name)
