"""A network of its own for each process that runs tests, as far as this user may have one.

Tests bind ClusterIPs and ports as they stand in real manifests. Another test process, a server of
this machine on all addresses, or a second run of the tests may hold the same ones. As root, each
process therefore enters a network namespace of its own before the first test. Any other user
shares the machine's network, where each process has addresses (`octet`) and a port (`port`) that
nothing else uses.
"""

import contextlib
import ctypes
import fcntl
import functools
import os
import random
import socket
import struct

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_OCTETS = range(16, 96)
"""Of 127/8, for tests. Simulated clusters take theirs from 96 on, demonstrations from 128 on."""

_PORTS = range(10240, 19968)
"""Nobody's by custom, and below those from which kernels give to clients."""

_claims: list[socket.socket] = []


def enter() -> bool:
    """Move this thread, and what it starts from now on, into a new network namespace.

    Must precede all sockets and threads that matter. False where it is not allowed.
    """
    if os.geteuid() != 0 or ctypes.CDLL(None).unshare(_CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
    return True


@functools.cache
def octet() -> int:
    """The second number of addresses that are this process's own: 127.N.0.0/16 and 10.N.0.0/16."""
    for number in random.sample(_OCTETS, len(_OCTETS)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            # An abstract name: it is gone with the process, and is the network namespace's own.
            claim.bind(f"\0kproxy-tests-{number}")
            _claims.append(claim)
            return number
        claim.close()
    raise AssertionError(f"{len(_OCTETS)} test processes run on this machine")


@functools.cache
def port() -> int:
    """A port that nothing listens on, at any address, when this process first asks for it."""
    for number in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", number))
            return number
    raise AssertionError("no port is free")
