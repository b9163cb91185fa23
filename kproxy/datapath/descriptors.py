"""How the descriptors of a process are shared out: among listeners, connections and flows.

The limits that follow are what keeps accept(2) from ever meeting EMFILE (HAProxy's `maxconn`).
Pure; `open_files` is RLIMIT_NOFILE.
"""

from kproxy import errors

_RESERVED = 128
"""Descriptors kept for everything that is neither client nor listener: logs, surfaces, watches,
probes, the ready file. Where there are few, a quarter of them, and at least `_LEAST_RESERVED`."""
_LEAST_RESERVED = 48
_LEAST_CONNECTIONS = 64
"""Connections that must stay possible beside the listeners that are asked for."""
_LEAST_FLOWS = 16
"""Flows of UDP that stay possible beside the connections that are asked for."""
_MOST_RESTING = 128
"""Sockets of flows that rest between two flows."""


def connection_limit(open_files: int, listeners: int, flows: int = 0) -> int:
    """How many connections there may be: two descriptors each, and pipes for one in sixteen.

    Listeners take one each, and so do `flows` of datagrams, as many as there may be, and sockets
    that rest between two flows.
    """
    return max((free(open_files) - listeners - flows) // 2, 1)


def flow_limit(
    open_files: int, listeners: int, connections: int | None, ephemeral_ports: range
) -> int:
    """How many flows of datagrams there may be: one descriptor each, and a port of this host.

    A quarter of the descriptors that `listeners` leave and half of the ephemeral ports, whichever
    is less. If `connections` are asked for, flows leave room for all of them.
    """
    left = free(open_files) - listeners
    most = min(left // 4, len(ephemeral_ports) // 2)
    return max(min(most, left - 2 * (connections or 0)), _LEAST_FLOWS)


def resting_limit(open_files: int, listeners: int, connections: int | None, flows: int) -> int:
    """How many sockets may rest between two of as many `flows` as there may be.

    No more than flows, and an eighth of what listeners, flows, and `connections` that are asked
    for, leave.
    """
    left = free(open_files) - listeners - flows - 2 * (connections or 0)
    return max(min(_MOST_RESTING, flows, left // 8), 0)


def listener_limit(open_files: int, connections: int | None = None) -> int:
    """How many listeners there may be: three quarters of the descriptors that are free.

    If `connections` are asked for, listeners leave room for all of them.
    """
    left = free(open_files)
    return max(min(left * 3 // 4, left - 2 * (connections or 0)), 1)


def pipe_limit(open_files: int) -> int:
    """How many pipes (two descriptors each) splice may hold at once."""
    return max(min(open_files // 64, 256), 1)


def free(open_files: int) -> int:
    """The descriptors that are left for clients and listeners."""
    reserved = min(_RESERVED, max(open_files // 4, _LEAST_RESERVED))
    return open_files - reserved - 2 * pipe_limit(open_files)


def check(
    open_files: int,
    *,
    connections: int | None = None,
    listeners: int | None = None,
    flows: int | None = None,
) -> None:
    """Refuse limits that the open files cannot carry, rather than fail under load.

    None stands for a limit that is not asked for. Raises ConfigError (HAProxy's `strict-limits`).
    """
    possible = connection_limit(open_files, 0)
    if connections is not None and connections > possible:
        raise errors.ConfigError(
            f"{connections} connections need more than the {open_files} files this process may "
            f"open, which carry {possible}: raise the limit (ulimit -n) or ask for fewer"
        )
    left = free(open_files)
    if flows is not None and flows > left - 2 * min(connections or 0, left // 2 - 1) - 2:
        raise errors.ConfigError(
            f"--max-udp-flows {flows}: the {open_files} files this process may open do not carry "
            "so many: raise the limit (ulimit -n) or ask for fewer"
        )
    if listeners is None:
        return
    beside = connections if connections is not None else min(_LEAST_CONNECTIONS, left // 8)
    possible = max(left - 2 * beside, 1)
    if listeners > possible:
        raise errors.ConfigError(
            f"--max-listeners {listeners}: beside {beside} connections the {open_files} files this "
            f"process may open carry {possible} listeners: raise the limit (ulimit -n) or ask for "
            "fewer"
        )
