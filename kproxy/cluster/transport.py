"""The HTTP and TLS below a client: kubernetes.aio's, set up for watches that last for days.

Importing `kubernetes.aio` takes most of a second and some 20 MB, so only this module does, and
only `client` imports it, when a cluster is really to be reached.
"""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio.client import rest

from kproxy.cluster import kubeconfig

CONNECT_SECONDS = 10.0
"""For TCP; TLS and the answer's head have to come within the client's own deadline."""

KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A peer that is gone is noticed within 10 + 3 x 5 s (fault-catalogue K08)."""

USER_TIMEOUT_MS = 25_000
"""The same bound for what was sent and is not acknowledged (TCP_USER_TIMEOUT)."""


READ_BYTES = 64 * 1024
"""Of a body, kept for the reader before the server has to wait: twice this, and one read(2)."""


class Transport(rest.RESTClientObject):
    """Connections to one API server with one client certificate, or none.

    Raises OSError, ssl.SSLError or ValueError when a PEM cannot be used. Blocks while files
    are read; `open` must be called on the event loop, and its session be closed there.
    """

    def __init__(
        self,
        access: kubeconfig.ClusterAccess,
        certificate: bytes | None,
        key: bytes | None,
        proxy_url: str,
    ) -> None:
        with _as_files(certificate, key) as files:
            super().__init__(_configuration(access, *files, proxy_url))

    def open(self) -> aiohttp.ClientSession:
        """A session; whoever opens it closes it."""
        # A jar belongs to an event loop, and this may have been made before there was one.
        self.configuration.client_session_kwargs["cookie_jar"] = aiohttp.DummyCookieJar()
        session: aiohttp.ClientSession = self._create_pool_manager()
        return session

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, ssl=self.ssl_context, socket_factory=_socket)


def _configuration(
    access: kubeconfig.ClusterAccess, certificate: str | None, key: str | None, proxy_url: str
) -> Any:
    authority = access.authority
    configuration = kubernetes_client.Configuration(
        host=access.server,
        ssl_ca_cert=str(authority) if isinstance(authority, Path) else None,
        ca_cert_data=_pem(authority) if isinstance(authority, bytes) else None,
        cert_file=certificate,
        key_file=key,
        verify_ssl=access.verifies,
        tls_server_name=access.tls_server_name or None,
        proxy=proxy_url or None,
        client_session_kwargs={
            # ~/.netrc would add a second Authorization, which aiohttp refuses; proxies are
            # taken from the environment by the client itself.
            "trust_env": False,
            # A body is read as it comes: no bomb can be inflated, and none was asked for.
            "auto_decompress": False,
            # Lines are put together here, so no buffer has to hold one. The library's 2 MiB would
            # come as chunks of 4, and only copying such a one takes milliseconds.
            "read_bufsize": READ_BYTES,
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        },
    )
    # From Python 3.13 on, certificates without a key identifier are refused by default. Cluster
    # authorities are often such, and client-go takes them.
    configuration.disable_strict_ssl_verification = True
    return configuration


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return made


def _pem(data: bytes) -> str:
    return data.decode("ascii")


@contextmanager
def _as_files(
    certificate: bytes | None, key: bytes | None
) -> Iterator[tuple[str | None, str | None]]:
    """OpenSSL reads a certificate and its key from files only; ours last as long as it reads."""
    with tempfile.TemporaryDirectory(prefix="kproxy-") as directory:
        yield (
            _as_file(certificate, Path(directory) / "client.crt"),
            _as_file(key, Path(directory) / "client.key"),
        )


def _as_file(pem: bytes | None, scratch: Path) -> str | None:
    if pem is None:
        return None
    scratch.touch(mode=0o600)
    scratch.write_bytes(pem)
    return str(scratch)
