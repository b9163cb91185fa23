"""The small files of a kubeconfig: itself, certificates, keys and tokens.

They are read again and again, partly on the event loop, so nothing that takes their place may hold
a reader up: not a pipe without a writer, not a device, and not a file without an end.
"""

import errno
import os
import select
import time
from pathlib import Path

from kproxy import errors

MAX_BYTES = 8 * 1024 * 1024
"""Most bytes of such a file."""

_PIECE = 64 * 1024


def read(path: Path, what: str, *, patience: float = 0.0) -> bytes:
    """The bytes of a file. Raises ConfigError, which begins with `what`.

    `patience` is how many seconds a pipe whose writer is silent is waited for.
    """
    try:
        data = _content(path, patience)
    except OSError as error:
        reason = errors.reason(error)
        raise errors.ConfigError(f"{what}: cannot read {path}: {reason}") from None
    except ValueError as error:  # the path has a NUL, or letters that the locale has not
        reason = errors.in_one_line(error)
        raise errors.ConfigError(f"{what}: cannot read {str(path)!r}: {reason}") from None
    if len(data) > MAX_BYTES:
        raise errors.ConfigError(f"{what}: {path} is larger than {MAX_BYTES} bytes")
    return data


def is_missing(path: Path) -> bool:
    """Whether there is no such file. One that cannot be reached is not missing."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


def expanded(text: str) -> Path:
    """`text` as a path, with the home directory in place of `~`, and of `~name` if it has one."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser() raises for no home


def _content(path: Path, patience: float) -> bytes:
    """At most one byte more than MAX_BYTES. Raises OSError, ValueError.

    With O_NONBLOCK, opening a pipe does not wait for a writer, and reading it for data.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        deadline = time.monotonic() + patience
        data = bytearray()
        while len(data) <= MAX_BYTES:
            try:
                piece = os.read(fd, min(_PIECE, MAX_BYTES + 1 - len(data)))
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0 or not _wait(fd, left):
                    raise TimeoutError(errno.ETIMEDOUT, "its writer is silent") from None
                continue
            if not piece:
                break
            data += piece
        return bytes(data)
    finally:
        os.close(fd)


def _wait(fd: int, seconds: float) -> bool:
    """Wait for `fd` to be readable, or at its end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
