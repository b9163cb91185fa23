"""Certificates: whether nginx can serve a Secret's, and one of our own for all other hosts."""

import hashlib
import time
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from kproxy.ingress import table

COMMON_NAME = "kproxy Ingress: no certificate for this host"
"""The subject of the certificate that hosts without one of their own are served with."""

_LIFETIME = timedelta(days=365)
_SLACK = timedelta(hours=1)
"""How far a client's clock may be behind."""


def fingerprint(certificate: bytes, private_key: bytes) -> str:
    """What identifies a certificate with its key, fit for the name of a file."""
    return hashlib.sha256(b"%d:%b%b" % (len(certificate), certificate, private_key)).hexdigest()


def self_made(now: float | None = None) -> table.Certificate:
    """A certificate that no client trusts, for hosts that have none of their own."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, COMMON_NAME)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _SLACK)
        .not_valid_after(moment + _LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("kproxy.invalid")]), critical=False
        )
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(serialization.Encoding.PEM)
    private_key = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return table.Certificate(fingerprint(certificate, private_key), certificate, private_key)
