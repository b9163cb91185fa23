"""Where the ops surface listens: TCP addresses, and a unix socket that only its owner may use."""

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kproxy import errors, settings
from kproxy.system import server_sockets

_BACKLOG = 64
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket; `address` is where it is bound, as a user would write it.

    `file` is the unix socket's file: its path, device and inode.
    """

    socket: socket.socket
    address: str
    file: tuple[Path, int, int] | None = None

    def close(self) -> None:
        """Stop listening, and remove the file unless another one has replaced it."""
        self.socket.close()
        if self.file is None:
            return
        path, device, inode = self.file
        with contextlib.suppress(OSError):
            found = path.lstat()
            if (found.st_dev, found.st_ino) == (device, inode):
                path.unlink()


class Place(Protocol):
    """Somewhere to listen."""

    @property
    def is_required(self) -> bool:
        """Whether the user named it: the proxy then ends rather than run without it."""
        ...

    def bind(self) -> Bound:
        """Listen; the caller closes the result. Raises KproxyError, which names the obstacle."""
        ...


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """An IP address and a port; with port 0 the kernel picks one. `flag` is how to change it."""

    host: str
    port: int
    flag: str
    is_required: bool = True

    def bind(self) -> Bound:
        """Listen. `::` takes IPv4 as well where the system can, as Go's listeners do."""
        place = settings.Listen(self.host, self.port)
        try:
            sock = server_sockets.listen(place, _BACKLOG)
        except OSError as error:
            raise errors.KproxyError(
                f"cannot listen on {place}: {_reason(error)}; "
                f'give {self.flag} an address that is free, or "" for none'
            ) from error
        return Bound(sock, str(settings.Listen(*sock.getsockname()[:2])))


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A unix socket of mode 0600, in a directory that is made with mode 0700 if it is missing.

    The socket of a dead process is replaced; one on which a process answers never is. With
    `is_private` the directory must belong to this user alone: the default names are known, and
    another user could make the directory first.
    """

    path: Path
    is_required: bool = True
    is_private: bool = False

    def bind(self) -> Bound:
        """Listen. Raises KproxyError."""
        try:
            with _locked(self._open_directory()):
                self._clear()
                return self._listen()
        except OSError as error:
            raise self._refusal(_reason(error)) from error

    def _open_directory(self) -> int:
        """A descriptor of the directory. Raises KproxyError if other users can write to it."""
        directory = self.path.parent
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if self.is_private else 0)
        opened = os.open(directory, flags)
        found = os.fstat(opened)
        is_own = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
        if self.is_private and not is_own:
            os.close(opened)
            raise self._refusal(f"{directory} is open to other users")
        return opened

    def _clear(self) -> None:
        """Remove the socket of a dead process. Raises KproxyError for anything else there."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise self._refusal("something other than a socket is there")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0)  # a full queue is an answer too
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
            except BlockingIOError:
                raise self._refusal("another process listens there") from None
            else:
                raise self._refusal(f"process {peer(probe).pid} listens there")

    def _listen(self) -> Bound:
        sock = socket.socket(socket.AF_UNIX)
        try:
            # The file gets the descriptor's mode: there is no moment in which others may connect.
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(str(self.path))
            found = self.path.lstat()
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        return Bound(sock, str(self.path), (self.path, found.st_dev, found.st_ino))

    def _refusal(self, reason: str) -> errors.KproxyError:
        return errors.KproxyError(
            f"cannot open the control socket {self.path}: {reason}; "
            'name another path with --control, or "" for none'
        )


@contextlib.contextmanager
def _locked(directory: int) -> Iterator[None]:
    """Lock the directory against other kproxies that replace a dead socket; closes the descriptor.

    Two kproxies that start at once would both find a dead socket, and the slower one would remove
    the faster one's socket. If the lock is taken, opening it fails at once (EWOULDBLOCK).
    """
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(directory)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process and user at the other end of a unix socket, as of connect(2)."""

    pid: int
    uid: int


def peer(sock: socket.socket) -> Peer:
    """The peer's process and user, by SO_PEERCRED."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, _gid = _PEER.unpack(packed)
    return Peer(pid, uid)


def default_control_path(environment: Mapping[str, str], uid: int) -> Path:
    """The default control socket: $XDG_RUNTIME_DIR/kproxy.sock, else one in /tmp/kproxy-UID."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):  # the specification has relative paths ignored
        return Path(runtime, "kproxy.sock")
    return Path(f"/tmp/kproxy-{uid}/kproxy.sock")  # noqa: S108  # checked to be private


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
