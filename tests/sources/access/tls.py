"""Certificates made by OpenSSL, and a server's side of TLS."""

import ssl
import subprocess
from pathlib import Path


def certificate(directory: Path, name: str, *more: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1."""
    made, key = directory / f"{name}.crt", directory / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(made)]
    words = ["openssl", "req", "-x509", *curve, *subject, *files, *more]
    subprocess.run(words, check=True, capture_output=True)
    return made, key


def server(made: Path, key: Path, *clients: Path) -> ssl.SSLContext:
    """A server that shows `made`, and lets clients show one of `clients`, as API servers do."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    for each in clients:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(each)
    return context
