"""Certificates: whether nginx can serve a Secret's, and one of our own for all other hosts."""

import hashlib
import os
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid

from kproxy import errors
from kproxy.ingress import table
from kproxy.model.kinds.ingress import secret_kind

COMMON_NAME = "kproxy Ingress: no certificate for this host"
"""The subject of the certificate that hosts without one of their own are served with."""

_LIFETIME = timedelta(days=365)
_SLACK = timedelta(hours=1)
"""How far a client's clock may be behind."""
_REMEMBERED = 4096
"""Verdicts, a few hundred bytes each: no certificate is examined twice."""


class BadCertificateError(ValueError):
    """A Secret has no certificate that nginx can serve; the sentence follows "Secret X "."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a certificate says of itself. Times are in seconds since 1970; names in lower case."""

    names: tuple[str, ...]
    begins: float
    ends: float

    def covers(self, host: str) -> bool:
        """Whether a client that asks for `host` accepts one of the names (RFC 6125)."""
        _, dot, rest = host.partition(".")
        return host in self.names or (bool(dot) and f"*.{rest}" in self.names)


def examine(secret: secret_kind.TlsSecret) -> tuple[table.Certificate, Facts]:
    """The certificate of a Secret, and what it says. Raises BadCertificateError.

    Takes up to 2 ms the first time, and blocks on nothing.
    """
    made = table.Certificate(
        fingerprint(secret.certificate, secret.private_key), secret.certificate, secret.private_key
    )
    verdict = _verdicts.of(made)
    if isinstance(verdict, str):
        raise BadCertificateError(verdict)
    return made, verdict


def fingerprint(certificate: bytes, private_key: bytes) -> str:
    """What identifies a certificate with its key, fit for the name of a file."""
    return hashlib.sha256(b"%d:%b%b" % (len(certificate), certificate, private_key)).hexdigest()


class Verdicts:
    """What was found out about certificates, by their fingerprints; none of them is kept.

    Of more than `most` the one is forgotten that was asked for the longest time ago.
    """

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._known: dict[str, Facts | str] = {}

    def of(self, made: table.Certificate) -> Facts | str:
        """What it says, or why it cannot be served."""
        known = self._known.pop(made.fingerprint, None)
        if known is None:
            known = _fault(made) or _facts(made)
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
        self._known[made.fingerprint] = known
        return known


_verdicts = Verdicts()


def _facts(made: table.Certificate) -> Facts:
    leaf = x509.load_pem_x509_certificate(made.certificate)
    return Facts(
        _names(leaf), leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    )


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(each.lower() for each in found.value.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        return ()


def _fault(made: table.Certificate) -> str:
    """Why nginx could not serve it, "" if it can: OpenSSL is asked, as nginx asks it."""
    try:
        x509.load_pem_x509_certificate(made.certificate)
    except ValueError:
        return f"has no certificate in PEM in {secret_kind.CERTIFICATE}"
    try:
        # To validate an RSA key takes up to 150 ms; OpenSSL compares it with the certificate below.
        serialization.load_pem_private_key(
            made.private_key, password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        return f"has a private key that is encrypted in {secret_kind.PRIVATE_KEY}"
    except Exception:
        return f"has no private key in PEM in {secret_kind.PRIVATE_KEY}"
    try:
        _load(made)
    except ssl.SSLError as error:
        return _in_words(error)
    return ""


def _load(made: table.Certificate) -> None:
    """Have OpenSSL load both, from memory: it reads paths only, and no key goes to a disk."""
    # A context that is used again would compare the key with an earlier certificate.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files: list[int] = []
    try:
        for content in (made.certificate, made.private_key):
            files.append(os.memfd_create("kproxy-certificate", os.MFD_CLOEXEC))
            _write(files[-1], content)
        chain, key = (f"/proc/self/fd/{each}" for each in files)
        context.load_cert_chain(chain, key, password=lambda: b"")
    finally:
        for each in files:
            os.close(each)


def _write(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


_WORDS = {
    "KEY_VALUES_MISMATCH": "has a private key that is not its certificate's",
    "NO_CERTIFICATE_ASSIGNED": "has a private key that is not its certificate's",
    "KEY_TYPE_MISMATCH": "has a private key that is not its certificate's",
    "EE_KEY_TOO_SMALL": "has a key that is too short for OpenSSL; RSA needs 2048 bits",
    "CA_KEY_TOO_SMALL": "has a key in its chain that is too short for OpenSSL",
    "CA_MD_TOO_WEAK": "has a signature that is too weak for OpenSSL; sign with SHA-256",
}


def _in_words(error: ssl.SSLError) -> str:
    known = _WORDS.get(error.reason or "")
    return known or f"has a certificate that OpenSSL refuses ({errors.in_one_line(error)})"


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
