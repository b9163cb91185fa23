"""Files that readers find complete: written beside the old one, and renamed into its place."""

import contextlib
import os
import secrets
from collections.abc import Generator, Iterable
from pathlib import Path

ORDINARY = 0o666
"""The mode of a new file, from which the umask takes away."""

PRIVATE = 0o600


def replace(path: Path, content: bytes, *, mode: int = ORDINARY) -> None:
    """Write a file in one step: a reader sees the old one or the new one, never a part.

    Raises OSError; the old file is then as it was.
    """
    directory = open_directory(path.parent)
    try:
        for _ in replace_steps(directory, path.name, (content,), mode=mode):
            pass
    finally:
        os.close(directory)


def open_directory(path: Path) -> int:
    """A descriptor to name files by, which follows the directory when that is moved.

    The caller closes it. The right to list the directory is not needed. Raises OSError.
    """
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def replace_steps(
    directory: int, name: str, pieces: Iterable[bytes], *, mode: int = ORDINARY
) -> Generator[None, None, os.stat_result]:
    """`replace` in a directory that is open, a piece a step. Returns the new file's status.

    Raises OSError. Whether it ends, fails or is closed, no other file is left behind.
    """
    # A random name, at which no other user can have put a file; short, because `name` may be as
    # long as a name can be.
    scratch = f".kproxy-{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(scratch, flags, mode, dir_fd=directory)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123  # a descriptor
            for piece in pieces:
                file.write(piece)
                yield
            file.flush()
            made = os.fstat(fd)
            os.replace(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=directory)
        raise
    return made
