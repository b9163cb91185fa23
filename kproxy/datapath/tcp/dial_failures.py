"""What the outcome of connect(2) says about an endpoint, and what it does not."""

import errno

from kproxy.datapath import syscalls
from kproxy.model import addresses

RESET_AFTERWARDS = frozenset({errno.ECONNRESET, errno.EPIPE})
"""The handshake had completed, and then the backend reset the connection. No other backend is
tried: this one accepted the client, and its reset is relayed."""

_OUR_OWN_FAULT = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
    }
)
"""Failures that say nothing about the endpoint: ports, descriptors or memory ran out here."""

_OUR_OWN_FAULT_NAMES = frozenset(errno.errorcode[code] for code in _OUR_OWN_FAULT)


def met_itself(
    sock: syscalls.StreamSocket | syscalls.DatagramSocket, backend: addresses.SocketAddress
) -> bool:
    """Whether the kernel connected a socket to itself.

    A dial to an ephemeral port without a listener can be given that very port as its own,
    and TCP's simultaneous open then succeeds: an echo of the client's own bytes.
    """
    return sock.getsockname()[:2] == backend


def is_our_own_fault(error: int | str) -> bool:
    """Whether a failure, an errno or its name, says nothing about the endpoint."""
    return error in _OUR_OWN_FAULT or error in _OUR_OWN_FAULT_NAMES


def reason(code: int) -> str:
    """An errno as the label of a counter."""
    return errno.errorcode.get(code, str(code))
