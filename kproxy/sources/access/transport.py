"""The HTTP and TLS below a client: aiohttp's, set up for watches that last for days.

`kubernetes.aio` stands on the same two, and its session and TLS context would both have to be
replaced: for authorities as Go takes them, bounded buffers, keepalive and SOCKS. Importing it
costs half a second and 23 MB more, so nothing here imports it.
"""

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import aiohttp.client_proto
import aiohttp.http

from kproxy.sources.access import kubeconfig, small_files

CONNECT_SECONDS = 10.0
"""Deadline for TCP's handshake; TLS and the answer's head are under the client's deadline."""

KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""A peer that has vanished is noticed within 10 + 3 x 5 s (docs/faults.md K08)."""

USER_TIMEOUT_MS = 25_000
"""The same bound for data that is not acknowledged (TCP_USER_TIMEOUT)."""

MAX_INTERIM_ANSWERS = 5
"""Answers 1xx before the answer to a request, as in Go's net/http (`max1xxResponses`)."""

IDLE_SECONDS = 60.0
"""Seconds for which a connection is kept after a whole answer, for a request such as a probe."""

_END_SECONDS = 1.0
"""A bound for what takes a turn or two of the event loop: to end connections that were aborted."""

_CERTIFICATE = re.compile(
    rb"^-----BEGIN CERTIFICATE-----\r?\n.*?^-----END CERTIFICATE-----", re.DOTALL | re.MULTILINE
)

READ_BYTES = 64 * 1024
"""Half of the bytes of a body that are buffered, beside one read(2), before reading pauses."""


class Transport:
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
        self._context = _tls(access, certificate, key)
        self._proxy_url = proxy_url

    def open(self) -> "Opened":
        """A session; the caller closes it."""
        is_socks = self._proxy_url.startswith("socks")
        connector = self._through_socks() if is_socks else self._direct()
        connections = _Connections()
        make: Callable[..., aiohttp.client_proto.ResponseHandler] = _Protocol
        # aiohttp has no argument for it.
        connector._factory = functools.partial(
            make, asyncio.get_running_loop(), connections=connections
        )
        http = aiohttp.ClientSession(
            connector=connector,
            proxy=self._proxy_url if self._proxy_url and not is_socks else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            # ~/.netrc would add a second Authorization, which aiohttp refuses; proxies are
            # taken from the environment by the client itself.
            trust_env=False,
            # A body is read as it comes. No compression was asked for, so none is undone.
            auto_decompress=False,
            # The reader assembles lines, so no buffer has to hold a whole one.
            read_bufsize=READ_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        return Opened(http, connections)

    def _direct(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            limit=0,
            ssl=self._context,
            socket_factory=_socket,
            keepalive_timeout=IDLE_SECONDS,
        )

    def _through_socks(self) -> aiohttp.TCPConnector:
        from kproxy.sources.access import socks  # noqa: PLC0415  # few kubeconfigs need it

        # In Go the proxy resolves names, for socks5 as for socks5h.
        url = self._proxy_url.replace("socks5h://", "socks5://", 1)
        return socks.Connector.from_url(url, rdns=True, limit=0, ssl=self._context)


class Opened:
    """A session, and the connections that it has made."""

    def __init__(self, http: aiohttp.ClientSession, connections: "_Connections") -> None:
        self.http = http
        self._connections = connections

    async def close(self) -> None:
        """End the session and its connections; return when no socket of theirs is left.

        aiohttp closes them, and does not wait: a connection of TLS lasts until the peer has said
        goodbye, and an event loop that ends before leaves its socket open.
        """
        await self.http.close()
        await self._connections.end()


class _Connections:
    """The connections of a session, each from its beginning to its end."""

    def __init__(self) -> None:
        self._present: dict[_Protocol, asyncio.Transport] = {}
        self._ended: asyncio.Future[None] | None = None

    def add(self, owner: "_Protocol", made: asyncio.Transport) -> None:
        """A connection has been made."""
        self._present[owner] = made

    def remove(self, owner: "_Protocol") -> None:
        """Its connection has ended."""
        self._present.pop(owner, None)
        if self._ended is not None and not self._present and not self._ended.done():
            self._ended.set_result(None)

    async def end(self) -> None:
        """Abort what is left, and return when it has ended."""
        if not self._present:
            return
        self._ended = asyncio.get_running_loop().create_future()
        for each in list(self._present.values()):
            each.abort()
        await asyncio.wait((self._ended,), timeout=_END_SECONDS)


class _Protocol(aiohttp.client_proto.ResponseHandler):
    """aiohttp's reader of answers, with a bound on interim ones, which knows its session's others.

    aiohttp parses and queues as many as a server sends, in one step of the event loop.
    """

    _interim = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: _Connections) -> None:
        super().__init__(loop)
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The library's method."""
        super().connection_made(transport)
        self._connections.add(self, cast("asyncio.Transport", transport))

    def connection_lost(self, exc: BaseException | None) -> None:
        """The library's method."""
        self._connections.remove(self)
        super().connection_lost(exc)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """The library's method: it is called with each head, and the body that it begins."""
        if not 100 <= data[0].code < 200:
            self._interim = 0
        elif self._interim == MAX_INTERIM_ANSWERS:
            self._refuse()
            return
        else:
            self._interim += 1
        super().feed_data(data, size)

    def _refuse(self) -> None:
        if self.exception() is None:
            message = f"more than {MAX_INTERIM_ANSWERS} interim answers to one request"
            self.set_exception(aiohttp.http.HttpProcessingError(code=400, message=message))
            if self.transport is not None:
                self.transport.close()


class _Context(ssl.SSLContext):
    """A client's side of TLS. `name`, if it has one, replaces the server's name in its URL.

    It is kubeconfig's `tls-server-name`. aiohttp can set it for a request, but not through SOCKS.
    """

    name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """The library's method, with the server's name replaced."""
        named = self.name or server_hostname
        return super().wrap_bio(incoming, outgoing, server_side, named, session)


def _tls(
    access: kubeconfig.ClusterAccess, certificate: bytes | None, key: bytes | None
) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.name = access.tls_server_name
    # As Go has it: every certificate in the authority's file is trusted, not only self-signed
    # ones; and key identifiers are not asked for, which cluster authorities often lack and
    # Python 3.13 would require (VERIFY_X509_STRICT, not set here).
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not access.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif access.authority is not None:
        _trust(context, access.authority)
    else:
        context.load_default_certs()
    with _as_files(certificate, key) as files:
        if files[0] is not None:
            context.load_cert_chain(files[0], files[1], _no_passphrase)
    return context


def _trust(context: ssl.SSLContext, authority: bytes | Path) -> None:
    """Trust each certificate of `authority`.

    Raises ValueError if there is none, ConfigError if it is a file that cannot be read.

    As Go's `AppendCertsFromPEM`: what is no certificate, or one that cannot be read, is passed
    over, and so is text around them, in whatever encoding.
    """
    if isinstance(authority, Path):
        authority = small_files.read(authority, "certificate-authority")
    trusted = 0
    for block in _CERTIFICATE.findall(authority):
        with contextlib.suppress(ssl.SSLError, UnicodeDecodeError):
            context.load_verify_locations(cadata=block.decode("ascii"))
            trusted += 1
    if not trusted:
        raise ValueError("the authority has no certificate")


def _no_passphrase() -> str:
    """Return no password: without this, OpenSSL asks at the terminal and waits."""
    raise ValueError("the client key is encrypted, and there is no passphrase for it")


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    keep_alive(made)
    return made


def keep_alive(made: socket.socket) -> None:
    """Let the kernel notice a peer that is gone, on an idle connection and on a busy one."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


@contextlib.contextmanager
def _as_files(
    certificate: bytes | None, key: bytes | None
) -> Iterator[tuple[str | None, str | None]]:
    """The certificate and its key as files, which OpenSSL needs, for as long as the block lasts."""
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
