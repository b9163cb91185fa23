"""At most one kproxy has the local portal of a network namespace.

Two would remove each other's routes as left-overs. The lock is an abstract Unix socket: its name
belongs to a network namespace, and the kernel frees it when the process ends, even by SIGKILL.
"""

import errno
import os
import socket
import struct

from kproxy import errors

_NAME = "\0kproxy-local-portal"
_PEER = struct.Struct("3i")
"""struct ucred of include/linux/socket.h: process, user, group."""


_ROOT = 0


class OnlyOne:
    """The lock, held from `take` to `give_back`."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None

    def take(self) -> None:
        """Take the lock. Raises KproxyError if another kproxy has it.

        Any user can take the name, so only a holder that is root or this user counts.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(_NAME)
            sock.listen(1)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise errors.KproxyError(
                    f"cannot make sure that no other kproxy has the local portal: "
                    f"{errors.reason(error)}"
                ) from None
            self._heed_holder()
            return
        self._sock = sock

    def give_back(self) -> None:
        """Give the lock back."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _heed_holder(self) -> None:
        """Raise KproxyError if the process that has the lock may be a kproxy."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0)
            try:
                probe.connect(_NAME)
                peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            except BlockingIOError:  # its queue is full: another process connected before
                peer = _PEER.pack(0, 0, 0)
            except OSError:  # it has just ended
                return
        process, user, _ = _PEER.unpack(peer)
        if user in (_ROOT, os.geteuid()):
            raise errors.KproxyError(
                "another kproxy serves --portal local in this network namespace"
                f"{f' (process {process})' if process else ''}: stop it first"
            )
