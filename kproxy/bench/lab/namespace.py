"""Network namespaces without a name, for as long as their maker lives.

One lives as long as a descriptor of this process or a program in it: however this process ends,
they end too.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_HERE = "/proc/thread-self/ns/net"


class Namespace:
    """A network namespace, in which nothing is up yet. Must be closed.

    Raises OSError when it cannot be made.
    """

    def __init__(self) -> None:
        with _return():
            _call(_LIBC.unshare, _CLONE_NEWNET)
            self._fd = _here()

    def close(self) -> None:
        """Let go of it: it ends with the last program in it."""
        os.close(self._fd)

    @property
    def path(self) -> str:
        """A file that stands for it, for ip(8)."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread into it for a block: sockets and programs made there stay there."""
        with _return():
            _enter(self._fd)
            yield

    def set(self, **values: object) -> None:
        """Set values of /proc/sys/net in it, `__` for `/`."""
        with self.inside():
            for name, value in values.items():
                Path("/proc/sys/net", name.replace("__", "/")).write_text(str(value))


@contextlib.contextmanager
def _return() -> Iterator[None]:
    """Bring this thread back, after the block, to the namespace that it is in now."""
    before = _here()
    try:
        yield
    finally:
        _enter(before)
        os.close(before)


def _here() -> int:
    return os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)


def _enter(fd: int) -> None:
    _call(_LIBC.setns, fd, _CLONE_NEWNET)


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
