"""A network of its own for each process that runs tests, as far as this user may have one.

Tests bind ClusterIPs and ports as they stand in real manifests. Another test process, a server of
this machine on all addresses, or a second run of the tests may hold the same ones. As root, each
process therefore enters a network namespace of its own before the first test. Any other user
shares the machine's network, where each process has addresses (`octet`) and ports (`port`,
`fresh_port`) that nothing else uses.
"""

import atexit
import contextlib
import ctypes
import fcntl
import functools
import os
import random
import socket
import struct
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_OCTETS = range(16, 96)
"""Of 127/8, for tests. Simulated clusters take theirs from 96 on, demonstrations from 128 on."""

_PORTS = range(10300, 11900)
"""For `port`. No program's by custom, above the proxy's own (10249, 10256), and below those from
which kernels give to clients. Some tests add a few hundred."""

_BLOCKS = tuple(range(first, first + 128) for first in range(12800, 19968, 128))
"""Ports for `fresh_port`, in parts that processes claim."""

_claims: list[socket.socket] = []


@atexit.register
def _let_go() -> None:
    """Close what is held: Python warns of sockets that are open when it ends."""
    for each in _claims:
        each.close()


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
        if _is_claimed(number):
            return number
    raise AssertionError(f"{len(_OCTETS)} test processes run on this machine")


def _is_claimed(name: object) -> bool:
    """Whether this process has something that no other process of tests has, from now on."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        # An abstract name: it is gone with the process, and is the network namespace's own.
        claim.bind(f"\0kproxy-tests-{name}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


@functools.cache
def port() -> int:
    """A port that nothing listens on, at any address, when this process first asks for it."""
    for number in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", number))
            return number
    raise AssertionError("no port is free")


def _fresh_ports() -> Iterator[int]:
    for block in random.sample(_BLOCKS, len(_BLOCKS)):
        if _is_claimed(f"ports-{block[0]}"):
            yield from block
    raise AssertionError("no port is left: too many test processes run on this machine")


_fresh = _fresh_ports()


def fresh_port(address: str = "") -> int:
    """A port that nothing has at `address`, over TCP and UDP. Each call gives another one.

    No client is given it before a test's server has it, as one that was found by binding to port 0
    may be.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for number in _fresh:
        with (
            contextlib.suppress(OSError),
            socket.socket(family, socket.SOCK_STREAM) as stream,
            socket.socket(family, socket.SOCK_DGRAM) as datagrams,
        ):
            stream.bind((address, number))
            datagrams.bind((address, number))
            return number
    raise AssertionError("unreachable")
