"""A client of one API server that only reads: GETs whose bodies arrive as bytes.

Credentials, client certificates too, are renewed once on 401 and when a handshake failed because
of them. Redirects are not followed, bodies are not decompressed, and what the server sends is
bounded by whoever reads it. Every way in which a request can fail is a `RequestError`.
"""

import asyncio
import functools
import os
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import TYPE_CHECKING, Self

import aiohttp
import aiohttp.http_exceptions
import yarl

from kproxy import errors
from kproxy.cluster import backoff, credentials, kubeconfig, progress, wire

if TYPE_CHECKING:
    from kproxy.cluster import transport

ESTABLISHMENT_SECONDS = 30.0
"""From the beginning of a request to the head of its answer."""

MAX_ERROR_BYTES = 64 * 1024
"""Of the body of an answer that is not 200."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "kproxy"}

ClusterAccess = kubeconfig.ClusterAccess


class RequestError(Exception):
    """A request brought nothing, or no more. `text` is a clause for users.

    `retry_after` is the wait in seconds that the server asked for, 0.0 if it did not.
    """

    def __init__(self, outcome: progress.Outcome, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.text = text
        self.retry_after = retry_after


def check(access: ClusterAccess, environment: Mapping[str, str]) -> None:
    """Raise ConfigError when a certificate that `access` begins with cannot be used."""
    _transport(access, *credentials.client_certificate(access.user), proxy_for(access, environment))


class Client:
    """GETs from one server. Use as an async context manager; it then owns the connections."""

    def __init__(
        self,
        access: ClusterAccess,
        *,
        environment: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.access = access
        self._proxy = proxy_for(access, environment)
        self._credentials = credentials.for_user(access.user, monotonic, wall)
        self._session: aiohttp.ClientSession | None = None
        self._identity: tuple[object, object] = (None, None)
        """The certificate and key the session was made with."""
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._drop_session()

    @asynccontextmanager
    async def get(
        self, mode: progress.Mode, path: str, query: Mapping[str, str]
    ) -> AsyncIterator["Response"]:
        """The answer to a GET, its body not read yet. Raises RequestError unless it is 200.

        `mode` is what is asked for, since it decides what a refusal means.
        """
        answer = await self._request(path, query)
        try:
            if answer.status != 200:
                raise await _refusal(mode, answer)
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                text = f"the answer is encoded as {encoding[:20]!r}, which was not asked for"
                raise RequestError(progress.Outcome.MALFORMED, text)
            yield Response(answer)
        finally:
            answer.close()

    async def _request(self, path: str, query: Mapping[str, str]) -> aiohttp.ClientResponse:
        """The answer, with credentials renewed once if they were refused."""
        for is_last in (False, True):
            try:
                credential = await self._credentials.get()
            except credentials.CredentialsError as error:
                raise RequestError(progress.Outcome.CREDENTIALS, str(error)) from None
            try:
                async with asyncio.timeout(ESTABLISHMENT_SECONDS):
                    answer = await self._ask(path, query, credential)
            except TimeoutError:
                text = f"no answer within {ESTABLISHMENT_SECONDS:g} s"
                raise RequestError(progress.Outcome.UNREACHABLE, text) from None
            if answer.status == 401:
                self._credentials.discard(credential)
            if answer.status != 401 or is_last:
                break
            answer.close()
        return answer

    async def _ask(
        self, path: str, query: Mapping[str, str], credential: credentials.Credential
    ) -> aiohttp.ClientResponse:
        session = await self._session_with(credential)
        headers = dict(_HEADERS)
        if credential.authorization:
            headers["Authorization"] = credential.authorization
        try:
            return await session.get(
                yarl.URL(self.access.server + path).with_query(dict(query)),
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy or None,
                server_hostname=self.access.tls_server_name or None,
            )
        except _TLS_ERRORS as error:
            # The authority, or our certificate, may have been replaced on disk.
            _transport.cache_clear()
            if credential.certificate is not None:
                self._credentials.discard(credential)
            await self._drop_session()
            text = f"TLS failed: {_told(error)}"
            raise RequestError(progress.Outcome.TLS_FAILED, text) from None
        except _ERRORS as error:
            raise RequestError(progress.Outcome.UNREACHABLE, _told(error)) from None

    async def _session_with(self, credential: credentials.Credential) -> aiohttp.ClientSession:
        """The session, made anew when there is none or when the certificate is another one.

        A new certificate ends what runs with the old one, as in client-go: the server would go
        on to take a watch for the old identity.
        """
        async with self._lock:
            identity = (credential.certificate, credential.key)
            if self._session is None or identity != self._identity:
                try:
                    made = await self._make_transport(credential)
                except errors.ConfigError as error:
                    # Perhaps the certificate has been replaced, and its key not yet.
                    self._credentials.discard(credential)
                    raise RequestError(progress.Outcome.CREDENTIALS, str(error)) from None
                await self._drop_session()
                self._session, self._identity = made.open(), identity
            return self._session

    async def _make_transport(self, credential: credentials.Credential) -> "transport.Transport":
        made_of = (credential.certificate, credential.key, self._proxy)
        if self.access.server.startswith("http://"):
            return _transport(self.access, *made_of)
        # Reading the system's authorities takes tens of milliseconds.
        return await asyncio.to_thread(_transport, self.access, *made_of)

    async def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Response:
    """The body of an answer, as it arrives."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def read(self, quiet_seconds: float) -> bytes:
        """The next bytes, of any number; b"" at the end. Raises RequestError.

        Nothing for `quiet_seconds` is a failure too: the server may be gone without a word.
        """
        try:
            async with asyncio.timeout(quiet_seconds):
                return await self._answer.content.readany()
        except TimeoutError:
            text = f"the server has said nothing for {quiet_seconds:g} s"
            raise RequestError(progress.Outcome.SILENT, text) from None
        except _ERRORS as error:
            raise RequestError(progress.Outcome.BROKEN_OFF, _told(error)) from None

    async def read_all(self, quiet_seconds: float, ceiling: int) -> bytes:
        """The whole body. Raises RequestError, also when it is longer than `ceiling` bytes."""
        body = bytearray()
        while chunk := await self.read(quiet_seconds):
            body += chunk
            if len(body) > ceiling:
                text = f"the answer is longer than {ceiling} bytes"
                raise RequestError(progress.Outcome.MALFORMED, text)
        return bytes(body)


# HttpProcessingError (of which LineTooLong is one) is no ClientError.
_ERRORS = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError, ValueError)
_TLS_ERRORS = (aiohttp.ClientSSLError, ssl.SSLError)


async def _refusal(mode: progress.Mode, answer: aiohttp.ClientResponse) -> RequestError:
    """What an answer other than 200 means, in a clause."""
    if 300 <= answer.status < 400:
        where = answer.headers.get("Location", "nowhere")[:100]
        text = f"the server redirects to {where}, which is not followed"
        return RequestError(progress.Outcome.SERVER_ERROR, text)
    body = b""
    try:
        async with asyncio.timeout(ESTABLISHMENT_SECONDS):
            body = await answer.content.read(MAX_ERROR_BYTES)
    except (*_ERRORS, TimeoutError):
        pass  # the code says enough
    found = wire.status(body)
    wait = backoff.retry_after(answer.headers.get("Retry-After"))
    if found is None:
        outcome = progress.outcome_of(mode, answer.status, "", "", ())
        return RequestError(outcome, f"the server answers {answer.status}", wait)
    return refused(mode, found._replace(code=found.code or answer.status), wait)


def refused(mode: progress.Mode, status: wire.Status, retry_after: float = 0.0) -> RequestError:
    """The RequestError that a Status stands for, be it an answer or an event."""
    outcome = progress.outcome_of(mode, status.code, status.reason, status.message, status.causes)
    said = " ".join(status.message.split())[:300] or status.reason
    wait = retry_after or min(status.retry_after, backoff.LONGEST_RETRY_AFTER)
    return RequestError(outcome, f"the server answers {status.code}: {said}", wait)


def proxy_for(access: ClusterAccess, environment: Mapping[str, str]) -> str:
    """The proxy to the server: the kubeconfig's, else HTTPS_PROXY or HTTP_PROXY minus NO_PROXY.

    Raises ConfigError when it is not an HTTP proxy.
    """
    proxy = access.proxy_url or _proxy_of_environment(access.server, environment)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        scheme = proxy.partition("://")[0]
        raise errors.ConfigError(
            f"the proxy to {access} is of scheme {scheme!r}; only HTTP proxies can be used"
        )
    return proxy


def _proxy_of_environment(server: str, environment: Mapping[str, str]) -> str:
    url = urllib.parse.urlsplit(server)

    def named(name: str) -> str:
        return environment.get(name.lower()) or environment.get(name.upper()) or ""

    host = url.hostname or ""
    if host == "localhost" or _is_in_network(host, "127.0.0.0/8") or host == "::1":
        return ""  # as in Go's net/http: never to one's own machine
    for pattern in named("no_proxy").split(","):
        plain = pattern.strip().lstrip(".").lower()
        if plain == "*" or host == plain or _is_in_network(host, plain):
            return ""
        if plain and host.endswith(f".{plain}"):
            return ""
    return named(f"{url.scheme}_proxy")


def _is_in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except (ValueError, TypeError):
        return False


@functools.lru_cache(maxsize=1)
def _transport(
    access: ClusterAccess, certificate: bytes | None, key: bytes | None, proxy_url: str
) -> "transport.Transport":
    """Raises ConfigError when a certificate cannot be used.

    Cached so that what `check` has made to find out is what a Client then uses.
    """
    from kproxy.cluster import transport  # noqa: PLC0415  # costs most of a second

    try:
        return transport.Transport(access, certificate, key, proxy_url)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise errors.ConfigError(
            f"a certificate for {access} cannot be used: {_told(error)}; "
            "the authority, the client certificate and its own key must be PEM"
        ) from None


def _told(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__
