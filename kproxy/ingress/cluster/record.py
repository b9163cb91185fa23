"""Record: which addresses a proxy has written into Ingresses, on disk while the proxy lives.

A proxy takes its addresses out of every status at its end. One that is killed cannot: the next one
of this user on this host finds the record in the directory that the killed one has left.
"""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import structlog

from kproxy import errors

FILE = "published.json"
_MOST_BYTES = 65536

_log = structlog.get_logger(__name__)


class _Content(msgspec.Struct):
    server: str
    addresses: list[str]


class Record:
    """Of the Ingresses of one API server, which `server` names. `earlier` are addresses of killed
    proxies, read by `take`."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._write: Callable[[str, bytes], None] | None = None
        self._written: tuple[str, ...] = ()
        self.earlier: set[str] = set()

    def take(self, left: Path) -> None:
        """Read the record in the directory of a proxy that was killed, if there is one."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            with (left / FILE).open("rb") as opened:
                found = msgspec.json.decode(opened.read(_MOST_BYTES), type=_Content)
            if found.server == self._server:
                self.earlier.update(found.addresses)

    def keep_by(self, write: Callable[[str, bytes], None]) -> None:
        """Write it from now on by `write`, of a file's name and content, which may raise OSError.

        The file must go with the proxy, unless that is killed.
        """
        self._write = write

    def note(self, addresses: Collection[str]) -> None:
        """These addresses may be in statuses now because of this proxy, or of `earlier` ones."""
        wanted = tuple(sorted(addresses))
        if self._write is None or wanted == self._written:
            return
        try:
            self._write(FILE, msgspec.json.encode(_Content(self._server, list(wanted))))
        except OSError as error:
            _log.warning(
                "cannot note which addresses are written into Ingresses: if this proxy is killed, "
                "the next one leaves them there",
                why=errors.reason(error),
            )
            return
        self._written = wanted
