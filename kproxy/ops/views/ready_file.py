"""The ready file: a JSON document that appears when the first sync is done, and goes at exit."""

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from kproxy import errors
from kproxy.ops.views import json_pieces
from kproxy.system import files


def check(path: Path, manifests: Collection[Path]) -> None:
    """Refuse a path at which the ready file cannot be, or must not be. Raises ConfigError."""
    try:
        reason = _reason_against(path, manifests)
    except OSError as error:
        reason = f"{errors.reason(error)}, name another path"
    if reason:
        raise errors.ConfigError(f"--ready-file {path}: {reason}")


def _reason_against(path: Path, manifests: Collection[Path]) -> str:
    """Why the ready file cannot be there; "" if it can. Raises OSError."""
    if not path.parent.is_dir():
        return "its directory does not exist, create it first"
    # It is put in place by a rename and removed at exit: that would delete a device.
    if _exists(path) and not path.is_file():
        return "something other than a regular file is there, name another path"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return "this user may not write to its directory, name another path"
    taken = {_resolved(each) for each in manifests}
    if _resolved(path) in taken or _resolved(path.parent) in taken:
        return "manifests are read from there, name a path elsewhere"
    return ""


def _exists(path: Path) -> bool:
    """Whether anything is there, a broken link for instance. Raises OSError."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _resolved(path: Path) -> Path:
    """Where symbolic links lead; the path itself where they lead round in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError is what Python says before 3.13
        return path.absolute()


class ReadyFile:
    """The ready file at a path. Owns a descriptor of its directory from `write` to `remove`.

    With the descriptor the file is found again at exit, though its directory may have been moved
    or replaced since.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = -1
        self._written: tuple[int, int] | None = None

    def remove_stale(self) -> None:
        """Remove the file of an earlier life, which would mislead. Raises ConfigError."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            reason = errors.reason(error)
            raise errors.ConfigError(
                f"cannot replace the ready file {self._path}: {reason}; choose another place"
            ) from error

    def write(self, pieces: Iterable[bytes]) -> Iterator[None]:
        """Write so that a reader sees all of it or nothing. Raises KproxyError."""
        try:
            self._directory = files.open_directory(self._path.parent)
            found = yield from files.replace_steps(self._directory, self._path.name, pieces)
            self._written = found.st_dev, found.st_ino
        except OSError as error:
            reason = errors.shortage(error) or f"{errors.reason(error)}; choose another place"
            raise errors.KproxyError(
                f"cannot write the ready file {self._path}: {reason}"
            ) from error

    def remove(self) -> None:
        """Remove what was written, unless something else is there by now. Never raises OSError."""
        directory, self._directory = self._directory, -1
        written, self._written = self._written, None
        if directory < 0:
            return
        with contextlib.suppress(OSError):
            found = os.stat(self._path.name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) == written:
                os.unlink(self._path.name, dir_fd=directory)
        os.close(directory)


def document(
    head: Mapping[str, object], key: str, items: Iterable[Mapping[str, object] | None]
) -> Iterator[bytes]:
    """The JSON object `head` with the list of `items` as its last member, in pieces.

    An item that is None is an empty piece.
    """
    yield msgspec.json.format(msgspec.json.encode(head), indent=2).removesuffix(b"\n}")
    yield b',\n  "%s": ' % key.encode()
    yield from json_pieces.listed(items)
    yield b"}\n"
