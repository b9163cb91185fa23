"""The certificates of the simulated cluster, made anew each time.

That of the API server is its own authority, which clients trust by the kubeconfig's
`certificate-authority-data`; it signs the certificates of pods that speak HTTPS. They have the key
identifiers and usages that strict verifiers ask for (RFC 5280 section 4.2, the default from
Python 3.13 on).
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


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
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
    """A certificate for IP addresses and DNS names, valid from `now` on; an authority, too."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(_COMMON_NAME, key, addresses, names, now)
        .issuer_name(_name(_COMMON_NAME))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(_authority_identifier(identifier), critical=False)
    )
    return _signed(builder, key, key)


def issued(
    authority: Certificate, addresses: Sequence[str], names: Sequence[str], now: datetime
) -> Certificate:
    """The same, signed by `authority`; the subject is the first of the names."""
    signer = x509.load_pem_x509_certificate(authority.pem)
    signing_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(names[0], key, addresses, names, now)
        .issuer_name(signer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(_authority_identifier(identifier), critical=False)
    )
    return _signed(builder, key, signing_key)


def _builder(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    addresses: Sequence[str],
    names: Sequence[str],
    now: datetime,
) -> x509.CertificateBuilder:
    """What certificates of servers have in common, whatever authority signs them."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    alternatives = x509.SubjectAlternativeName(
        [
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
            *(x509.DNSName(each) for each in names),
        ]
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(alternatives, critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _authority_identifier(identifier: x509.SubjectKeyIdentifier) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
) -> Certificate:
    made = builder.sign(signing_key, hashes.SHA256())
    return Certificate(
        pem=made.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
