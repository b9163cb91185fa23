"""The sockets that clients of an Ingress connect to. kproxy binds them, and nginx inherits them.

So they outlive any one nginx: while a new one starts, connections wait in the kernel's queue
instead of being refused, and a port that the kernel has picked stays the same.
"""

import errno
import socket
from pathlib import Path

from kproxy import errors
from kproxy.settings import Listen
from kproxy.system import server_sockets

_BACKLOG = 4096
"""nginx leaves the queue of a socket that it inherits as it is; the kernel caps this."""


CONTROL = "control.sock"


class Listening:
    """The sockets of plain HTTP and HTTPS, and one on which only this proxy asks its nginx.

    They do not block: nginx takes over sockets that it inherits as they are, and a worker that is
    slower than another one to accept a connection would wait for the next one, and serve no other.
    """

    def __init__(self) -> None:
        self.http: socket.socket | None = None
        self.https: socket.socket | None = None
        self.control: socket.socket | None = None

    def bind(self, http: Listen | None, https: Listen | None) -> None:
        """Listen; None is nowhere. Raises KproxyError, which names the obstacle and the flag."""
        self.http = _listen(http, "--ingress-http") if http else None
        self.https = _listen(https, "--ingress-https") if https else None

    def bind_control(self, path: Path) -> None:
        """Listen for this proxy's own questions on a unix socket. Raises OSError."""
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(path))
        self.control.listen(16)
        self.control.settimeout(0)

    def descriptors(self) -> tuple[int, ...]:
        """Those that nginx inherits."""
        found = (self.http, self.https, self.control)
        return tuple(each.fileno() for each in found if each is not None)

    def close_public(self) -> None:
        """Leave the sockets of clients to nginx: when it closes them, connections are refused."""
        for each in (self.http, self.https):
            if each is not None:
                each.close()
        self.http = self.https = None

    def close(self) -> None:
        """Release every socket, those of this proxy's own questions too."""
        self.close_public()
        if self.control is not None:
            self.control.close()
        self.control = None


def place(bound: socket.socket | None) -> Listen | None:
    """Where a socket is bound."""
    return Listen(*bound.getsockname()[:2]) if bound is not None else None


def _listen(wanted: Listen, flag: str) -> socket.socket:
    try:
        made = server_sockets.listen(wanted, _BACKLOG)
    except OSError as error:
        raise errors.KproxyError(
            f"cannot listen on {wanted} for Ingresses: {errors.reason(error)}; "
            f"{_remedy(error, flag)}"
        ) from error
    made.settimeout(0)
    return made


def _remedy(error: OSError, flag: str) -> str:
    if error.errno == errno.EACCES:
        return (
            f"ports below 1024 need CAP_NET_BIND_SERVICE: give {flag} a port from 1024 on, for "
            "instance 127.0.0.1:8080"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"give {flag} an address of this host"
    return f"give {flag} an address that is free"
