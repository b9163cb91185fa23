"""What changes in directories, by inotify(7), with file names as the kernel gives them: bytes.

The kernel's interface is used directly: any user who may create a file beside the watched one can
stop a watcher that requires UTF-8 names: `touch $'/tmp/\\xff'`.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

QUIET_SECONDS = 0.02
"""Pause between two reads of events: a flood of events, in a directory that other users may write
to, costs one read of at most `_BUFFER` bytes in this time."""

_BUFFER = 64 * 1024
_EVENT = struct.Struct("iIII")

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_CLOSE_WRITE = 0x8
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_UNMOUNT = 0x2000
_IN_Q_OVERFLOW = 0x4000
_IN_IGNORED = 0x8000
_IN_ONLYDIR = 0x1000000
_IN_EXCL_UNLINK = 0x4000000
_IN_MASK_ADD = 0x20000000
_OF_ENTRIES = (
    _IN_MODIFY
    | _IN_ATTRIB
    | _IN_CLOSE_WRITE
    | _IN_MOVED_FROM
    | _IN_MOVED_TO
    | _IN_CREATE
    | _IN_DELETE
)
_OF_DIRECTORY = _IN_DELETE_SELF | _IN_MOVE_SELF
_ASKED_FOR = _OF_ENTRIES | _OF_DIRECTORY | _IN_ONLYDIR | _IN_EXCL_UNLINK
_ASKED_OF_ABOVE = _OF_DIRECTORY | _IN_ONLYDIR | _IN_MASK_ADD
_LOOK_AGAIN = _OF_DIRECTORY | _IN_UNMOUNT | _IN_Q_OVERFLOW | _IN_IGNORED

_libc = ctypes.CDLL(None, use_errno=True)

OnChange = Callable[[set[Path]], None]


class DirectoryWatch:
    """An inotify instance, read on the running event loop, which owns its descriptor until `close`.

    `on_change` gets the paths that changed; an empty set means that events were lost, or that a
    watched directory itself has gone, so that a look is due. Paths for which
    `concerns` is false are left out, and cause no call.

    Raises OSError when the kernel has no more instances for this user (EMFILE).
    """

    def __init__(self, concerns: Callable[[Path], bool], on_change: OnChange) -> None:
        self._concerns = concerns
        self._on_change = on_change
        self._directories: dict[int, Path] = {}
        self.has_lost = False
        """Whether the kernel has ended the watch of a directory, which was removed or unmounted.
        One that is made again in its place is not watched, even under the same inode number."""
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._on_readable)

    def add(self, directory: Path) -> None:
        """Watch `directory`, without what is below it. May block; safe from any thread.

        Raises OSError: ENOSPC when this user has no more watches, others about the path.
        """
        number = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _ASKED_FOR)
        self._directories[_checked(number)] = directory

    def add_above(self, directory: Path) -> None:
        """Watch whether `directory` itself is moved or removed, without its entries.

        Safe from any thread. May block. Raises OSError as `add`.
        """
        _checked(_libc.inotify_add_watch(self._fd, os.fsencode(directory), _ASKED_OF_ABOVE))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return
        self._loop.remove_reader(self._fd)
        self._timer = self._loop.call_later(
            QUIET_SECONDS, self._loop.add_reader, self._fd, self._on_readable
        )
        changed: set[Path] = set()
        is_look_due = False
        seen: set[tuple[int, bytes]] = set()
        for number, mask, name in _events(data):
            if mask & _LOOK_AGAIN or not name:
                self.has_lost = self.has_lost or bool(mask & _IN_IGNORED)
                is_look_due = is_look_due or bool(mask & _LOOK_AGAIN)
            elif (number, name) not in seen:
                seen.add((number, name))
                directory = self._directories.get(number)
                if directory is None:
                    continue
                path = directory / os.fsdecode(name)
                if self._concerns(path):
                    changed.add(path)
        if changed or is_look_due:
            self._on_change(changed)


def _events(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Watch number, mask and name (b"" for the directory itself) of each event in `data`."""
    offset = 0
    while offset < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, offset)
        offset += _EVENT.size
        yield number, mask, data[offset : offset + length].rstrip(b"\0")
        offset += length


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
