"""The servers that are asked for names of elsewhere: those of a setting, or of /etc/resolv.conf."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import structlog

from kproxy.model import addresses

RESOLV_CONF = Path("/etc/resolv.conf")
PORT = 53
_MOST = 3
"""Servers that glibc takes from the file."""
_FRESH = 1.0
"""Seconds for which the file is not looked at again."""

Upstreams: TypeAlias = Callable[[], Sequence[addresses.SocketAddress]]

_log = structlog.get_logger(__name__)


def parse(text: str) -> tuple[addresses.SocketAddress, ...]:
    """The servers that a resolv.conf names, as glibc reads it: without one, this host itself."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = addresses.parse(words[1])
            if address is not None:
                found.append(addresses.SocketAddress(address.text, PORT))
    return tuple(found[:_MOST]) or (addresses.SocketAddress("127.0.0.1", PORT),)


class ResolvConf:
    """The servers that a resolv.conf names. It is read again when it has changed."""

    def __init__(
        self, path: Path = RESOLV_CONF, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = float("-inf")
        self._version: object = None
        self._servers: tuple[addresses.SocketAddress, ...] = ()

    def __call__(self) -> Sequence[addresses.SocketAddress]:
        """The servers. Those of before stay while the file cannot be read."""
        now = self._clock()
        if now - self._looked_at >= _FRESH:
            self._looked_at = now
            try:
                found = self._path.stat()
                version = found.st_mtime_ns, found.st_ino, found.st_size
                if version != self._version:
                    self._servers = parse(self._path.read_text(errors="replace"))
                    self._version = version
            except OSError as error:
                _log.debug("cannot read the name servers", path=str(self._path), error=str(error))
                self._servers = self._servers or parse("")
        return self._servers


def chosen(given: Sequence[tuple[str, int]] | None) -> Upstreams | None:
    """The servers of a setting; without any, those of this host; None for none."""
    if given is None:
        return None
    if not given:
        return ResolvConf()
    servers = tuple(addresses.SocketAddress(*each) for each in given)
    return lambda: servers
