"""Notices when others remove routes of the portal, and makes them again.

A network manager that starts anew may remove routes that it does not know, and people flush tables.
The kernel removes the IPv6 ones when `lo` goes down.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
import struct
import sys

import structlog

from kproxy import errors, turns
from kproxy.portal import portal
from kproxy.portal.local import routes
from kproxy.system import socket_filters

_log = structlog.get_logger(__name__)

_PAUSE = 0.1
"""Seconds between a notification and the repair; further notifications are waited for."""
_REST = 1.0
"""Seconds from one repair to the next: another program may remove the routes again and again."""
_MOST_NAMED = 5

# include/uapi/linux/netlink.h, rtnetlink.h
_HEADER_SIZE = 16
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTM_DELROUTE = 25
_RTA_DST = 1
_RTMGRP_IPV4_ROUTES, _RTMGRP_IPV6_ROUTES = 0x40, 0x400
_TABLE_LOCAL = 255

# include/uapi/linux/bpf_common.h
_LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL = 0x28, 0x30, 0x15


def _filter() -> bytes:
    """A socket filter that lets removals of local routes pass: a router has many other changes.

    Classic BPF loads numbers as the network has them, netlink has them as the host does.
    """
    step = socket_filters.INSTRUCTION.pack
    removal = int.from_bytes(_RTM_DELROUTE.to_bytes(2, sys.byteorder), "big")
    return b"".join(
        (
            step(_LOAD_HALF, 0, 0, 4),
            step(_JUMP_IF_EQUAL, 0, 3, removal),
            step(_LOAD_BYTE, 0, 0, _HEADER_SIZE + 4),
            step(_JUMP_IF_EQUAL, 0, 1, _TABLE_LOCAL),
            step(socket_filters.RETURN, 0, 0, 0xFFFFFFFF),
            socket_filters.DROP_ALL,
        )
    )


class RouteWatch:
    """Repairs `watched` on the running event loop, from `follow` to `close`.

    Owns a netlink socket in between.
    """

    def __init__(self, watched: routes.Routes) -> None:
        self._routes = watched
        self._kernel: socket.socket | None = None
        self._lost: set[portal.Network] = set()
        self._is_all_lost = False
        self._repair: asyncio.Task[None] | None = None

    def follow(self) -> None:
        """Begin. Raises OSError when there are no netlink sockets."""
        self.close()
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            socket_filters.attach(made, _filter())
            made.settimeout(0)
            made.bind((0, _RTMGRP_IPV4_ROUTES | _RTMGRP_IPV6_ROUTES))
        except OSError:
            made.close()
            raise
        self._kernel = made
        asyncio.get_running_loop().add_reader(made, self._hear)

    def close(self) -> None:
        """Stop, and close the socket. A second call does nothing."""
        if self._repair is not None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed already
                self._repair.cancel()
            self._repair = None
        if self._kernel is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._kernel)
            self._kernel.close()
            self._kernel = None

    def _hear(self) -> None:
        assert self._kernel is not None
        for _ in range(64):  # the rest comes with the loop's next turn
            try:
                self._note(self._kernel.recv(65536))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._is_all_lost = True  # some notifications were
        if self._repair is None and (self._lost or self._is_all_lost):
            self._repair = asyncio.get_running_loop().create_task(self._restore())

    def _note(self, notification: bytes) -> None:
        network = _destination(notification[_HEADER_SIZE:])
        if network is not None and self._routes.wants(network):
            self._lost.add(network)

    async def _restore(self) -> None:
        has_failed = False
        while self._lost or self._is_all_lost:
            await asyncio.sleep(_PAUSE)
            lost = None if self._is_all_lost else self._lost
            self._lost, self._is_all_lost = set(), False
            made: list[portal.Network] = []
            try:
                await turns.in_slices(map(made.extend, self._routes.restore(lost)))
            except OSError as error:
                if not has_failed:
                    _log.error("cannot make routes again, retrying", reason=errors.reason(error))
                has_failed = True
                self._lost.update(lost or ())
                self._is_all_lost = self._is_all_lost or lost is None
            if made:
                _log.warning(
                    "another program removed routes of this proxy: they are made again",
                    routes=len(made),
                    first=list(map(str, made[:_MOST_NAMED])),
                )
            await asyncio.sleep(_REST)
        self._repair = None


def _destination(body: bytes) -> portal.Network | None:
    """Where the route led that a notification is about; None for a default route."""
    length = _ROUTE.unpack_from(body)[1]
    packed = _attribute(body[_ROUTE.size :], _RTA_DST)
    return None if packed is None else ipaddress.ip_network((packed, length))


def _attribute(rest: bytes, wanted: int) -> bytes | None:
    while len(rest) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(rest)
        if kind == wanted:
            return rest[_ATTRIBUTE.size : length]
        rest = rest[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return None
