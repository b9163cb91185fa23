"""The way to an API server, for weeks: its kubeconfig is read again when it may have changed.

A server that is rebuilt under the same kubeconfig has a new authority, new users, perhaps another
port. kubectl reads the file at each start; a process that lasts has to look again (client-go's
daemons do not, and are restarted by hand).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from kproxy import errors
from kproxy.sources.access import credentials, kubeconfig, proxies, sessions

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the server: its address, the credentials, and the connections to it."""

    access: kubeconfig.ClusterAccess
    credentials: credentials.Credentials
    sessions: sessions.Sessions


class Ways:
    """The current way, replaced when the kubeconfig changes. Owned by a client.

    A request keeps the way it began on. Sessions of an earlier way close after their last user.
    """

    def __init__(
        self,
        access: kubeconfig.ClusterAccess,
        environment: Mapping[str, str],
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._environment = environment
        self._monotonic = monotonic
        self._wall = wall
        self._lock = asyncio.Lock()
        self._is_suspect = False
        self._renewals = self._renewed = 0
        self._flaw = ""
        self._read_at = monotonic()
        self._current = self._make(access)

    @property
    def access(self) -> kubeconfig.ClusterAccess:
        """What the current way leads to."""
        return self._current.access

    def suspect(self) -> None:
        """The server refused a request or cannot be reached: read the kubeconfig before the next
        one."""
        self._is_suspect = True

    def renew(self) -> None:
        """Before the next request, read the kubeconfig and all that it names again."""
        self._renewals += 1

    async def current(self) -> Way:
        """The way to use now. While the kubeconfig cannot be used, the way stays as it is."""
        if self._is_due():
            async with self._lock:
                # Another task may have done it while this one waited for the lock.
                if self._is_due():
                    renewals = self._renewals
                    self._is_suspect, self._read_at = False, self._monotonic()
                    await self._read_again(renews=renewals != self._renewed)
                    self._renewed = renewals
        return self._current

    def _is_due(self) -> bool:
        if self._renewals != self._renewed:
            return True
        age = self._monotonic() - self._read_at
        return self._current.access.origin is not None and (
            self._is_suspect or age >= credentials.FILE_SECONDS
        )

    async def close(self) -> None:
        """Close the sessions that are not in use; the others close with their last user."""
        await self._current.sessions.close()

    async def _read_again(self, *, renews: bool) -> None:
        """Take another way if the kubeconfig names one, and with `renews` in any case."""
        known = found = self._current.access
        origin = known.origin
        try:
            if origin is not None:
                found = await asyncio.to_thread(kubeconfig.read, origin.files, origin.context)
            if found == known and not renews:
                self._flaw = ""
                return
            if renews:
                sessions.forget_files()
            made = self._make(found)
            await made.sessions.check()
        except errors.ConfigError as error:
            if str(error) != self._flaw:
                self._flaw = str(error)
                _log.warning(f"the kubeconfig read before stays in use: {error}")
            return
        before, self._current, self._flaw = self._current, made, ""
        if found != known:
            _log.info("kubeconfig has changed, using it from now on", server=str(found))
        await before.sessions.close()

    def _make(self, access: kubeconfig.ClusterAccess) -> Way:
        return Way(
            access,
            credentials.for_user(access.user, self._monotonic, self._wall),
            sessions.Sessions(access, proxies.proxy_for(access, self._environment)),
        )
