"""The loopback portal: every virtual address lives in 127/8, so nothing needs privileges.

ClusterIP a.b.c.d is bound as 127.b.c.d on the same port: 10.96.0.10:53 is 127.96.0.10:53. All
of 127/8 belongs to the loopback interface and any user may bind it; so may external and
load-balancer addresses be, which cannot capture anyone's traffic there (CVE-2020-8554). A port
below `net.ipv4.ip_unprivileged_port_start` that this process may not bind is moved up by 10000.
"""

from pathlib import Path

from kproxy import errors
from kproxy.model import endpoints, forwarding

PORT_SHIFT = 10000
_NODE_ADDRESS = "127.0.0.1"
_CAP_NET_BIND_SERVICE = 10


class LoopbackPortal:
    """Maps frontends into 127/8. Pure: `shift_below` is the first port that may be bound."""

    def __init__(self, shift_below: int) -> None:
        self._shift_below = shift_below

    def locate(self, frontend: forwarding.Frontend) -> endpoints.Backend:
        """The address and port that `frontend` is bound to.

        Raises PortalUnavailableError for an IPv6 address: ::1 is the only one on loopback.
        """
        port = frontend.port
        if port < self._shift_below:
            port += PORT_SHIFT
        if frontend.kind is forwarding.FrontendKind.NODE_PORT:
            return endpoints.Backend(_NODE_ADDRESS, port)
        # As text: admission has checked it, and this is done four times for each frontend.
        _, dot, rest = frontend.address.partition(".")
        if not dot:
            raise errors.PortalUnavailableError(
                f"{frontend.address} cannot be mapped into 127.0.0.0/8: "
                "give the Service an IPv4 ClusterIP to reach it through the loopback portal"
            )
        return endpoints.Backend(f"127.{rest}", port)


def first_bindable_port(proc: Path = Path("/proc")) -> int:
    """The lowest port this process may bind: 1 with CAP_NET_BIND_SERVICE, else the sysctl's."""
    try:
        status = (proc / "self/status").read_text()
        effective = int(status.split("CapEff:")[1].split()[0], 16)
        if effective >> _CAP_NET_BIND_SERVICE & 1:
            return 1
        return int((proc / "sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError, IndexError):
        return 1024
