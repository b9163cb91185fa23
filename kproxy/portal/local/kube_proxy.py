"""Find a kube-proxy on this host, or what it left.

Its rules redirect packets for Services before the kernel looks for a socket. Each mode has its own
traces: chains whose names begin with KUBE- (iptables, by way of either backend), an
nftables table `kube-proxy`, the interface `kube-ipvs0`.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_INTERFACE = "kube-ipvs0"
_CHAIN = b"KUBE-SERVICES\0"
_TABLE = b"kube-proxy\0"

# include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h
_GET_INFO, _GET_ENTRIES = 64, 65
_NAME_SIZE = 32
_INFO_SIZE = 84
_ENTRIES_OFFSET = 40
_FAMILIES = (
    ("iptables", "/proc/net/ip_tables_names", socket.AF_INET, socket.IPPROTO_IP),
    ("ip6tables", "/proc/net/ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6),
)

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_SUBSYSTEM_NFTABLES = 10
_GET_TABLE, _GET_CHAIN = 1, 4
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("=BBH")
_MOST_READ = 16 * 1024 * 1024
"""Bytes of tables and chains that are looked at: some 100,000 chains."""


def traces() -> list[str]:
    """The traces of a kube-proxy, in words for the log; empty if there are none.

    A trace that cannot be looked for, without the privilege or the kernel module, counts as absent.
    """
    return list(_traces())


def _traces() -> Iterator[str]:
    for what, listed, family, level in _FAMILIES:
        with contextlib.suppress(OSError):
            # Asking for the table would create it where it does not exist.
            if "nat" in Path(listed).read_text().split() and _CHAIN in _entries(family, level):
                yield f"{what} chains KUBE-*"
    with contextlib.suppress(OSError):
        if _CHAIN in _dump(_GET_CHAIN):
            yield "iptables-nft chains KUBE-*"
    with contextlib.suppress(OSError):
        if _TABLE in _dump(_GET_TABLE):
            yield "nftables table kube-proxy"
    with contextlib.suppress(OSError):
        socket.if_nametoindex(_INTERFACE)
        yield f"interface {_INTERFACE}"


def _entries(family: int, level: int) -> bytes:
    """The rules of the table nat, as the kernel holds them: chain names are in there as they are.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(family, socket.SOCK_DGRAM) as any_socket:

        def asked(option: int, held: ctypes.Array[ctypes.c_char]) -> bytes:
            size = ctypes.c_uint32(len(held))
            number = any_socket.fileno()
            if libc.getsockopt(number, level, option, held, ctypes.byref(size)) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            return held.raw

        name = b"nat".ljust(_NAME_SIZE, b"\0")
        info = asked(_GET_INFO, ctypes.create_string_buffer(name, _INFO_SIZE))
        (size,) = struct.unpack_from("=I", info, _INFO_SIZE - 4)
        request = (name + struct.pack("=I", size)).ljust(_ENTRIES_OFFSET, b"\0")
        held = ctypes.create_string_buffer(request, _ENTRIES_OFFSET + size)
        return asked(_GET_ENTRIES, held)[_ENTRIES_OFFSET:]


def _dump(what: int) -> bytes:
    """All answers to one request of nftables. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(2.0)
        kind = _SUBSYSTEM_NFTABLES << 8 | what
        size = _HEADER.size + _FAMILY.size
        kernel.send(
            _HEADER.pack(size, kind, _REQUEST_DUMP, 1, 0) + _FAMILY.pack(socket.AF_UNSPEC, 0, 0)
        )
        found = bytearray()
        while len(found) < _MOST_READ:
            data = kernel.recv(1 << 17)
            found += data
            at = 0
            while at + _HEADER.size <= len(data):
                length, answer, *_ = _HEADER.unpack_from(data, at)
                if answer == _ERROR:
                    raise OSError(errno.EPERM, "nftables cannot be asked")
                if answer == _DONE:
                    return bytes(found)
                at += max(length + 3 & ~3, _HEADER.size)
        return bytes(found)
