"""What a proxy may do beyond ordinary users: give up all that it does not need.

Started as root, a process has all capabilities. The loopback portal needs one, to listen on ports
below 1024; the local portal needs more. The others go, for this process and all that it starts (the
bounding set), and no program that it starts gains any (no_new_privs). The user stays root: files of
root stay readable.

Capabilities belong to threads: call this before there is a second one.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

_HEADER_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_HIGHEST = 63


class Capability(IntEnum):
    """Numbers of capabilities(7)."""

    CHOWN = 0
    DAC_READ_SEARCH = 2
    KILL = 5
    SETGID = 6
    SETUID = 7
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    BPF = 39


LOOPBACK_PORTAL = frozenset({Capability.NET_BIND_SERVICE})
"""What the loopback portal needs."""

LOCAL_PORTAL = LOOPBACK_PORTAL | {Capability.NET_ADMIN}
"""What the local portal needs: it makes routes."""

LOCAL_PORTAL_WITH_BPF = LOCAL_PORTAL | {Capability.BPF}
"""The same where it may load a program for sk_lookup."""

INGRESS = frozenset({Capability.CHOWN, Capability.KILL, Capability.SETGID, Capability.SETUID})
"""What nginx needs of root, beside its ports, so that its workers are another user than root."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def held() -> int:
    """The capabilities that this process may use, a bit for each; 0 if /proc does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def may_change_user() -> bool:
    """Whether this process can start others as another user."""
    wanted = _mask([Capability.SETUID, Capability.SETGID])
    return held() & wanted == wanted


def limit_to(kept: Iterable[Capability], *, here: Iterable[Capability] = ()) -> None:
    """Give up all capabilities but `kept`, for good. A process without any stays as it is.

    Those `here` are kept too, but programs that this one starts do not get them. Raises OSError
    when the kernel refuses.
    """
    before = held()
    if not before:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    inherited = before & _mask(kept)
    wanted = inherited | before & _mask(here)
    for number in range(_HIGHEST + 1):
        if not inherited >> number & 1:
            # EINVAL beyond the kernel's last one, EPERM without CAP_SETPCAP.
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set(libc, effective=wanted, permitted=wanted)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def unreadable(paths: Iterable[Path]) -> Path | None:
    """The first of `paths` that exists and can be read by CAP_DAC_READ_SEARCH only.

    Of a directory, each file in it counts.
    """
    before = held()
    if not before & _mask([Capability.DAC_READ_SEARCH]):
        return None
    candidates = [each for path in paths for each in _with_files(path)]
    libc = ctypes.CDLL(None, use_errno=True)
    _set(libc, effective=before & ~_mask([Capability.DAC_READ_SEARCH]), permitted=before)
    try:
        denied = (each for each in candidates if not _can_read(each))
        return next(denied, None)
    finally:
        _set(libc, effective=before, permitted=before)


def _with_files(path: Path) -> Iterator[Path]:
    if os.path.lexists(path):
        yield path
    with contextlib.suppress(OSError):
        if path.is_dir():
            yield from path.iterdir()


def _can_read(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True  # something else is wrong with it, and is said elsewhere
    return True


def _mask(capabilities: Iterable[Capability]) -> int:
    return sum(1 << each for each in set(capabilities))


def _set(libc: ctypes.CDLL, *, effective: int, permitted: int) -> None:
    """capset(2), with nothing inheritable. Raises OSError."""
    low = 0xFFFFFFFF
    sets = (_Sets * 2)(
        _Sets(effective & low, permitted & low, 0), _Sets(effective >> 32, permitted >> 32, 0)
    )
    if libc.capset(ctypes.byref(_Header(_HEADER_VERSION, 0)), ctypes.byref(sets)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "capset")
