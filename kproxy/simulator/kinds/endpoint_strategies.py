"""What Endpoints and EndpointSlices may say, made by a controller or by hand.

From `ValidateEndpoints` (`pkg/apis/core/validation`) and `ValidateEndpointSlice`
(`pkg/apis/discovery/validation`), in their words, as far as a proxy reads these objects. One rule
is left out: the addresses of simulated pods are loopback ones, so those are allowed.
"""

from collections.abc import Iterator, Sequence

import msgspec

from kproxy.model import addresses
from kproxy.model.judging import endpoint_rules
from kproxy.model.kinds import endpoint_slice_kind, endpoints_kind
from kproxy.simulator.kinds import service_validation
from kproxy.simulator.store import formats, resources, statuses
from kproxy.simulator.store.ruled_strategy import RuledStrategy
from kproxy.simulator.store.statuses import Cause
from kproxy.simulator.store.storage import Object

_SPECIAL = {
    addresses.Use.UNSPECIFIED: "may not be unspecified (0.0.0.0)",
    addresses.Use.LINK_LOCAL: "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
}
_LINK_LOCAL_MULTICAST = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"


def for_endpoints() -> RuledStrategy:
    """Endpoints are checked as `ValidateEndpoints` does; nothing is defaulted."""
    return RuledStrategy(resources.ENDPOINTS, violations=_endpoints_violations)


def for_endpoint_slices() -> RuledStrategy:
    """The rules for EndpointSlices."""
    return RuledStrategy(resources.ENDPOINT_SLICES, violations=_slice_violations)


def _endpoints_violations(new: Object) -> Iterator[Cause]:
    for index, subset in enumerate(msgspec.convert(new, endpoints_kind.Endpoints).subsets or ()):
        where = f"subsets[{index}]"
        ready, not_ready = subset.addresses or (), subset.not_ready_addresses or ()
        if not ready and not not_ready:
            yield statuses.required_value(where, "must specify `addresses` or `notReadyAddresses`")
        for field, found in (("addresses", ready), ("notReadyAddresses", not_ready)):
            for place, address in enumerate(found):
                yield from _address(address.ip or "", f"{where}.{field}[{place}].ip")
        yield from _ports(subset.ports or (), where)


def _slice_violations(new: Object) -> Iterator[Cause]:
    shape = msgspec.convert(new, endpoint_slice_kind.EndpointSlice)
    if shape.address_type not in {"IPv4", "IPv6", "FQDN"}:
        yield statuses.not_supported_value(
            "addressType", shape.address_type or "", ("FQDN", "IPv4", "IPv6")
        )
    for index, endpoint in enumerate(shape.endpoints or ()):
        where = f"endpoints[{index}].addresses"
        if not endpoint.addresses:
            yield statuses.required_value(where, "must contain at least 1 address")
        for place, text in enumerate(endpoint.addresses or ()):
            if shape.address_type != "FQDN":
                yield from _address(text, f"{where}[{place}]")
    yield from _ports(shape.ports or (), "")


def _address(text: str, where: str) -> Iterator[Cause]:
    yield from service_validation.address_violations(text, where)
    parsed = addresses.parse(text)
    if parsed and parsed.use in _SPECIAL:
        yield statuses.invalid_value(where, text, _SPECIAL[parsed.use])
    elif parsed and parsed.text.startswith(("224.0.0.", "ff02:")):
        yield statuses.invalid_value(where, text, _LINK_LOCAL_MULTICAST)


def _ports(given: Sequence[endpoint_rules.EndpointPort], where: str) -> Iterator[Cause]:
    for index, port in enumerate(given):
        path = f"{where}.ports[{index}]".lstrip(".")
        if port.port is not None and not 1 <= port.port <= 65535:
            yield statuses.invalid_value(f"{path}.port", port.port, formats.PORT_RULE)
        if port.protocol not in {None, "SCTP", "TCP", "UDP"}:
            supported = ("SCTP", "TCP", "UDP")
            yield statuses.not_supported_value(f"{path}.protocol", port.protocol, supported)
