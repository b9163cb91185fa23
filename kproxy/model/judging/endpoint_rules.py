"""What Endpoints and EndpointSlices share: rules for ports, and the address policy.

A broken rule makes the object invalid. An address that is malformed, or that must not be dialled
(decision 9 of docs/behaviour.md: loopback, link-local, multicast, unspecified, broadcast), is
left out and reported, and the object's other addresses are kept: one bad pod address must not
cost a Service the good ones. API servers have stored such addresses ("127.211.0.02"), and
return them.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import TypeAlias

import msgspec

from kproxy.model import addresses, names, objects, steps
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds import endpoints

LABEL_HEADLESS = "service.kubernetes.io/headless"
NOT_HEADLESS = f"!{LABEL_HEADLESS}"
"""As kube-proxy asks for endpoints: those of headless Services are many, and of no use to it."""
ALLOW_LOOPBACK_FLAG = "--allow-loopback-endpoints"

PIECE = 256
"""How many endpoints are judged between two pauses."""
MOST_ENDPOINTS = 200_000
"""Endpoints that one object may make: its addresses times its ports. An object of 1 MB could
otherwise make a hundred million."""

Conditions: TypeAlias = tuple[bool, bool, bool, str, tuple[str, ...], tuple[str, ...], str]
"""Ready, serving, terminating, node, zones, nodes, pod: an Endpoint but for its backend."""

Groups: TypeAlias = dict[tuple[str, names.Protocol], list[endpoints.Endpoint]]

_ORDINARY = addresses.Use.ORDINARY


class TargetRef(msgspec.Struct, frozen=True, gc=False):
    """What an address belongs to."""

    kind: str | None = None
    name: str | None = None


def pod_of(reference: TargetRef | None) -> str:
    """The name of the pod that an address belongs to; "" if it belongs to none."""
    return reference.name or "" if reference is not None and reference.kind == "Pod" else ""


def is_headless(metadata: objects.ObjectMeta | None) -> bool:
    """Whether the label says that these endpoints are not for proxies.

    As in today's kube-proxy the label counts on endpoints only: a Service that carries it and
    has a cluster IP keeps its address, finds no endpoints, and refuses (row 11, modern).
    """
    return bool(metadata and metadata.labels and LABEL_HEADLESS in metadata.labels)


def hostname(given: str | None, where: str, found: findings.Findings) -> str:
    """The hostname of an endpoint; "" if it has none."""
    if given and not field_rules.DNS_LABEL.admits(given):
        found.violate(where, given, field_rules.DNS_LABEL.words)
    return given or ""


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """A port of an Endpoints subset or of an EndpointSlice."""

    port: int | None = None
    name: str | None = None
    protocol: str | None = None


def port(
    given: EndpointPort, where: str, found: findings.Findings, *, required: bool
) -> endpoints.Port:
    """The port that `given` describes at the field path `where`."""
    return endpoints.Port(
        field_rules.port_name(given.name, f"{where}.name", found, required=required),
        field_rules.protocol(given.protocol, f"{where}.protocol", found),
        field_rules.port_number(given.port, f"{where}.port", found),
    )


class Gate:
    """Which addresses of one object may be dialled. The others are left out, with the reason.

    An object all of whose addresses are malformed is invalid: it says nothing that could replace
    what it said before.
    """

    def __init__(
        self, found: findings.Findings, *, allow_loopback: bool, family: str | None = None
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
        """Report the addresses that were left out, once all have been judged."""
        record = self._found.refuse if self._is_any_good else self._found.violate
        for where, text, rule in self._malformed:
            record(where, text, rule)


def add(
    groups: Groups, ports: Iterable[endpoints.Port], listed: Sequence[tuple[str, Conditions]]
) -> Generator[None, None, None]:
    """Every address with every port."""
    done = 0
    for name, protocol, number in ports:
        group = groups.setdefault((name, protocol), [])
        for first in range(0, len(listed), PIECE):
            piece = listed[first : first + PIECE]
            group.extend(
                endpoints.Endpoint(addresses.SocketAddress(address, number), *conditions)
                for address, conditions in piece
            )
            done += len(piece)
            if done >= PIECE:
                done = 0
                yield


def merged_ports(groups: Groups) -> Generator[None, None, tuple[endpoints.EndpointPort, ...]]:
    """The ports in order. Empties `groups`: releasing all of it at once would take long."""
    made = []
    for name, protocol in (yield from steps.sorted_in_steps(groups, tuple)):
        group = groups.pop((name, protocol))
        merged = yield from endpoints.merged_from_any_in_steps(group)
        made.append(endpoints.EndpointPort(name, protocol, merged))
        yield
    return tuple(made)


def owner(made: endpoints.EndpointsObject) -> tuple[names.NamespacedName, ...]:
    """The Service whose endpoints these are, or some of them."""
    return (made.service,)
