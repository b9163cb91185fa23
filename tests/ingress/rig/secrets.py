"""TLS Secrets with real certificates."""

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kproxy.simulator.kinds.configuration import secret_rules
from tests.ingress.rig import objects

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@functools.cache
def key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """One of some private keys."""
    del number
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    *hosts: str, private: Key | None = None, begins: float = -86400, ends: float = 86400
) -> bytes:
    """A certificate for these hosts in PEM; the times are seconds from `objects.NOW`."""
    private = private or key()
    now = datetime.fromtimestamp(objects.NOW, UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=begins))
        .not_valid_after(now + timedelta(seconds=ends))
    )
    if hosts:
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(private: Key | None = None, password: bytes = b"") -> bytes:
    """A private key in PEM."""
    return (private or key()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


def secret(
    name: str,
    hosts: Sequence[str] = (),
    *,
    namespace: str = "default",
    crt: bytes | None = None,
    private: bytes | None = None,
) -> dict[str, Any]:
    """A Secret with a certificate for these hosts."""
    made = secret_rules.tls_secret(
        name,
        certificate(*hosts) if crt is None else crt,
        pem() if private is None else private,
    )
    return {**made, "metadata": {"name": name, "namespace": namespace}}
