"""Addresses that no Service gets: serving them could take traffic from their rightful server.

The API server chooses ClusterIPs, a load balancer's controller writes ingress IPs, and a Service's
author writes any external IP (CVE-2020-8554). The rules are those of kube-apiserver's
`ValidateNonSpecialIP`, with what the operator allows.
"""

import ipaddress

from kproxy import errors
from kproxy.model import addresses, forwarding
from kproxy.model.judging import endpoint_rules
from kproxy.portal import portal

_KINDS = forwarding.FrontendKind


class Refusals:
    """Checks addresses against the operator's settings."""

    def __init__(self, settings: portal.Settings) -> None:
        self._external_ips = settings.external_ips
        self._allow_loopback = settings.allow_loopback
        self._reserved_hosts = frozenset(each.address for each in settings.reserved)

    def check_external(self, kind: forwarding.FrontendKind, text: str) -> None:
        """Raise PortalRefusedError for an external address that the operator does not allow."""
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
        """Raise PortalRefusedError for an address that other hosts cannot reach one host by."""
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

    def check_range(self, network: portal.Network) -> None:
        """Refuse a network of ClusterIPs that holds addresses which no Service gets.

        Raises PortalRefusedError.
        """
        if network.prefixlen == 0:
            raise errors.PortalRefusedError(f"{network} is every address")
        if special := portal.special_in(network):
            raise errors.PortalRefusedError(f"{network} holds {special}")
        for host in sorted(self._reserved_hosts):
            if ipaddress.ip_address(host) in network:
                raise errors.PortalRefusedError(
                    f"{network} holds the address of the API server, {host}"
                )

    def check_api_server(self, address: str) -> None:
        """Raise PortalRefusedError for the address of the API server."""
        if address in self._reserved_hosts:
            raise errors.PortalRefusedError(
                f"{address} is the address of the API server: give the Service another one"
            )
