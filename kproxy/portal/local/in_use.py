"""Does some TCP connection of this host have its own address in a network?

A local route that is removed takes the packets of open connections away, which hang then. The
kernel is asked (sock_diag), for it alone knows; it filters by the network, so the answer is short.
"""

import errno
import ipaddress
import socket
import struct

# include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h
_NETLINK_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
"""Family, protocol, extensions, states; any pair of addresses."""
_ATTRIBUTE = struct.Struct("=HH")
_BYTECODE = 1
_OPERATION = struct.Struct("=BBH")
"""Code, where to go on if it holds, and if not; as distances in bytes."""
_SOURCE_IS = 7
_HOST = struct.Struct("=BBxxi")
"""Family, length of the prefix, port; the address follows."""
_ANY_PORT = -1

_OPEN = (1, 4, 5, 8, 9, 11)
"""Numbers of states in include/net/tcp_states.h: all but those before and after a connection."""


def is_in_use(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    """Whether a connection is open at an address in `network`. Raises OSError."""
    family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
    packed = network.network_address.packed
    condition = _HOST.pack(family, network.prefixlen, _ANY_PORT) + packed
    length = _OPERATION.size + len(condition)
    # Beyond the end, which is 4 bytes further, means no.
    bytecode = _OPERATION.pack(_SOURCE_IS, length, length + 4) + condition
    states = sum(1 << each for each in _OPEN)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(bytecode), _BYTECODE) + bytecode
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        size = _HEADER.size + len(body)
        kernel.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST_DUMP, 1, 0) + body)
        answer = kernel.recv(1 << 16)
        _, kind, *_ = _HEADER.unpack_from(answer)
        if kind == _ERROR:
            number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
            raise OSError(number or errno.EIO, "the kernel does not list connections")
        return bool(kind != _DONE)
