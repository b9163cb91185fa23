"""The kind Secret: only those of type `kubernetes.io/tls`, a certificate and its private key.

An API server is asked for no others. Nothing of a Secret's content is ever shown: not in the
`repr` of what is made here, and not in what is said about a bad one.
"""

import base64
import binascii
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds.kind import Collection, Kind, Policy, concerns_no_service

TYPE_TLS = "kubernetes.io/tls"
CERTIFICATE = "tls.crt"
PRIVATE_KEY = "tls.key"


@dataclass(frozen=True, slots=True)
class TlsSecret:
    """A certificate with its chain and its private key, as given: PEM, if they are right."""

    kind: ClassVar[str] = "Secret"

    name: names.NamespacedName
    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)


class Metadata(msgspec.Struct, frozen=True, gc=False):
    """`metadata`: no more than the name, for annotations may repeat the whole object."""

    name: str | None = None
    namespace: str | None = None


class SecretShape(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`v1` Secret. What may be secret has no type here, so that no complaint can quote it."""

    metadata: Metadata | None = None
    type: str | None = None
    data: Any = field(default=None)
    string_data: Any = field(default=None)


def judge(
    shape: SecretShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, TlsSecret | None]:
    """The certificate and the key, or None when the Secret is invalid or of another type."""
    yield
    if shape.type != TYPE_TLS:
        return None
    metadata = shape.metadata or Metadata()
    meta = objects.ObjectMeta(name=metadata.name, namespace=metadata.namespace)
    name = field_rules.identity(meta, field_rules.DNS_SUBDOMAIN, found)
    certificate = _content(shape, CERTIFICATE, found)
    private_key = _content(shape, PRIVATE_KEY, found)
    return None if found.violations else TlsSecret(name, certificate, private_key)


def _content(shape: SecretShape, key: str, found: findings.Findings) -> bytes:
    """One entry. `stringData`, which only files have, beats `data`, as on an API server."""
    text = shape.string_data.get(key) if isinstance(shape.string_data, Mapping) else None
    if isinstance(text, str):
        return text.encode(errors="replace")
    encoded = shape.data.get(key) if isinstance(shape.data, Mapping) else None
    where = f'data["{key}"]'
    if encoded is None:
        found.violate(where, None, "must be given")
        return b""
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (AttributeError, ValueError, binascii.Error):
        found.violations.append(findings.Violation(where, "something else", "must be base64"))
        return b""


KIND = Kind(
    name=TlsSecret.kind,
    collection=Collection("secrets", needed=False, fields=f"type={TYPE_TLS}"),
    shape=SecretShape,
    judge=judge,
    owner=concerns_no_service,
)
