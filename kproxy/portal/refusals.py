"""Addresses that no Service gets: serving them could take traffic from their rightful server.

A Service's author writes its addresses. The API server chooses ClusterIPs, a load balancer's
controller writes ingress IPs; external IPs are as the author likes (CVE-2020-8554). The rules for
all of them are those of `ValidateNonSpecialIP`, and what the operator allows.
"""

import ipaddress

from kproxy import errors
from kproxy.model import addresses, forwarding
from kproxy.model.kinds import endpoint_rules
from kproxy.portal import portal

_KINDS = forwarding.FrontendKind


class Refusals:
    """The rules that the operator's settings make."""

    def __init__(self, settings: portal.Settings) -> None:
        self._external_ips = settings.external_ips
        self._allow_loopback = settings.allow_loopback
        self._reserved_hosts = frozenset(each.address for each in settings.reserved)

    def check_external(self, kind: forwarding.FrontendKind, text: str) -> None:
        """Refuse an address from outside the cluster that its author may not have chosen.

        Raises PortalRefusedError.
        """
        address = ipaddress.ip_address(text)
        allowed = self._external_ips
        if kind is _KINDS.EXTERNAL_IP and not any(address in each for each in allowed):
            raise errors.PortalRefusedError(
                f"external IP {text} is not in --external-ip-cidrs, which says which ones are "
                f"served; add {text}/{address.max_prefixlen} to serve it"
            )
        self.check_use(text, allow_loopback=self._allow_loopback)
        self.check_api_server(text)

    def check_use(self, text: str, *, allow_loopback: bool) -> None:
        """Refuse an address that cannot be that of one host to others.

        Raises PortalRefusedError.
        """
        parsed = addresses.parse(text)
        use = parsed.use if parsed else "unreadable"
        if use is addresses.Use.LOOPBACK and not allow_loopback:
            raise errors.PortalRefusedError(
                f"{text} is {use}, which cannot be reached from outside: give the Service another "
                f"address, or run with {endpoint_rules.ALLOW_LOOPBACK_FLAG}"
            )
        if use not in (addresses.Use.ORDINARY, addresses.Use.LOOPBACK):
            raise errors.PortalRefusedError(
                f"{text} is {use}, which cannot be reached from outside: "
                "give the Service another address"
            )

    def check_api_server(self, address: str) -> None:
        """Refuse the address of the API server. Raises PortalRefusedError."""
        if address in self._reserved_hosts:
            raise errors.PortalRefusedError(
                f"{address} is the address of the API server: give the Service another one"
            )
