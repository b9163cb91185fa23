"""The addresses of this node: where its node ports are, and which clients are on it.

The kernel lists the addresses and notifies of changes (rtnetlink). The content of a notification is
not read: each one, and each lost one, makes kproxy read all addresses again.

An address is one of the node's if a client can connect to it from elsewhere or from the node:
those of interfaces that are up, loopback included. Left out are link-local ones, which need a
scope, IPv6 addresses still in duplicate address detection, which cannot be bound, and those of
`kube-ipvs0`, which are the ClusterIPs of a kube-proxy in IPVS mode.
"""

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from kproxy import errors
from kproxy.model import addresses
from kproxy.portal import portal

_log = structlog.get_logger(__name__)

_FAMILIES = tuple(addresses.Family)
_KUBE_PROXYS_INTERFACE = "kube-ipvs0"

_PAUSE = 0.1
"""Seconds between a notification and the reading; further notifications are waited for."""
_REST = 1.0
"""Seconds from a change to the next reading. After a change every Service is planned again."""

# include/uapi/linux/netlink.h, rtnetlink.h, if_addr.h
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_RT_SCOPE_LINK = 253
_RTMGRP_LINK, _RTMGRP_IPV4_ADDRESSES, _RTMGRP_IPV6_ADDRESSES = 0x1, 0x10, 0x100
_RTMGRP_IPV4_ROUTES, _RTMGRP_IPV6_ROUTES = 0x40, 0x400

# include/uapi/linux/sockios.h, if.h, in6.h
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC = 72, 0x2

_SOMEWHERE = {addresses.Family.IPV4: "192.0.0.8", addresses.Family.IPV6: "100::1"}
"""Addresses without a route of their own (RFC 7600, RFC 6666). Nothing is ever sent there."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel says: the addresses of the node, and the one it sends from, by family."""

    local: tuple[str, ...]
    primary: tuple[str, ...] = ()


def read() -> Reading:
    """The addresses of this node as they are now. Raises OSError."""
    with _netlink() as kernel:
        found = dict.fromkeys(_local_addresses(kernel))
    primary = (each for each in map(_source, _FAMILIES) if each in found)
    return Reading(tuple(found), tuple(primary))


@dataclass(slots=True)
class NodeAddresses:
    """What a portal on this host says of its node, as `portal.Node`; follows the kernel.

    `node_ports` and `near` are what the operator allows, `reader` reads what there is. Owns a
    netlink socket from `follow` to `close`. Raises KproxyError if the kernel cannot be asked.
    """

    node_ports: portal.NodePorts = field(default_factory=portal.NodePorts)
    near: tuple[portal.Network, ...] = ()
    reader: Callable[[], Reading] = read
    node: portal.Node = field(init=False)
    """The same object until something changes."""
    _unmatched: tuple[str, ...] = field(default=(), init=False)
    _kernel: socket.socket | None = field(default=None, init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)
    _rests_until: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Read what there is."""
        self.node = portal.Node()
        with _explained():
            self.refresh()

    def refresh(self) -> bool:
        """Read again; returns whether `node` has changed. Raises OSError."""
        reading = self.reader()
        own = [each for each in reading.local if not ipaddress.ip_address(each).is_loopback]
        node = portal.Node(
            addresses=tuple(self._selected(reading)),
            near=tuple(map(str, _networks(own, self.near))),
            own=tuple(own),
        )
        if node == self.node:
            return False
        self.node = node
        _log.debug("addresses of this node", node_ports=node.addresses, near=node.near)
        return True

    def follow(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` on the running event loop whenever `node` has changed.

        Raises KproxyError if the kernel cannot be asked.
        """
        self.close()
        groups = _RTMGRP_LINK | _RTMGRP_IPV4_ADDRESSES | _RTMGRP_IPV6_ADDRESSES
        if self.node_ports.is_primary:
            groups |= _RTMGRP_IPV4_ROUTES | _RTMGRP_IPV6_ROUTES
        with _explained():
            self._kernel = _netlink(groups)
        self._kernel.settimeout(0)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._kernel, self._hear, loop, on_change)
        self._look(loop, on_change)  # at what has changed before

    def close(self) -> None:
        """Stop following, and close the netlink socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._kernel is not None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                asyncio.get_running_loop().remove_reader(self._kernel)
            self._kernel.close()
            self._kernel = None

    def _hear(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None]) -> None:
        """Discard the notifications, and schedule a reading."""
        assert self._kernel is not None
        for _ in range(64):  # the rest comes with the loop's next turn
            try:
                self._kernel.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost
                    raise
        if self._timer is None:
            at = max(loop.time() + _PAUSE, self._rests_until)
            self._timer = loop.call_at(at, self._look, loop, on_change)

    def _look(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], None]) -> None:
        self._timer = None
        try:
            has_changed = self.refresh()
        except OSError as error:
            _log.warning(
                "cannot read the addresses of this node, retrying", reason=errors.reason(error)
            )
            self._timer = loop.call_later(_REST, self._look, loop, on_change)
            return
        if has_changed:
            self._rests_until = loop.time() + _REST
            on_change()

    def _selected(self, reading: Reading) -> Iterator[str]:
        """The addresses on which node ports are."""
        if self.node_ports.is_primary:
            self._report(() if reading.primary else ("primary",), reading)
            yield from reading.primary
            return
        unused = dict.fromkeys(self.node_ports.networks)
        for text in reading.local:
            address = ipaddress.ip_address(text)
            allowed = [each for each in self.node_ports.networks if each.version == address.version]
            matching = [each for each in allowed if address in each]
            for each in matching:
                unused.pop(each, None)
            if matching or not allowed:
                yield text
        self._report(tuple(map(str, unused)), reading)

    def _report(self, unmatched: tuple[str, ...], reading: Reading) -> None:
        """Warn, once for each change, of networks in --nodeport-addresses without an address."""
        if unmatched and unmatched != self._unmatched:
            _log.warning(
                "no address of this node is in some of --nodeport-addresses: "
                "they have no node ports; correct the flag, or give the node such an address",
                unmatched=list(unmatched),
                node_addresses=list(reading.local),
            )
        self._unmatched = unmatched


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn an error of the kernel into a KproxyError with advice."""
    try:
        yield
    except OSError as error:
        raise errors.KproxyError(
            f"cannot read the addresses of this node: {errors.reason(error)}; the portal needs "
            "netlink sockets, so allow them, or run with --portal loopback"
        ) from None


def _networks(own: Iterable[str], more: Iterable[portal.Network]) -> list[portal.Network]:
    """The networks of clients on this node. All of loopback is one, not the addresses it has."""
    near = (*map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")), *more)
    return list(dict.fromkeys((*near, *map(ipaddress.ip_network, own))))


def _netlink(groups: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    return made


def _local_addresses(kernel: socket.socket) -> list[str]:
    """The addresses that clients can connect to, in the kernel's order. Raises OSError."""
    kernel.settimeout(1.0)
    while True:
        # Nothing is listed twice or left out, unless the addresses changed meanwhile.
        found, is_consistent = _dumped(kernel)
        if is_consistent:
            return found


def _dumped(kernel: socket.socket) -> tuple[list[str], bool]:
    """The addresses of one dump, and whether they are of one moment."""
    kernel.send(
        _HEADER.pack(_HEADER.size + _ADDRESS.size, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
        + _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    )
    usable: dict[int, bool] = {}
    found: list[str] = []
    is_consistent = True
    while True:
        answer = memoryview(kernel.recv(65536))
        while answer:
            length, kind, flags, _, _ = _HEADER.unpack_from(answer)
            message, answer = answer[_HEADER.size : length], answer[_aligned(length) :]
            is_consistent = is_consistent and not flags & _NLM_F_DUMP_INTR
            if kind == _NLMSG_DONE:
                return found, is_consistent
            if kind == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", message)[0]
                raise OSError(number, "the kernel does not list addresses")
            if kind == _RTM_NEWADDR and (address := _address(message, usable)):
                found.append(address)


def _address(message: memoryview, usable: dict[int, bool]) -> str:
    """The address that a message is about; "" if it is not for clients.

    `usable` has what is known of interfaces by their index.
    """
    family, _, flags, scope, index = _ADDRESS.unpack_from(message)
    if scope == _RT_SCOPE_LINK or family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    if flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED):
        return ""
    if index not in usable:
        usable[index] = _is_usable(index)
    if not usable[index]:
        return ""
    attributes = dict(_attributes(message[_ADDRESS.size :]))
    # On a point-to-point link, IFA_ADDRESS is the other end.
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is None:
        return ""
    parsed = addresses.parse(socket.inet_ntop(family, packed))
    uses = (addresses.Use.ORDINARY, addresses.Use.LOOPBACK)
    return parsed.text if parsed is not None and parsed.use in uses else ""


def _attributes(rest: memoryview) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        yield kind, bytes(rest[_ATTRIBUTE.size : length])
        rest = rest[_aligned(length) :]


def _aligned(length: int) -> int:
    return max(length + 3 & ~3, 4)


def _is_usable(index: int) -> bool:
    """Whether the addresses of an interface can be bound, and are the node's own."""
    try:
        name = socket.if_indextoname(index)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, name.encode().ljust(40, b"\0"))
    except OSError:  # it has gone
        return False
    flags: int = struct.unpack_from("=H", answer, 16)[0]
    return bool(flags & _IFF_UP) and name != _KUBE_PROXYS_INTERFACE


def _source(family: addresses.Family) -> str:
    """The address from which this node connects to others by its default route; "" for none."""
    is_ipv6 = family is addresses.Family.IPV6
    try:
        with socket.socket(
            socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM
        ) as probe:
            if is_ipv6:
                probe.setsockopt(
                    socket.IPPROTO_IPV6, _IPV6_ADDR_PREFERENCES, _IPV6_PREFER_SRC_PUBLIC
                )
            probe.connect((_SOMEWHERE[family], 9))
            address: str = probe.getsockname()[0]
            return address
    except OSError:
        return ""
