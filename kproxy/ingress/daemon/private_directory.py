"""PrivateDirectory: where a proxy keeps the files of its nginx, for as long as it lives.

The directory has a random name and a lock. One whose lock is free belonged to a proxy that was
killed: the next one removes it. nginx ends with its proxy (`lifeline`), so the files have no reader
any more.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from kproxy import errors
from kproxy.system import files

PREFIX = "kproxy-ingress-"

_ATTEMPTS = 5


def base(environment: Mapping[str, str], uid: int) -> Path:
    """Where the directory is made: $XDG_RUNTIME_DIR, /run for root, or the one for temporaries.

    The workers of root's nginx are another user, who may not enter a runtime directory of root.
    """
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    candidate = Path("/run") if uid == 0 else Path(runtime)
    # The specification has relative paths ignored.
    if candidate.is_absolute() and os.access(candidate, os.W_OK | os.X_OK):
        return candidate
    return Path(tempfile.gettempdir())


def recover(parent: Path, look_at: Callable[[Path], None] = lambda _: None) -> int:
    """Remove what killed proxies of this user have left in `parent`; returns how many there were.

    `look_at` is called with each such directory before. What cannot be removed stays, and disturbs
    nothing.
    """
    removed = 0
    for each in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            removed += _remove_if_dead(each, look_at)
    return removed


def _remove_if_dead(path: Path, look_at: Callable[[Path], None]) -> bool:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            return False
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        look_at(path)
        _remove(path)
    finally:
        os.close(opened)
    return not path.exists()


def _remove(path: Path) -> None:
    """Remove a directory and as much of its content as can be.

    Root's nginx gives folders for temporary files to its workers' user. This process has CAP_CHOWN
    for that, and not the right to look into folders of others: it takes them over first.
    """
    own = os.geteuid()
    for folder, names, _ in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                os.chown(Path(folder, name), own, -1, follow_symlinks=False)
    shutil.rmtree(path, ignore_errors=True)


class PrivateDirectory:
    """A new directory in `parent`, which no other user can list. Raises KproxyError.

    With `is_shared` other users can pass through it to what belongs to them: the temporary files
    of nginx's workers.
    """

    def __init__(self, parent: Path, *, is_shared: bool = False) -> None:
        try:
            self.path, self._lock = _made(parent)
            if is_shared:
                self.path.chmod(0o711)
        except OSError as error:
            raise errors.KproxyError(
                f"cannot make a directory for nginx in {parent}: {errors.reason(error)}; "
                "make room there, or name another place with TMPDIR"
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which no other user can read, in one step. Raises OSError.

        The name may have folders in it; it does not lead out of the directory.
        """
        place = self._place(name)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.replace(place, content, mode=files.PRIVATE)

    def rename(self, name: str, new: str) -> None:
        """Put a file in the place of another, in one step. Raises OSError."""
        self._place(name).replace(self._place(new))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            self._place(name).unlink()

    def _place(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise OSError(f"{name!r} leads out of {self.path}")
        return self.path / name

    def close(self) -> None:
        """Remove the directory with all that is in it. A second call does nothing."""
        if self._lock < 0:
            return
        _remove(self.path)
        os.close(self._lock)
        self._lock = -1


def _made(parent: Path) -> tuple[Path, int]:
    """A new directory, and the descriptor that locks it. Raises OSError."""
    for _ in range(_ATTEMPTS):
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        opened = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _is_locked(opened, made):
            return made, opened
        os.close(opened)
    raise OSError("other proxies remove what is made there")


def _is_locked(opened: int, made: Path) -> bool:
    """Lock it. False if another proxy, which clears up, found it between its making and now."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = made.lstat()
    except OSError:
        return False
    return os.path.samestat(found, os.fstat(opened))
