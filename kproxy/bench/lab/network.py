"""Addresses: parse them, find free ones, and read from /proc which have a listener."""

import contextlib
import random
import socket
from pathlib import Path
from typing import IO, NamedTuple

from kproxy import errors

_LISTEN = "0A"  # TCP_LISTEN in the `st` column of /proc/net/tcp


class Address(NamedTuple):
    """An IPv4 address and a TCP port, as sockets take them."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """HOST:PORT. Raises ConfigError for anything but an IPv4 address and a port."""
    host, _, port = text.rpartition(":")
    try:
        socket.inet_aton(host)
        number = int(port)
    except (OSError, ValueError):
        number = -1
    if not 0 < number < 1 << 16 or host.count(".") != 3:
        raise errors.ConfigError(f"{text!r} is no address: write IPV4:PORT, as in 127.0.0.1:8080")
    return Address(host, number)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free on `host` now, outside the range of outgoing connections.

    A port inside that range could be taken by a client between the choice and the bind. Raises
    KproxyError when there is none.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(1000):
        port = random.randrange(10000, max(ephemeral, 10001))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise errors.KproxyError(f"no free port found on {host}; end what occupies them and try again")


def free_addresses(count: int, host: str = "127.0.0.1") -> tuple[Address, ...]:
    """`count` different free addresses on `host`; see `free_port`."""
    chosen: set[int] = set()
    while len(chosen) < count:
        chosen.add(free_port(host))
    return tuple(Address(host, port) for port in chosen)


def is_listening(address: Address, pid: int | str = "self") -> bool:
    """Whether any process listens on exactly this address (not on a wildcard).

    In the network namespace of process `pid`. Read from /proc, so that no connection is made.
    """
    packed = int.from_bytes(socket.inet_aton(address.host), "little")
    wanted = f"{packed:08X}:{address.port:04X}"
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/net/tcp").open() as table:
        next(table)
        return _has_listener(table, wanted)
    return False


def _has_listener(table: IO[str], wanted: str) -> bool:
    for line in table:
        _, local, _, state, *_ = line.split(maxsplit=4)
        if state != _LISTEN:
            return False  # listeners come first; tens of thousands of TIME_WAITs may follow
        if local == wanted:
            return True
    return False
