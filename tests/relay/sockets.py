"""The kernel's table of TCP sockets in this network namespace, as far as the suite looks."""

import dataclasses
import ipaddress
import pathlib
import socket
from typing import Final

SYN_SENT: Final = 0x02
_TIME_WAIT: Final = 0x06
_LISTEN: Final = 0x0A
_NAMES: Final = (
    "?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One socket."""

    local: tuple[str, int]
    remote: tuple[str, int]
    state: int
    inode: int

    @property
    def is_open(self) -> bool:
        """Whether a process holds it as one end of a connection."""
        return self.inode != 0 and self.state != _LISTEN

    @property
    def state_name(self) -> str:
        """The state as `ss` would call it."""
        return _NAMES[self.state] if self.state < len(_NAMES) else str(self.state)


def table() -> list[Entry]:
    """Read /proc/net/tcp and tcp6, without sockets in TIME_WAIT, which no process holds."""
    entries = []
    for name in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            state = int(fields[3], 16)
            if state != _TIME_WAIT:
                ends = _address(fields[1]), _address(fields[2])
                entries.append(Entry(*ends, state, int(fields[9])))
    return entries


def has_listener(entries: list[Entry], address: tuple[str, int]) -> bool:
    """Whether one of `entries` listens where `address` leads."""
    places = {("0.0.0.0", address[1]), ("::", address[1]), address}
    return any(entry.state == _LISTEN and entry.local in places for entry in entries)


def _address(text: str) -> tuple[str, int]:
    host, port = text.split(":")
    words = bytes.fromhex(host)
    packed = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), int(port, 16)
    plain = ipaddress.IPv6Address(packed)
    return str(plain.ipv4_mapped or plain), int(port, 16)
