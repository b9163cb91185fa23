"""All TCP frontends on one listening socket for each family: a BPF program at `sk_lookup`.

The kernel runs the program when it looks for the socket of a packet without a connection. The
program looks up (protocol, address, port) in a map:

| it finds | and does |
|---|---|
| nothing | nothing: the kernel and other programs decide |
| serve | gives the packet to the listening socket of the family |
| serve these sources | the same if the client's address is in the set, else as *drop* |
| drop | gives the packet to a listening socket whose filter drops everything |
| refuse | makes the kernel refuse: no client may use the listening sockets' own addresses |

SK_DROP makes the kernel answer with a reset, so a socket does the dropping. The local address of an
accepted socket is the frontend's, so the data plane knows which frontend the client meant.

An IPv4 address is written as ::ffff:a.b.c.d. Sets of sources are in one LPM trie, keyed with a
number of the set before the address; frontends with equal sets share one, and a frontend goes from
one set to another in one write.
"""

import errno
import ipaddress
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from kproxy.model import addresses, forwarding, names
from kproxy.portal.local import bpf
from kproxy.system import socket_filters

_R = bpf.Register

_MOST_FRONTENDS = 1 << 18
_MOST_SOURCES = 1 << 20
_BACKLOG = 4096
"""Used until the data plane sets its own backlog."""

_PROTOCOLS = {names.Protocol.TCP: socket.IPPROTO_TCP, names.Protocol.UDP: socket.IPPROTO_UDP}
_FAMILIES = {addresses.Family.IPV4: socket.AF_INET, addresses.Family.IPV6: socket.AF_INET6}
_OWN_ADDRESS = {addresses.Family.IPV4: "127.0.0.1", addresses.Family.IPV6: "::1"}

_KEY = struct.Struct("=II16s")
"""Protocol, port, address."""
_VALUE = struct.Struct("=II")
"""Verdict, number of a set of sources; 0 for all sources."""
_SOURCE = struct.Struct("=II16s")
"""Length of the prefix in bits, number of the set, address. The number counts as 32 bits."""
_PLACE = struct.Struct("=I")
_SOCKET = struct.Struct("=Q")

_MAPPED = bytes(10) + b"\xff\xff"
"""What comes before an IPv4 address in the notation of IPv6."""

# struct bpf_sk_lookup of include/uapi/linux/bpf.h
_FAMILY, _PROTOCOL = 8, 12
_REMOTE_IPV4, _REMOTE_IPV6 = 16, 20
_LOCAL_IPV4, _LOCAL_IPV6, _LOCAL_PORT = 40, 44, 60
_SK_DROP, _SK_PASS = 0, 1

_Held = TypeVar("_Held", bound=bpf.Descriptor)


class _Verdict(IntEnum):
    SERVE = 1
    DROP = 2
    REFUSE = 3


_SERVE_ALL = _VALUE.pack(_Verdict.SERVE, 0)


class _Place(IntEnum):
    """Where a socket is in the sockmap."""

    LISTENER_IPV4 = 0
    LISTENER_IPV6 = 1
    HOLE_IPV4 = 2
    HOLE_IPV6 = 3


@dataclass(slots=True)
class _Sources:
    """A set of networks that frontends of one family admit. `used` counts the frontends."""

    of: tuple[addresses.Family, tuple[str, ...]]
    number: int
    keys: tuple[bytes, ...]
    used: int = 0


class SkLookup:
    """The program attached to this network namespace, its maps and its sockets.

    Raises OSError when the kernel does not support or allow it: EPERM without CAP_BPF and
    CAP_NET_ADMIN, EINVAL before Linux 5.9. Owns everything, until `close`.
    """

    def __init__(self, families: frozenset[addresses.Family]) -> None:
        """Serve these families."""
        self._held: list[bpf.Descriptor] = []
        self._sockets: list[socket.socket] = []
        self.listeners: dict[str, int] = {}
        """The descriptors of the listening sockets, by family. They stay this object's."""
        self._sets: dict[tuple[addresses.Family, tuple[str, ...]], _Sources] = {}
        self._numbers = itertools.count(1)
        self._values: dict[forwarding.PortalAddress, _Sources | None] = {}
        try:
            self._start(families)
        except OSError:
            self.close()
            raise

    def open(self, address: forwarding.PortalAddress, admitted: forwarding.Admission) -> None:
        """Give the clients of `address` that are `admitted` to the listening socket.

        Raises OSError when the maps are full; nothing has changed then.
        """
        key = _key(address)
        sources = self._use(address, admitted) if admitted else None
        value = _SERVE_ALL
        if admitted is not None:
            verdict = _Verdict.SERVE if admitted else _Verdict.DROP
            value = _VALUE.pack(verdict, sources.number if sources else 0)
        try:
            self._frontends[key] = value
        except OSError as error:
            self._drop_use(sources)
            if error.errno in (errno.E2BIG, errno.ENOSPC):
                raise OSError(
                    error.errno, f"more than {_MOST_FRONTENDS} frontends are not possible"
                ) from None
            raise
        before = self._values.get(address)
        self._values[address] = sources
        self._drop_use(before)

    def shut(self, address: forwarding.PortalAddress) -> None:
        """Stop giving new clients of `address` to the listening socket."""
        if address in self._values:
            del self._frontends[_key(address)]
            self._drop_use(self._values.pop(address))

    def close(self) -> None:
        """Detach the program, and close all sockets here. A second call does nothing."""
        while self._held:
            self._held.pop().close()
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        self.listeners.clear()

    def _start(self, families: frozenset[addresses.Family]) -> None:
        no_preallocation = bpf.MapFlag.NO_PREALLOCATION
        self._frontends = self._keep(
            bpf.Map(
                bpf.MapKind.HASH,
                "kproxy_frontends",
                key=_KEY.size,
                value=_VALUE.size,
                entries=_MOST_FRONTENDS,
                flags=no_preallocation,
            )
        )
        self._sources = self._keep(
            bpf.Map(
                bpf.MapKind.LPM_TRIE,
                "kproxy_sources",
                key=_SOURCE.size,
                value=1,
                entries=_MOST_SOURCES,
                flags=no_preallocation,
            )
        )
        sockets = self._keep(
            bpf.Map(
                bpf.MapKind.SOCKMAP,
                "kproxy_sockets",
                key=_PLACE.size,
                value=_SOCKET.size,
                entries=len(_Place),
            )
        )
        for family in sorted(families):
            is_ipv6 = family is addresses.Family.IPV6
            listener, hole = self._listening(family), self._listening(family, drops=True)
            for place, each in (
                (_Place.LISTENER_IPV6 if is_ipv6 else _Place.LISTENER_IPV4, listener),
                (_Place.HOLE_IPV6 if is_ipv6 else _Place.HOLE_IPV4, hole),
            ):
                sockets[_PLACE.pack(place)] = _SOCKET.pack(each.fileno())
                own = forwarding.PortalAddress(*each.getsockname()[:2])
                self._frontends[_key(own)] = _VALUE.pack(_Verdict.REFUSE, 0)
            self.listeners[family.value] = listener.fileno()
        program = self._keep(
            bpf.Program(
                bpf.ProgramKind.SK_LOOKUP,
                bpf.AttachPoint.SK_LOOKUP,
                "kproxy",
                program_for(self._frontends, self._sources, sockets),
            )
        )
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._keep(bpf.Link(program, namespace, bpf.AttachPoint.SK_LOOKUP))
        finally:
            os.close(namespace)

    def _keep(self, made: _Held) -> _Held:
        self._held.append(made)
        return made

    def _listening(self, family: addresses.Family, *, drops: bool = False) -> socket.socket:
        """A listening socket of our own. With `drops` it answers no packet.

        It is bound to a loopback address; the program refuses clients that connect there.
        """
        made = socket.socket(_FAMILIES[family], socket.SOCK_STREAM)
        self._sockets.append(made)
        # Accepted sockets inherit it. Without it one in TIME_WAIT at a frontend's address keeps
        # others from listening there: a kproxy without BPF, or a program at the node's address.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is addresses.Family.IPV6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if drops:
            socket_filters.attach(made, socket_filters.DROP_ALL)
        made.bind((_OWN_ADDRESS[family], 0))
        made.listen(1 if drops else _BACKLOG)
        return made

    def _use(self, address: forwarding.PortalAddress, admitted: tuple[str, ...]) -> _Sources:
        """The set for these sources, made if need be."""
        family = addresses.family(address.address)
        sources = self._sets.get((family, admitted))
        if sources is None:
            number = next(self._numbers)
            sources = _Sources(
                (family, admitted), number, tuple(_source_keys(family, number, admitted))
            )
            for count, key in enumerate(sources.keys):
                try:
                    self._sources[key] = b"\1"
                except OSError:
                    for written in sources.keys[:count]:
                        del self._sources[written]
                    raise
            self._sets[family, admitted] = sources
        sources.used += 1
        return sources

    def _drop_use(self, sources: _Sources | None) -> None:
        """Count one frontend less that uses the set, and delete it after the last."""
        if sources is None:
            return
        sources.used -= 1
        if not sources.used:
            for key in sources.keys:
                del self._sources[key]
            del self._sets[sources.of]


def _key(address: forwarding.PortalAddress) -> bytes:
    return _KEY.pack(_PROTOCOLS[address.protocol], address.port, _packed(address.address))


def _packed(address: str) -> bytes:
    """An address in 16 bytes."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return _MAPPED + socket.inet_aton(address)


def _source_keys(
    family: addresses.Family, number: int, admitted: tuple[str, ...]
) -> Iterator[bytes]:
    """The keys of the networks of one family, each once."""
    version = 6 if family is addresses.Family.IPV6 else 4
    networks = {ipaddress.ip_network(each) for each in admitted}
    for network in networks:
        if network.version == version:
            fixed = 32 + network.prefixlen + (0 if version == 6 else 8 * len(_MAPPED))
            yield _SOURCE.pack(fixed, number, _packed(str(network.network_address)))


_ON_STACK_KEY = -_KEY.size
_ON_STACK_ADDRESS = _ON_STACK_KEY + 8
_ON_STACK_SOURCE = _ON_STACK_KEY - _SOURCE.size
_ON_STACK_PLACE = _ON_STACK_SOURCE - 8


def program_for(frontends: bpf.Map, sources: bpf.Map, sockets: bpf.Map) -> bytes:
    """The program, for these maps.

    R6 is the packet, R7 its family, R8 what is to be done with it.
    """
    made = bpf.Assembler()
    made.copy(_R.R6, _R.R1)
    made.load(_R.R7, _R.R6, _FAMILY)

    made.load(_R.R2, _R.R6, _PROTOCOL)
    made.store(_ON_STACK_KEY, _R.R2)
    made.load(_R.R2, _R.R6, _LOCAL_PORT)
    made.store(_ON_STACK_KEY + 4, _R.R2)
    _store_address(made, _ON_STACK_ADDRESS, _LOCAL_IPV4, _LOCAL_IPV6, "local")
    made.load_map(_R.R1, frontends)
    made.point(_R.R2, _ON_STACK_KEY)
    made.call(bpf.Helper.MAP_LOOKUP)
    made.jump_if_equal(_R.R0, 0, "pass")
    made.load(_R.R8, _R.R0, 0)
    made.jump_if_equal(_R.R8, _Verdict.REFUSE, "refuse")
    made.jump_if_equal(_R.R8, _Verdict.DROP, "choose")
    made.load(_R.R9, _R.R0, 4)
    made.jump_if_equal(_R.R9, 0, "choose")

    made.store_number(_ON_STACK_SOURCE, 8 * (_SOURCE.size - 4))
    made.store(_ON_STACK_SOURCE + 4, _R.R9)
    _store_address(made, _ON_STACK_SOURCE + 8, _REMOTE_IPV4, _REMOTE_IPV6, "remote")
    made.load_map(_R.R1, sources)
    made.point(_R.R2, _ON_STACK_SOURCE)
    made.call(bpf.Helper.MAP_LOOKUP)
    made.jump_if_different(_R.R0, 0, "choose")
    made.set(_R.R8, _Verdict.DROP)

    made.label("choose")
    made.jump_if_equal(_R.R7, socket.AF_INET6, "choose IPv6")
    made.store_number(_ON_STACK_PLACE, _Place.LISTENER_IPV4)
    made.jump_if_different(_R.R8, _Verdict.DROP, "give")
    made.store_number(_ON_STACK_PLACE, _Place.HOLE_IPV4)
    made.jump("give")
    made.label("choose IPv6")
    made.store_number(_ON_STACK_PLACE, _Place.LISTENER_IPV6)
    made.jump_if_different(_R.R8, _Verdict.DROP, "give")
    made.store_number(_ON_STACK_PLACE, _Place.HOLE_IPV6)

    made.label("give")
    made.load_map(_R.R1, sockets)
    made.point(_R.R2, _ON_STACK_PLACE)
    made.call(bpf.Helper.MAP_LOOKUP)
    made.jump_if_equal(_R.R0, 0, "pass")
    made.copy(_R.R7, _R.R0)
    made.copy(_R.R1, _R.R6)
    made.copy(_R.R2, _R.R7)
    made.set(_R.R3, 0)
    made.call(bpf.Helper.SK_ASSIGN)
    made.copy(_R.R1, _R.R7)
    made.call(bpf.Helper.SK_RELEASE)

    made.label("pass")
    made.set(_R.R0, _SK_PASS)
    made.exit()
    made.label("refuse")
    made.set(_R.R0, _SK_DROP)
    made.exit()
    return made.assembled()


def _store_address(made: bpf.Assembler, offset: int, ipv4: int, ipv6: int, label: str) -> None:
    """Put an address of the packet on the stack, in 16 bytes."""
    made.jump_if_equal(_R.R7, socket.AF_INET6, f"{label} IPv6")
    for at in range(0, len(_MAPPED), 4):
        word = int.from_bytes(_MAPPED[at : at + 4], sys.byteorder, signed=True)
        made.store_number(offset + at, word)
    made.load(_R.R2, _R.R6, ipv4)
    made.store(offset + len(_MAPPED), _R.R2)
    made.jump(f"{label} stored")
    made.label(f"{label} IPv6")
    for at in range(0, 16, 4):
        made.load(_R.R2, _R.R6, ipv6 + at)
        made.store(offset + at, _R.R2)
    made.label(f"{label} stored")
