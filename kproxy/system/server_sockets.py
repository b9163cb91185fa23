"""Sockets that listen at an address which the user has named."""

import socket


def listen(place: tuple[str, int], backlog: int) -> socket.socket:
    """A socket that listens for TCP at an IP address and a port. The caller closes it.

    `::` takes IPv4 as well where the system can, as Go's listeners do; another address takes only
    its own family. The kernel picks port 0. Raises OSError; `errors.reason` has the words of it.
    """
    host, _ = place
    return socket.create_server(
        place,
        family=socket.AF_INET6 if ":" in host else socket.AF_INET,
        backlog=backlog,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
    )
