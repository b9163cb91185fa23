"""Classic BPF programs at sockets: how one is written, and how a socket gets it."""

import _socket
import ctypes
import errno
import struct
from typing import Protocol

SO_ATTACH_FILTER = 26
SO_DETACH_FILTER = 27
_MOST_INSTRUCTIONS = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter: code, jump if true, jump if false, operand."""

RETURN = 0x06  # BPF_RET | BPF_K
DROP_ALL = INSTRUCTION.pack(RETURN, 0, 0, 0)
"""Keeps 0 bytes of each packet."""


class Socket(Protocol):
    """A socket that listens, or receives datagrams."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...


def attach(sock: Socket, program: bytes, option: int = SO_ATTACH_FILTER) -> None:
    """Give a socket a program by one of its options. Raises OSError: E2BIG for too long a one."""
    count = len(program) // INSTRUCTION.size
    if count > _MOST_INSTRUCTIONS:
        raise OSError(errno.E2BIG, "more source ranges than a socket filter can hold")
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", count, ctypes.addressof(held))
    sock.setsockopt(_socket.SOL_SOCKET, option, described)


def detach(sock: Socket) -> None:
    """Take a socket's filter away; none is no error. Raises OSError."""
    try:
        sock.setsockopt(_socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:  # it had none
            raise
