"""A client of one API server: GETs whose bodies arrive as bytes, and now and then a small write.

The kubeconfig, credentials and certificates are read again, and the request is made once more, on
401 and when TLS has failed. Redirects are not followed, bodies are not decompressed, and the reader
of a body bounds its size. Every way in which a request can fail is a `RequestError`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
import multidict
import yarl

from kproxy import errors
from kproxy.sources.access import credentials, kubeconfig, proxies, sessions, ways
from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import backoff, network_errors, wire

ESTABLISHMENT_SECONDS = 30.0
"""Seconds from the beginning of a request to the head of its answer."""

MAX_ERROR_BYTES = 64 * 1024
"""How much is read of the body of an answer that is not 200."""

PROBE_PATH = "/version"
"""Cheap, and by default open to every user; a refusal proves as much as an answer."""

DEAF = frozenset(
    {
        progress.Outcome.REFUSED,
        progress.Outcome.LOST,
        progress.Outcome.UNREACHABLE,
        progress.Outcome.SILENT,
    }
)
"""Outcomes of a request that was not answered."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "kproxy"}


class RequestError(Exception):
    """A request failed, before its answer or in the middle of it.

    `text` is a clause for users. `retry_after` is the wait in seconds that the server asked for,
    0.0 if it did not.
    """

    def __init__(self, outcome: progress.Outcome, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.text = text
        self.retry_after = retry_after


def check(access: kubeconfig.ClusterAccess, environment: Mapping[str, str]) -> None:
    """Raise ConfigError when a certificate that `access` begins with cannot be used."""
    sessions.check(access, proxies.proxy_for(access, environment))


@dataclass(frozen=True, slots=True)
class Write:
    """A request that changes something: its method, and its body, JSON in the given media type."""

    method: str
    body: bytes
    media_type: str = "application/json"


_READ = Write("GET", b"")


class Client:
    """Requests to one server. Use as an async context manager; it then owns the connections."""

    def __init__(
        self,
        access: kubeconfig.ClusterAccess,
        *,
        environment: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._ways = ways.Ways(access, environment, monotonic, wall)

    @property
    def access(self) -> kubeconfig.ClusterAccess:
        """Where the server is now: a kubeconfig that changes is followed."""
        return self._ways.access

    def renew(self) -> None:
        """Before the next request, read kubeconfig, credentials and certificates again."""
        self._ways.renew()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._ways.close()

    @asynccontextmanager
    async def get(
        self, mode: progress.Mode, path: str, query: Mapping[str, str]
    ) -> AsyncIterator["Response"]:
        """The answer to a GET, its body not read yet. Raises RequestError unless it is 200.

        `mode` is what is asked for, since it decides what a refusal means.
        """
        async with AsyncExitStack() as stack:
            answer = await self._request(path, query, stack)
            if answer.status != 200:
                raise await _refusal(mode, answer)
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                text = f"the answer is encoded as {encoding[:20]!r}, which was not asked for"
                raise RequestError(progress.Outcome.MALFORMED, text)
            yield Response(answer)

    async def write(self, path: str, written: Write) -> None:
        """Write something, and wait until the server has taken it. Raises RequestError.

        It may be written twice: a request is repeated with new credentials if they are refused.
        """
        async with AsyncExitStack() as stack:
            answer = await self._request(path, {}, stack, written)
            if not 200 <= answer.status < 300:
                raise await _refusal(progress.Mode.LIST, answer)

    async def is_alive(self, seconds: float) -> bool:
        """Whether the server answers at all within `seconds`, with any status.

        client-go uses the pings of HTTP/2 for this. Without credentials or trust the question
        cannot be asked; the result is then True.
        """
        try:
            async with asyncio.timeout(seconds):
                async with self.get(progress.Mode.LIST, PROBE_PATH, {}) as answer:
                    await answer.read_all(seconds, MAX_ERROR_BYTES)
        except RequestError as error:
            return error.outcome not in DEAF
        except TimeoutError:
            return False
        return True

    async def _request(
        self, path: str, query: Mapping[str, str], stack: AsyncExitStack, written: Write = _READ
    ) -> aiohttp.ClientResponse:
        """The answer. If the server refuses us, reread all files and try once more.

        `stack` holds the answer, and the session it comes from.
        """
        for is_last in (False, True):
            way = await self._ways.current()
            try:
                credential = await way.credentials.get()
            except credentials.CredentialsError as error:
                raise RequestError(progress.Outcome.CREDENTIALS, str(error)) from None
            try:
                # On the second attempt, never fall back to the certificate just refused.
                using = way.sessions.use(credential, may_be_older=not is_last)
                session = await stack.enter_async_context(using)
            except errors.ConfigError as error:
                # The certificate file may have been replaced before its key file.
                way.credentials.discard(credential)
                self._ways.suspect()
                raise RequestError(progress.Outcome.CREDENTIALS, str(error)) from None
            try:
                async with asyncio.timeout(ESTABLISHMENT_SECONDS):
                    answer = await self._ask(way, session, path, query, credential, written)
            except TimeoutError:
                self._ways.suspect()
                text = f"no answer within {ESTABLISHMENT_SECONDS:g} s"
                raise RequestError(progress.Outcome.UNREACHABLE, text) from None
            except RequestError as error:
                if error.outcome is progress.Outcome.TLS_FAILED and session.has_served:
                    continue  # it cannot happen twice: the next session has not served
                raise
            session.has_served = True
            stack.callback(answer.close)
            if answer.status == 401:
                way.credentials.discard(credential)
                self._ways.suspect()
            if answer.status != 401 or is_last:
                break
            answer.close()
        return answer

    async def _ask(
        self,
        way: ways.Way,
        session: sessions.Session,
        path: str,
        query: Mapping[str, str],
        credential: credentials.Credential,
        written: Write,
    ) -> aiohttp.ClientResponse:
        headers = multidict.CIMultiDict(_HEADERS)
        headers.extend(way.access.user.impersonation)
        try:
            url = yarl.URL(way.access.server + path).with_query(dict(query))
            if credential.authorization and url.user is None:
                # A user in the URL comes first, as in Go.
                headers["Authorization"] = credential.authorization
            if written.body:
                headers["Content-Type"] = written.media_type
            return await session.http.request(
                written.method,
                url,
                data=written.body or None,
                headers=headers,
                allow_redirects=False,
            )
        except network_errors.CAUGHT as error:
            self._ways.suspect()
            if credential.certificate is not None and network_errors.may_refuse_certificate(error):
                way.credentials.discard(credential)
            outcome, text = network_errors.before_answer(error)
            if outcome is progress.Outcome.TLS_FAILED:
                # The authority, or our certificate, may have been replaced on disk.
                way.sessions.give_up(session)
            raise RequestError(outcome, text) from None


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
        except network_errors.CAUGHT as error:
            raise RequestError(*network_errors.within_answer(error)) from None

    async def read_all(self, seconds: float, ceiling: int) -> bytes:
        """The whole body. Raises RequestError, also after `seconds` or `ceiling` bytes."""
        body = bytearray()
        deadline = asyncio.get_running_loop().time() + seconds
        while chunk := await self.read(deadline - asyncio.get_running_loop().time()):
            body += chunk
            if len(body) > ceiling:
                text = f"the answer is longer than {ceiling} bytes"
                raise RequestError(progress.Outcome.MALFORMED, text)
        return bytes(body)


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
    except (*network_errors.CAUGHT, TimeoutError):
        pass  # the code says enough
    found = wire.status(body)
    wait = backoff.retry_after(answer.headers.get("Retry-After"))
    if found is None:
        outcome = progress.outcome_of(mode, answer.status, "", "", ())
        return RequestError(outcome, f"the server answers {answer.status}", wait)
    return refused(mode, found._replace(code=found.code or answer.status), wait)


def refused(mode: progress.Mode, status: wire.Status, retry_after: float = 0.0) -> RequestError:
    """The RequestError that a Status stands for, in an answer or in an event."""
    outcome = progress.outcome_of(mode, status.code, status.reason, status.message, status.causes)
    said = " ".join(status.message.split())[:300] or status.reason
    wait = retry_after or min(status.retry_after, backoff.LONGEST_RETRY_AFTER)
    return RequestError(outcome, f"the server answers {status.code}: {said}", wait)
