"""Where clients reach a Service: what its portal says, in each family."""

import pytest

from kproxy import errors
from kproxy.dns import located
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import services
from kproxy.portal import loopback, portal
from tests.dns.rig import lab

PORT = services.ServicePort("http", names.Protocol.TCP, 80)


class Everywhere(loopback.LoopbackPortal):
    """Serves both families at their own addresses, as the local portal does."""

    @property
    def families(self) -> frozenset[addresses.Family]:
        return frozenset(addresses.Family)

    def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        if frontend.address == "10.96.0.9":
            raise errors.PortalRefusedError("it is another server's")
        return forwarding.PortalAddress(frontend.address, frontend.port, frontend.protocol)


def service(**more: bool) -> services.Service:
    name = names.NamespacedName("default", "web")
    kind = services.ServiceType.CLUSTER_IP
    return services.Service(name, kind, "10.96.0.7", (PORT,), **more)  # type: ignore[arg-type]  # fields


@pytest.mark.parametrize(
    ("through", "ip", "expected"),
    [
        (loopback.LoopbackPortal(1), "10.96.0.7", ("127.96.0.7", 80)),
        (loopback.LoopbackPortal(1024), "10.96.0.7", ("127.96.0.7", 10080)),
        (loopback.LoopbackPortal(1), "fd00::7", None),
        (Everywhere(1), "10.96.0.7", ("10.96.0.7", 80)),
        (Everywhere(1), "fd00::7", ("fd00::7", 80)),
        (Everywhere(1), "10.96.0.9", None),
    ],
)
def test_where(through: portal.Portal, ip: str, expected: tuple[str, int] | None) -> None:
    assert located.through(lab.of(through))(service(), PORT, ip) == expected


def test_what_another_proxy_serves_is_at_its_own_address() -> None:
    elsewhere = service(proxied_elsewhere=True)

    assert located.through(lab.of(loopback.LoopbackPortal(1)))(elsewhere, PORT, "10.96.0.7") == (
        "10.96.0.7",
        80,
    )


def test_a_port_that_another_service_has_is_nowhere() -> None:
    taken = located.through(lambda *_: None)

    assert taken(service(), PORT, "10.96.0.7") is None
