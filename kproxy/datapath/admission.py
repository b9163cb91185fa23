"""Drop in the kernel what a frontend does not admit: a classic BPF filter on its socket.

A filter on a listener sees the SYN and drops it, so that the client meets silence and not a
refusal, as where kube-proxy drops (docs/behaviour.md rows 17 and 26). It can be changed while the
socket listens. A UDP socket's filter sees every datagram. Connections that were accepted keep the
filter of that time, which lets their client pass. Some kernels want CAP_NET_ADMIN for a filter at a
TCP socket: `tcp.door` does without.
"""

import _socket
import ctypes
import errno
import ipaddress
import struct
from typing import Protocol

from kproxy.model import addresses, forwarding

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73
_HIGHEST_TTL = 255
_MOST_INSTRUCTIONS = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on are in the IP header, wherever that is."""
_SOURCE = {4: 12, 6: 8}
"""Where a header has the source address, by IP version."""

_INSTRUCTION = struct.Struct("=HBBI")
_WORD = 0xFFFFFFFF


class _Socket(Protocol):
    """A socket that listens, or receives datagrams."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...


def admit(sock: _Socket, family: addresses.Family, admitted: forwarding.Admission) -> None:
    """Let `sock` take what comes from `admitted` alone, from now on.

    Networks of the other family are left out. Raises OSError: E2BIG when there are too many.
    """
    if admitted is None:
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:  # it had none
                raise
        return
    attach(sock, _SO_ATTACH_FILTER, program_for(family, admitted))


def attach(sock: _Socket, option: int, program: bytes) -> None:
    """Give a socket a program by one of its options. Raises OSError: E2BIG for too long a one."""
    count = len(program) // _INSTRUCTION.size
    if count > _MOST_INSTRUCTIONS:
        raise OSError(errno.E2BIG, "more source ranges than a socket filter can hold")
    held = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", count, ctypes.addressof(held))
    sock.setsockopt(_socket.SOL_SOCKET, option, described)


def set_deaf(sock: _Socket, family: addresses.Family, *, is_deaf: bool) -> None:
    """Let a TCP socket drop all packets, except those with a TTL that no packet arrives with."""
    if family is addresses.Family.IPV6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, _HIGHEST_TTL * is_deaf)
    else:
        sock.setsockopt(_socket.IPPROTO_IP, _IP_MINTTL, _HIGHEST_TTL * is_deaf)


def program_for(
    family: addresses.Family,
    admitted: tuple[str, ...],
    *,
    passed: int = _WORD,
    dropped: int = 0,
) -> bytes:
    """A program that returns `passed` for packets from `admitted`, and `dropped` for all others.

    Each network is a run of comparisons, word by word, that ends with "pass", or goes on behind
    itself at the first difference: jumps of classic BPF are short, so none goes further.
    """
    version = 4 if family is addresses.Family.IPV4 else 6
    every = [ipaddress.ip_network(text) for text in admitted]
    networks = ipaddress.collapse_addresses(  # type: ignore[type-var]  # all of one version
        each for each in every if each.version == version
    )
    made: list[tuple[int, int, int, int]] = []
    for network in networks:
        made += _passes(version, network.network_address.packed, network.netmask.packed, passed)
    made.append((_RETURN, 0, 0, dropped))
    return b"".join(_INSTRUCTION.pack(*each) for each in made)


def _passes(
    version: int, address: bytes, mask: bytes, passed: int
) -> list[tuple[int, int, int, int]]:
    """Pass what comes from one network."""
    words = struct.iter_unpack(">I", address), struct.iter_unpack(">I", mask)
    tests: list[tuple[int, int, int, int]] = []
    for place, ((wanted,), (significant,)) in enumerate(zip(*words, strict=True)):
        if not significant:
            break
        tests.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + _SOURCE[version] + 4 * place))
        if significant != _WORD:
            tests.append((_AND, 0, 0, significant))
        tests.append((_JUMP_EQUAL, 0, 0, wanted))
    tests.append((_RETURN, 0, 0, passed))
    return [
        (code, yes, len(tests) - at - 1 if code == _JUMP_EQUAL else no, value)
        for at, (code, yes, no, value) in enumerate(tests)
    ]
