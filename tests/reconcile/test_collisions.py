"""What the log says of an address that several Services want."""

import structlog.testing

from kproxy.model import forwarding, names
from kproxy.portal import claims
from kproxy.reconcile import collisions
from tests.reconcile import builders


def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    address = forwarding.PortalAddress("fd00::7", 80)
    frontend = forwarding.Frontend(forwarding.FrontendKind.CLUSTER_IP, "fd00::7", 80)
    winner, loser = (
        claims.Claim("", names.ServicePortName(builders.named(name), ""), frontend)
        for name in ("a", "b")
    )
    with structlog.testing.capture_logs() as lines:
        for _ in collisions.Collisions().report(address, winner, [loser]):
            pass
    (line,) = lines
    assert (line["service"], line["address"]) == ("default/b", "[fd00::7]:80")
