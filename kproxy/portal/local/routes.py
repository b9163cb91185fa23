"""Local routes, which make this host accept packets for virtual addresses.

A route of type `local` on the loopback device makes every address of a network this host's own
(AnyIP): clients here reach it, and packets from other hosts are accepted. Each route carries
kproxy's own protocol number, as routes of routing daemons carry theirs. So the routes of an earlier
kproxy are recognised and removed, and no other routes are: the kernel compares the number when it
removes a route.

On IPv4 the kernel would let a client on this host connect *from* the virtual address itself. A
preferred source, an address of the node, prevents that, as with kube-proxy.

pyroute2 encodes and decodes the messages. The socket is our own, because pyroute2's runs an event
loop, which is impossible inside a running one. No other module imports pyroute2: it takes 0.3 s.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from pyroute2.netlink.rtnl.rtmsg import rtmsg

from kproxy.portal import portal
from kproxy.portal.local import in_use

PROTOCOL = 75
"""`proto 75` in `ip route show table local`: unused in iproute2's and systemd's lists."""

_LOOPBACK_DEVICE = 1
"""The index of `lo`, in every network namespace."""

# include/uapi/linux/netlink.h, rtnetlink.h
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_TABLE_LOCAL = 255
_TYPE_LOCAL = 2
_SCOPE_HOST = 254
_HEADER = struct.Struct("=IHHII")
_CODE = struct.Struct("=i")

_NOTHING_THERE = frozenset({errno.ESRCH, errno.ENOENT})


class Routes:
    """The routes of one portal: those of `networks` from `open` on, others as they are needed.

    Owns a netlink socket. `close` removes the routes, and nothing but them.
    """

    def __init__(self, networks: Iterable[portal.Network] = ()) -> None:
        """Raises OSError when there are no netlink sockets."""
        self._networks = tuple(networks)
        self._covered = tuple(map(_numbers, self._networks))
        self._held: dict[str, int] = {}
        self._ours: set[portal.Network] = set()
        self._leaving: dict[portal.Network, None] = {}
        self._source = ""
        self._host: frozenset[str] = frozenset()
        self._number = 0
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._kernel.settimeout(5.0)
        self._kernel.bind((0, 0))
        # Without it the kernel does not filter what it lists: a router has a million routes.
        self._kernel.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def sweep(self) -> int:
        """Remove every route with kproxy's protocol number; returns how many there were.

        Raises OSError: EPERM without CAP_NET_ADMIN, whether there are any or not. One that does
        not lead to `lo` is no kproxy's, and stays.
        """
        self._ask(_RTM_DELROUTE, ipaddress.ip_network("192.0.2.0/32"))
        removed = 0
        for family in (socket.AF_INET, socket.AF_INET6):
            before: list[portal.Network] = []
            # Again, because one that changes meanwhile may be left out of a list.
            while (found := list(self._list(family))) != before:
                for network in found:
                    self._ask(_RTM_DELROUTE, network)
                removed += len(found)
                before = found
            removed -= len(found)
        return removed

    def follow(self, host: Iterable[str], source: str) -> None:
        """Adjust all routes to the host's own addresses, which need no route, and to `source`.

        `source` is the IPv4 address from which clients on this host connect, "" for none.
        Raises OSError after it has tried everything.
        """
        self._host = frozenset(host)
        flag = _EXCLUSIVE if source == self._source else _REPLACE
        self._source = source
        wanted = self._wanted()
        for network in sorted(self._ours - wanted, key=str):
            self._remove(network)
        failure: OSError | None = None
        for network in sorted(wanted, key=str):
            try:
                if network not in self._ours:
                    self._add(network)
                else:
                    # A preferred source that leaves may take routes along (fib_sync_down_addr).
                    self._put(network, flag)
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def wants(self, network: portal.Network) -> bool:
        """Whether it needs a route."""
        if network in self._networks or network in self._leaving:
            return True
        address = str(network.network_address)
        is_host = network.prefixlen == network.max_prefixlen
        return is_host and address in self._held and self._needs_route(address)

    def restore(
        self, lost: Iterable[portal.Network] | None = None
    ) -> Iterator[Sequence[portal.Network]]:
        """Make the routes to `lost` again, or to all, that others have removed.

        Yields after each network: itself if its route was missing, else nothing. Raises OSError
        after it has tried everything.
        """
        failure: OSError | None = None
        for network in sorted(self._wanted() if lost is None else lost, key=str):
            is_made = False
            try:
                is_made = self.wants(network) and self._put(network, _EXCLUSIVE)
            except OSError as error:
                failure = error
            if is_made:
                self._ours.add(network)
            yield (network,) if is_made else ()
        if failure is not None:
            raise failure

    def cover(self, networks: Sequence[portal.Network]) -> Iterator[None]:
        """Let `networks` be those that are always routed, in place of those before.

        Addresses that are held are routed all the while: by the route of a network, or by one each.
        A network whose route cannot be made covers nothing. The route of one that is left out
        stays while connections are open there, see `settle`. Yields after each change. Raises
        OSError after it has tried everything.
        """
        failure: OSError | None = None
        before, made = set(self._networks), []
        for network in dict.fromkeys(networks):
            try:
                if network not in self._ours:
                    self._add(network)
                made.append(network)
            except OSError as error:
                failure = error
            yield
        self._networks = tuple(made)
        self._covered = tuple(map(_numbers, made))
        for network in made:
            self._leaving.pop(network, None)
        for address in list(self._held) if before.difference(made) else ():
            network = ipaddress.ip_network(address)
            if address in self._held and network not in self._ours and self._needs_route(address):
                try:
                    self._add(network)
                except OSError as error:
                    failure = error
                yield
        self._leaving.update(dict.fromkeys(before.difference(made).intersection(self._ours)))
        for network in self._ours.difference(made):
            is_host = network.prefixlen == network.max_prefixlen
            if is_host and self.covers(str(network.network_address)):
                self._leaving.pop(network, None)
                self._remove(network)
                yield
        if failure is not None:
            raise failure

    def covers(self, address: str) -> bool:
        """Whether a network that is always routed contains `address`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # As a number: thousands of addresses are asked about, and the library takes 20 us for each.
        number = int.from_bytes(socket.inet_pton(family, address), "big")
        return any(number & mask == first for of, mask, first in self._covered if of is family)

    def hold(self, address: str) -> None:
        """Count one more frontend at `address`, and make its route if need be. Raises OSError."""
        count = self._held.get(address, 0)
        if not count and self._needs_route(address):
            self._add(ipaddress.ip_network(address))
        self._held[address] = count + 1

    def let_go(self, address: str) -> None:
        """Count one frontend less at `address`; the last removes its route. Raises OSError.

        While connections are open there, its route stays: `settle` removes it later.
        """
        self._held[address] = left = self._held.get(address, 0) - 1
        if left <= 0:
            del self._held[address]
            network = ipaddress.ip_network(address)
            if network in self._ours and network not in self._networks:
                self._leaving[network] = None
                self.settle()

    def settle(self) -> bool:
        """Remove the routes of addresses that are no longer held, and of networks that are left
        out, where no connection is open.

        Returns whether some are left. Raises OSError.
        """
        for network in list(self._leaving):
            is_host = network.prefixlen == network.max_prefixlen
            is_held = is_host and str(network.network_address) in self._held
            if is_held or not in_use.is_in_use(network):
                del self._leaving[network]
                if not is_held:
                    self._remove(network)
        return bool(self._leaving)

    def close(self) -> None:
        """Remove the routes. Raises OSError after it has tried all of them."""
        failure: OSError | None = None
        for network in sorted(self._ours, key=str):
            try:
                self._remove(network)
            except OSError as error:
                failure = error
        self._held.clear()
        self._kernel.close()
        if failure is not None:
            raise failure

    def _wanted(self) -> set[portal.Network]:
        """Every network that needs a route."""
        held = (ipaddress.ip_network(each) for each in self._held if self._needs_route(each))
        return {*self._networks, *self._leaving, *held}

    def _needs_route(self, address: str) -> bool:
        is_host = address in self._host or address.startswith("127.") or address == "::1"
        return not is_host and not self.covers(address)

    def _add(self, network: portal.Network) -> None:
        if self._put(network, _EXCLUSIVE):
            self._ours.add(network)

    def _put(self, network: portal.Network, flag: int) -> bool:
        """Make one route; False if another program's makes the network local already."""
        number = self._ask(_RTM_NEWROUTE, network, _CREATE | flag, self._source)
        if number == errno.EINVAL and self._source:  # the source has gone; `follow` comes soon
            number = self._ask(_RTM_NEWROUTE, network, _CREATE | flag, "")
        if number == errno.EEXIST:
            return False
        if number:
            raise OSError(number, f"cannot add a local route for {network}: {os.strerror(number)}")
        return True

    def _remove(self, network: portal.Network) -> None:
        self._ours.discard(network)
        self._ask(_RTM_DELROUTE, network)

    def _ask(self, kind: int, network: portal.Network, flags: int = 0, source: str = "") -> int:
        """Send one request; returns the error's number, 0 if there is none.

        A missing route to remove is no error. Raises OSError for EPERM.
        """
        message = self._message(kind, network.version == 6, flags | _ACK)
        message["dst_len"] = network.prefixlen
        message["type"] = _TYPE_LOCAL
        message["scope"] = _SCOPE_HOST if network.version == 4 else 0
        attributes = [
            ("RTA_DST", str(network.network_address)),
            ("RTA_OIF", _LOOPBACK_DEVICE),
        ]
        if source and network.version == 4:
            attributes.append(("RTA_PREFSRC", source))
        message["attrs"] = attributes
        number = 0
        for kind_of_answer, body in self._answers(message):
            if kind_of_answer == _ERROR:
                number = -_CODE.unpack_from(body)[0]
        if number == errno.EPERM:
            raise OSError(number, os.strerror(number))
        return 0 if kind == _RTM_DELROUTE and number in _NOTHING_THERE else number

    def _list(self, family: int) -> Iterator[portal.Network]:
        """The local routes with kproxy's protocol number."""
        message = self._message(_RTM_GETROUTE, family == socket.AF_INET6, _DUMP)
        for kind, body in self._answers(message):
            if kind != _RTM_NEWROUTE:
                continue
            found = rtmsg(_HEADER.pack(_HEADER.size + len(body), kind, 0, 0, 0) + body)
            found.decode()
            if (found["proto"], found["table"], found["type"]) != (
                PROTOCOL,
                _TABLE_LOCAL,
                _TYPE_LOCAL,
            ) or found.get_attr("RTA_OIF") != _LOOPBACK_DEVICE:
                continue
            anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104
            start = found.get_attr("RTA_DST") or anywhere
            yield ipaddress.ip_network(f"{start}/{found['dst_len']}")

    def _message(self, kind: int, is_ipv6: bool, flags: int) -> rtmsg:  # noqa: FBT001
        message = rtmsg()
        self._number += 1
        message["header"]["type"] = kind
        message["header"]["flags"] = _REQUEST | flags
        message["header"]["sequence_number"] = self._number
        message["family"] = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        message["table"] = _TABLE_LOCAL
        message["proto"] = PROTOCOL
        return message

    def _answers(self, message: rtmsg) -> Iterator[tuple[int, bytes]]:
        """Send a request; the kind and the body of each answer up to the last. Raises OSError."""
        message.encode()
        self._kernel.send(message.data)
        while True:
            data = self._kernel.recv(1 << 17)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _, number, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += max(length + 3 & ~3, _HEADER.size)
                if number != self._number:  # the answer to an abandoned request
                    continue
                yield kind, body
                if kind in (_ERROR, _DONE):
                    return


def _numbers(network: portal.Network) -> tuple[socket.AddressFamily, int, int]:
    """The family, mask and first address of a network, to compare addresses with."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return family, int(network.netmask), int(network.network_address)
