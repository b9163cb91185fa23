"""Endpoints and EndpointSlices: kube-apiserver's rules, and the address policy.

A broken rule makes the object invalid. An address that is malformed, or that must not be dialled
(decision 9 of docs/behaviour.md: loopback, link-local, multicast, unspecified, broadcast), is
left out and reported, and the object's other addresses are kept: one bad pod address must not
cost a Service the good ones. API servers have stored such addresses ("127.211.0.02"), and
return them.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from kproxy.model import addresses, names, objects, steps
from kproxy.model.kinds import endpoints, service_rules

LABEL_SERVICE_NAME = "kubernetes.io/service-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
ALLOW_LOOPBACK_FLAG = "--allow-loopback-endpoints"
_PIECE = 256
"""How many endpoints are judged between two pauses."""
MOST_ENDPOINTS = 200_000
"""Endpoints that one object may make: its addresses times its ports. An object of 1 MB could
otherwise make a hundred million."""

TOPOLOGY_HOSTNAME = "kubernetes.io/hostname"

_Conditions: TypeAlias = tuple[bool, bool, bool, str]
"""Ready, serving, terminating, node: an Endpoint but for its backend."""

_Groups: TypeAlias = dict[tuple[str, names.Protocol], list[endpoints.Endpoint]]

_ORDINARY = addresses.Use.ORDINARY


class _Port(NamedTuple):
    name: str
    protocol: names.Protocol
    number: int


def is_headless(metadata: objects.ObjectMeta | None) -> bool:
    """Whether the label says that these endpoints are not for proxies.

    As in today's kube-proxy the label counts on endpoints only: a Service that carries it and
    has a cluster IP keeps its address, finds no endpoints, and refuses (row 11, modern).
    """
    return bool(metadata and metadata.labels and LABEL_HEADLESS in metadata.labels)


def endpoints_object(
    shape: objects.Endpoints, found: service_rules.Findings, *, allow_loopback: bool
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """What an Endpoints object says, or None when it is invalid or not for a proxy.

    Its notReadyAddresses become endpoints that are neither ready nor serving (row 21). Yields
    where others can be let run.
    """
    if is_headless(shape.metadata):
        return None
    key = service_rules.identity(shape.metadata, service_rules.DNS_SUBDOMAIN, found)
    groups: _Groups = {}
    gate = _Gate(found, allow_loopback=allow_loopback)
    made = 0
    for index, subset in enumerate(shape.subsets or ()):
        where = f"subsets[{index}]"
        if not subset.addresses and not subset.not_ready_addresses:
            found.violate(f"{where}.addresses", None, "must be given, or notReadyAddresses")
        ports = yield from _subset_ports(subset.ports or (), where, found)
        room = max((MOST_ENDPOINTS - made) // max(len(ports), 1), 0)
        for ready in (True, False):
            listed = subset.addresses if ready else subset.not_ready_addresses
            path = f"{where}.{'addresses' if ready else 'notReadyAddresses'}"
            if listed and len(listed) > room:
                rule = f"must be at most {room} of the same object with {len(ports)} ports"
                found.refuse(path, len(listed), rule)
            kept = (listed or ())[:room]
            room -= len(kept)
            made += len(kept) * len(ports)
            for position, entry in enumerate(kept):
                if position % _PIECE == _PIECE - 1:
                    yield
                address = gate.admitted(entry.ip, f"{path}[{position}].ip")
                if address:
                    node = entry.node_name or ""
                    yield from _add(groups, ports, [(address, (ready, ready, False, node))])
    gate.conclude()
    if found.violations:
        return None
    ports_made = yield from _merged(groups)
    return endpoints.EndpointsObject(key, key, names.Kind.ENDPOINTS, ports_made)


def endpoint_slice(
    shape: objects.EndpointSlice, found: service_rules.Findings, *, allow_loopback: bool
) -> Generator[None, None, endpoints.EndpointsObject | None]:
    """What an EndpointSlice says, or None when it is invalid or not for a proxy.

    Not for a proxy are slices that name no Service, and those of type FQDN (rows 36, 37).
    The Service is looked for in the slice's own namespace only (docs/faults.md S09), and of
    every endpoint only the first address counts (row 36). Yields where others can be let run.
    """
    if is_headless(shape.metadata):
        return None
    key = service_rules.identity(shape.metadata, service_rules.DNS_SUBDOMAIN, found)
    ports = yield from _slice_ports(shape.ports or (), found)
    if shape.address_type not in {"IPv4", "IPv6", "FQDN"}:
        found.violate("addressType", shape.address_type, "must be IPv4, IPv6 or FQDN")
    if shape.address_type == "FQDN":
        found.notes.append("addressType is FQDN, which a proxy cannot dial")
        return None
    listed: list[tuple[str, _Conditions]] = []
    gate = _Gate(found, allow_loopback=allow_loopback, family=shape.address_type)
    for index, entry in enumerate(shape.endpoints or ()):
        if index % _PIECE == _PIECE - 1:
            yield
        text = entry.addresses[0] if entry.addresses else None
        address = gate.admitted(text, f"endpoints[{index}].addresses[0]")
        if address:
            listed.append((address, _conditions(entry)))
    gate.conclude()
    service = (shape.metadata.labels or {}).get(LABEL_SERVICE_NAME) if shape.metadata else None
    if not service:
        found.notes.append(f"no label {LABEL_SERVICE_NAME} says which Service it belongs to")
    if found.violations or not service:
        return None
    groups: _Groups = {}
    room = MOST_ENDPOINTS // max(len(ports), 1)
    if len(listed) > room:
        found.refuse("endpoints", len(listed), f"must be at most {room} with {len(ports)} ports")
    yield from _add(groups, ports, listed[:room])
    owner = names.NamespacedName(key.namespace, service)
    ports_made = yield from _merged(groups)
    return endpoints.EndpointsObject(key, owner, names.Kind.ENDPOINT_SLICE, ports_made)


def _conditions(entry: objects.SliceEndpoint) -> _Conditions:
    """Absent means ready, serving and not terminating (row 35); v1beta1 had topology (29)."""
    node = entry.node_name or (entry.topology or {}).get(TOPOLOGY_HOSTNAME, "")
    given = entry.conditions
    if given is None:
        return True, True, False, node
    return given.ready is not False, given.serving is not False, given.terminating is True, node


def _subset_ports(
    ports: Sequence[objects.EndpointPort], where: str, found: service_rules.Findings
) -> Generator[None, None, list[_Port]]:
    made = []
    for index, port in enumerate(ports):
        if index % _PIECE == _PIECE - 1:
            yield
        made.append(_port(port, f"{where}.ports[{index}]", found, required=len(ports) > 1))
    return made


def _slice_ports(
    ports: Sequence[objects.EndpointPort], found: service_rules.Findings
) -> Generator[None, None, list[_Port]]:
    """The ports a proxy can serve: one without a number means "every port", so it is not one."""
    made: dict[str, _Port] = {}
    for index, port in enumerate(ports):
        if index % _PIECE == _PIECE - 1:
            yield
        if port.port is None:
            found.notes.append(f"ports[{index}].port is absent, which a proxy cannot serve")
            continue
        read = _port(port, f"ports[{index}]", found, required=False)
        if made.setdefault(read.name, read) is not read:
            found.violate(f"ports[{index}].name", read.name, "must be unique")
    return list(made.values())


def _port(
    port: objects.EndpointPort, where: str, found: service_rules.Findings, *, required: bool
) -> _Port:
    return _Port(
        service_rules.port_name(port.name, f"{where}.name", found, required=required),
        service_rules.protocol(port.protocol, f"{where}.protocol", found),
        service_rules.port_number(port.port, f"{where}.port", found),
    )


class _Gate:
    """Which addresses of one object may be dialled. The others are left out, with the reason.

    An object all of whose addresses are malformed is invalid: it says nothing that could replace
    what it said before.
    """

    def __init__(
        self, found: service_rules.Findings, *, allow_loopback: bool, family: str | None = None
    ) -> None:
        self._found = found
        self._allow_loopback = allow_loopback
        self._family = family
        self._malformed: list[tuple[str, str | None, str]] = []
        self._is_any_good = False

    def admitted(self, text: str | None, where: str) -> str:
        """The canonical text of an address that may be dialled, else ""."""
        address = addresses.parse(text) if text else None
        if address is None or not text:
            self._malformed.append((where, text, "must be an IP address"))
            return ""
        if self._family and (":" in text) is not (self._family == "IPv6"):
            self._malformed.append((where, text, f"must be of addressType {self._family}"))
            return ""
        self._is_any_good = True
        if address.use is _ORDINARY:
            return address.text
        rule = f"must not be {address.use}"
        if address.use is addresses.Use.LOOPBACK:
            if self._allow_loopback:
                return address.text
            rule += f", unless {ALLOW_LOOPBACK_FLAG} is given"
        self._found.refuse(where, text, rule)
        return ""

    def conclude(self) -> None:
        """All addresses have been seen."""
        record = self._found.refuse if self._is_any_good else self._found.violate
        for where, text, rule in self._malformed:
            record(where, text, rule)


def _add(
    groups: _Groups, ports: Iterable[_Port], listed: Sequence[tuple[str, _Conditions]]
) -> Generator[None, None, None]:
    """Every address with every port."""
    done = 0
    for name, protocol, number in ports:
        group = groups.setdefault((name, protocol), [])
        for first in range(0, len(listed), _PIECE):
            piece = listed[first : first + _PIECE]
            group.extend(
                endpoints.Endpoint(addresses.SocketAddress(address, number), *conditions)
                for address, conditions in piece
            )
            done += len(piece)
            if done >= _PIECE:
                done = 0
                yield


def _merged(groups: _Groups) -> Generator[None, None, tuple[endpoints.EndpointPort, ...]]:
    """The ports in order. Empties `groups`: releasing all of it at once would take long."""
    made = []
    for name, protocol in (yield from steps.sorted_in_steps(groups, tuple)):
        group = groups.pop((name, protocol))
        merged = yield from endpoints.merged_from_any_in_steps(group)
        made.append(endpoints.EndpointPort(name, protocol, merged))
        yield
    return tuple(made)
