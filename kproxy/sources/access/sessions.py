"""The HTTP sessions of a client: one at a time, each for one client certificate.

A session whose certificate was replaced, or on which TLS failed, is no longer the current one:
later requests get another, and requests that run on it go on to their end, which for a watch is
minutes away. Closing it earlier would leave its watches asleep: aiohttp never wakes a reader of a
session that has been closed.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kproxy import errors
from kproxy.sources.access import credentials, kubeconfig

if TYPE_CHECKING:
    import aiohttp

    from kproxy.sources.access import transport


def check(access: kubeconfig.ClusterAccess, proxy_url: str) -> None:
    """Raise ConfigError when a certificate that `access` begins with cannot be used."""
    _transport(access, *credentials.client_certificate(access.user), proxy_url)


def forget_files() -> None:
    """Authorities and certificates that were read from files are read again when next needed."""
    _transport.cache_clear()


class Session:
    """Connections that show one client certificate, or none. Owned by `Sessions`."""

    def __init__(self, opened: "transport.Opened", identity: tuple[object, object]) -> None:
        self._opened = opened
        self.identity = identity
        """The certificate and key it was made with."""
        self.users = 0
        self.has_served = False
        """Whether a request on it has been answered: a failure of TLS is then news."""

    @property
    def http(self) -> "aiohttp.ClientSession":
        """What requests are made with."""
        return self._opened.http

    async def close(self) -> None:
        """End its connections; return when none is left."""
        await self._opened.close()


class Sessions:
    """Makes sessions when they are needed, and closes each after its last user."""

    def __init__(self, access: kubeconfig.ClusterAccess, proxy_url: str) -> None:
        self._access = access
        self._proxy_url = proxy_url
        self._current: Session | None = None
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        """Raise ConfigError when a certificate that the access begins with cannot be used."""
        await asyncio.to_thread(check, self._access, self._proxy_url)

    @asynccontextmanager
    async def use(
        self, credential: credentials.Credential, *, may_be_older: bool
    ) -> AsyncIterator[Session]:
        """A session that shows the credential's certificate, for as long as the block lasts.

        Raises ConfigError when the certificate cannot be used. With `may_be_older` the present
        session is used instead: its certificate was not refused, and a certificate and its key are
        replaced one after the other.
        """
        session = await self._find(credential, may_be_older=may_be_older)
        session.users += 1
        try:
            yield session
        finally:
            session.users -= 1
            await self._close_if_left(session)

    def give_up(self, session: Session) -> None:
        """TLS failed on the session: read certificates again before the next request."""
        forget_files()
        if session is self._current:
            self._current = None

    async def close(self) -> None:
        """Drop the current session: closed now if idle, else when its last user leaves `use`."""
        known, self._current = self._current, None
        if known is not None:
            await self._close_if_left(known)

    async def _find(self, credential: credentials.Credential, *, may_be_older: bool) -> Session:
        async with self._lock:
            identity = (credential.certificate, credential.key)
            known = self._current
            if known is not None and known.identity == identity:
                return known
            try:
                made = await self._make_transport(credential)
            except errors.ConfigError:
                if known is None or not may_be_older:
                    raise
                return known
            found = self._current = Session(made.open(), identity)
            if known is not None:
                await self._close_if_left(known)
            return found

    async def _make_transport(self, credential: credentials.Credential) -> "transport.Transport":
        made_of = (credential.certificate, credential.key, self._proxy_url)
        if self._access.server.startswith("http://"):
            return _transport(self._access, *made_of)
        # Reading the system's authorities takes tens of milliseconds.
        return await asyncio.to_thread(_transport, self._access, *made_of)

    async def _close_if_left(self, session: Session) -> None:
        """Close `session` if it has no user and is not the current one."""
        if session is not self._current and not session.users:
            await session.close()


@functools.lru_cache(maxsize=1)
def _transport(
    access: kubeconfig.ClusterAccess, certificate: bytes | None, key: bytes | None, proxy_url: str
) -> "transport.Transport":
    """A transport for these certificates. Raises ConfigError when one cannot be used.

    Cached, so that the client uses the transport that `check` has made.
    """
    from kproxy.sources.access import transport  # noqa: PLC0415  # costs most of a second

    try:
        return transport.Transport(access, certificate, key, proxy_url)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise errors.ConfigError(
            f"a certificate for {access} cannot be used: {_why(error)}; "
            "the authority, the client certificate and its own key must be PEM"
        ) from None


def _why(error: Exception) -> str:
    """An SSL error as a clause, without OpenSSL's names of C functions and lines of C files."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return errors.in_one_line(error)
