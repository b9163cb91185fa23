"""Where clients reach Services: at the addresses that the proxy serves, not at those of the API."""

from kproxy.dns import zone
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import services
from kproxy.portal import portal


def through(locate: portal.Locate) -> zone.Located:
    """What says at which address and port clients reach a cluster IP of a Service.

    `locate` is the Proxier's. A Service that another proxy serves is reached at its cluster IP
    itself.
    """

    def located(
        service: services.Service, port: services.ServicePort, ip: str
    ) -> addresses.SocketAddress | None:
        if service.proxied_elsewhere:
            return addresses.SocketAddress(ip, port.port)
        family = addresses.family(ip)
        kind = forwarding.FrontendKind.CLUSTER_IP
        frontend = forwarding.Frontend(kind, ip, port.port, protocol=port.protocol, family=family)
        place = locate(names.ServicePortName(service.name, port.name, port.protocol), frontend)
        return place.socket_address if place is not None else None

    return located
