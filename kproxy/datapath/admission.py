"""Drop in the kernel what a frontend does not admit: a classic BPF filter on its socket.

A filter on a listener sees the SYN and drops it, so that the client meets silence and not a
refusal, as where kube-proxy drops (docs/behaviour.md rows 17 and 26). It can be changed while the
socket listens. A UDP socket's filter sees every datagram. Connections that were accepted keep the
filter of that time, which lets their client pass. Some kernels want CAP_NET_ADMIN for a filter at a
TCP socket: `tcp.door` does without.
"""

import _socket
import ipaddress
import struct

from kproxy.model import addresses, forwarding
from kproxy.system import socket_filters

_IP_MINTTL, _IPV6_MINHOPCOUNT = 21, 73
_HIGHEST_TTL = 255

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here on are in the IP header, wherever that is."""
_SOURCE = {4: 12, 6: 8}
"""Where a header has the source address, by IP version."""

_WORD = 0xFFFFFFFF


def admit(
    sock: socket_filters.Socket, family: addresses.Family, admitted: forwarding.Admission
) -> None:
    """Let `sock` take what comes from `admitted` alone, from now on.

    Networks of the other family are left out. Raises OSError: E2BIG when there are too many.
    """
    if admitted is None:
        socket_filters.detach(sock)
    else:
        socket_filters.attach(sock, program_for(family, admitted))


def set_deaf(sock: socket_filters.Socket, family: addresses.Family, *, is_deaf: bool) -> None:
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
    made.append((socket_filters.RETURN, 0, 0, dropped))
    return b"".join(socket_filters.INSTRUCTION.pack(*each) for each in made)


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
    tests.append((socket_filters.RETURN, 0, 0, passed))
    return [
        (code, yes, len(tests) - at - 1 if code == _JUMP_EQUAL else no, value)
        for at, (code, yes, no, value) in enumerate(tests)
    ]
