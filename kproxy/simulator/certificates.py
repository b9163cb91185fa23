"""The certificate of the simulated API server: it is its own authority, and made anew each time.

Clients trust it by the kubeconfig's `certificate-authority-data`. It has the key identifiers and
usages that strict verifiers ask for (RFC 5280 section 4.2, the default from Python 3.13 on).
"""

import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

LIFETIME = timedelta(days=365)
"""Validity of a certificate: longer than any simulation runs."""

_SLACK = timedelta(hours=1)
"""How far a client's clock may be behind."""

_COMMON_NAME = "kproxy-simulator"
_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, both PEM."""

    pem: bytes
    key: bytes = field(repr=False)

    def server_context(self) -> ssl.SSLContext:
        """The TLS context of a server with it. Blocks while files are written and read."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Without this, clients would choose HTTP/2.
        context.set_alpn_protocols(["http/1.1"])
        # OpenSSL reads keys from files only; this one lasts as long as it reads, mode 0600.
        with tempfile.NamedTemporaryFile(prefix="kproxy-") as file:
            file.write(self.pem + self.key)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def self_signed(addresses: Sequence[str], names: Sequence[str], now: datetime) -> Certificate:
    """A certificate for IP addresses and DNS names, valid from `now` on."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _COMMON_NAME)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    alternatives = x509.SubjectAlternativeName(
        [
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
            *(x509.DNSName(each) for each in names),
        ]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .add_extension(alternatives, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        pem=made.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
