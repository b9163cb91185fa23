"""Ingresses as their rules need them: defaulted, validated, free of what is never read."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from kproxy.model import names

ANNOTATION_CLASS = "kubernetes.io/ingress.class"
"""Names the class of an Ingress, as before `spec.ingressClassName` (Kubernetes 1.18)."""

PREFIXES = ("kproxy.io/", "nginx.ingress.kubernetes.io/")
"""Of the annotations that say how an Ingress is served. The first beats the second."""


class PathType(StrEnum):
    """`pathType`: how the path of a rule is compared with that of a request."""

    EXACT = "Exact"
    PREFIX = "Prefix"
    IMPLEMENTATION_SPECIFIC = "ImplementationSpecific"


@dataclass(frozen=True, slots=True)
class Backend:
    """Where requests go: a port, by number or by name, of a Service in the Ingress's namespace.

    `resource` is the kind and name of another object, for instance "StorageBucket static"; such
    a backend has no Service.
    """

    service: str = ""
    port: int | str = 0
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """One entry of `spec.rules[].http.paths`. An absent path is "/"."""

    path: str
    type: PathType
    backend: Backend


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `spec.rules`. A host is a DNS name, `*.` and one, or "" for every host."""

    host: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """One entry of `spec.tls`. `secret` is "" for the controller's own certificate."""

    hosts: tuple[str, ...]
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Ingress:
    """An Ingress after API defaulting and validation.

    `annotations`, sorted, are those whose keys begin with one of `PREFIXES`, and
    `ANNOTATION_CLASS`; no others are kept. `published` are the IP addresses and host names that
    its status gives.
    """

    kind: ClassVar[str] = "Ingress"

    name: names.NamespacedName
    class_name: str | None = None
    rules: tuple[Rule, ...] = ()
    default_backend: Backend | None = None
    tls: tuple[Tls, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    created: str = ""
    """`metadata.creationTimestamp` (RFC 3339, UTC); "" when the source gives none."""
    uid: str = ""
    """`metadata.uid`, which Events name; "" in files."""
    published: tuple[str, ...] = ()

    def annotation(self, key: str) -> str | None:
        """The value of an annotation, of which `key` is the whole key."""
        return next((value for each, value in self.annotations if each == key), None)
