"""Where clients reach Services: at the addresses that the proxy serves, not at those of the API."""

from kproxy import errors
from kproxy.dns import zone
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import services
from kproxy.portal import portal


def through(used: portal.Portal) -> zone.Located:
    """What says at which address and port a portal has a cluster IP: the Proxier asks it too.

    Whether anything listens there yet does not matter. A Service that another proxy serves is
    reached at its cluster IP itself.
    """

    def located(
        service: services.Service, port: services.ServicePort, ip: str
    ) -> addresses.SocketAddress | None:
        if service.proxied_elsewhere:
            return addresses.SocketAddress(ip, port.port)
        family = addresses.family(ip)
        if family not in used.families:
            return None
        kind = forwarding.FrontendKind.CLUSTER_IP
        frontend = forwarding.Frontend(kind, ip, port.port, protocol=port.protocol, family=family)
        try:
            return used.locate(frontend).socket_address
        except (errors.PortalUnavailableError, errors.PortalRefusedError):
            return None

    return located
