"""What there is under a name: the records of kubernetes/dns's specification 1.1.0, from a Store.

Pure but for reading the Store. Answers say which Services they depend on, so that what is kept of
them can be dropped when one of these changes.

Where the specification leaves room, CoreDNS is followed: an endpoint without a hostname is called
by its address with dashes; a question for SRV records at the name of a Service itself gets those
of all its ports, named or not. Wildcards (`*`, and kube-dns's `any`) mean nothing: no Service has
such a name.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from kproxy.dns import index, wire
from kproxy.model import addresses, names
from kproxy.model.kinds import endpoints, services

VERSION = "1.1.0"
"""Of the specification."""
TTL = 5
"""Seconds for which clients may keep an answer, and the absence of one. As CoreDNS."""
MOST_HOPS = 8
"""CNAMEs that are followed from one Service to the next."""
MOST_SRV = 4096
"""Ports of endpoints that SRV records are made of. A message of DNS has room for fewer."""

Labels: TypeAlias = tuple[str, ...]
Tags: TypeAlias = frozenset[names.NamespacedName]
Located: TypeAlias = Callable[
    [services.Service, services.ServicePort, str], addresses.SocketAddress | None
]
"""Where clients reach a port of a Service at one of its cluster IPs; None for nowhere."""

_T = wire.Type
_ADDRESSES = (_T.A, _T.AAAA)
_SVC: Labels = ("svc",)


class Answer(NamedTuple):
    """The answer to a question.

    `soa` stands in the authority section where there is nothing of the type that was asked for.
    `tags` are the Services on which all of this depends, and, with the name "", namespaces. Where
    CNAMEs lead out of the zone, `target` is the name that is next.
    """

    rcode: wire.Rcode
    answers: tuple[wire.Record, ...] = ()
    soa: wire.Record | None = None
    additional: tuple[wire.Record, ...] = ()
    tags: Tags = frozenset()
    target: wire.Name | None = None

    @property
    def sections(self) -> tuple[Sequence[wire.Record], ...]:
        """Answer, authority and additional."""
        return self.answers, (self.soa,) if self.soa else (), self.additional


class _Node(NamedTuple):
    """What exists at a name. An `is_there` without records is a name that others are under."""

    is_there: bool
    records: tuple[wire.Record, ...] = ()
    additional: tuple[wire.Record, ...] = ()
    tags: Tags = frozenset()


_NOTHING = _Node(is_there=False)


class Zone:
    """The names of one cluster.

    Under `domain`, and without it for people: `redis.default.svc` is one too. `own` are the
    addresses of this server, for the zone's NS record. `admits` says which namespaces are there.
    """

    def __init__(
        self,
        objects: index.Objects,
        known: index.Index,
        located: Located,
        domain: str,
        serial: int,
        admits: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._objects = objects
        self._index = known
        self._located = located
        self._admits = admits
        self._zone: Labels = tuple(domain.split("."))
        self._services = wire.name_of(("svc", *self._zone))
        server, mailbox = (
            wire.name_of((*each, *self._zone)) for each in (("ns", "dns"), ("hostmaster",))
        )
        self._server = server
        self._authority = wire.soa_data(server, mailbox, serial, TTL)
        self._soas = {each: self._soa(each) for each in (self._zone, _SVC)}
        self.own: tuple[str, ...] = ()

    def answer(self, question: wire.Name, type_: int) -> Answer | None:
        """What is known of a name in lower case; None for a name that is not this server's.

        A CNAME is followed to where another type of record was asked for.
        """
        found = self._looked_up(question, type_)
        if found is None or type_ in {_T.CNAME, _T.ANY}:
            return found
        records, tags, seen = list(found.answers), set(found.tags), {question}
        while len(records) < MOST_HOPS and (target := _cname(found)) is not None:
            if target in seen:
                break
            seen.add(target)
            following = self._looked_up(target, type_)
            if following is None:
                return Answer(found.rcode, tuple(records), None, (), frozenset(tags), target)
            found = following
            records += found.answers
            tags |= found.tags
        return found._replace(answers=tuple(records), tags=frozenset(tags))

    def _looked_up(self, question: wire.Name, type_: int) -> Answer | None:
        labels = wire.labels_of(question)
        apex = self._apex(labels)
        if apex is None:
            return self._pointer(question, labels, type_)
        try:
            node = self._node(question, labels[: len(labels) - len(apex)], apex, type_)
        except ValueError:  # a record would have a name that is longer than names can be
            node = _Node(is_there=True)
        soa = self._soas[apex]
        if not node.is_there:
            return Answer(wire.Rcode.NXDOMAIN, (), soa, (), node.tags)
        if type_ == _T.ANY:
            # RFC 8482: an answer that is worth nothing to those who would send others a flood.
            hinfo = wire.Record(question, _T.HINFO, TTL, wire.text_data("RFC8482", ""))
            return Answer(wire.Rcode.NOERROR, (hinfo,), None, (), node.tags)
        chosen = tuple(each for each in node.records if each.type in (type_, _T.CNAME))
        if not chosen:
            return Answer(wire.Rcode.NOERROR, (), soa, (), node.tags)
        additional = node.additional if type_ in {_T.SRV, _T.NS} else ()
        return Answer(wire.Rcode.NOERROR, chosen, None, additional, node.tags)

    def _apex(self, labels: Labels) -> Labels | None:
        """The zone that a name is in: the cluster's, or the `svc` of names without it."""
        size = len(self._zone)
        if labels[-size:] == self._zone:
            return self._zone
        return _SVC if labels[-1:] == _SVC else None

    def _soa(self, apex: Labels) -> wire.Record:
        return wire.Record(wire.name_of(apex), _T.SOA, TTL, self._authority)

    def _node(self, question: wire.Name, below: Labels, apex: Labels, type_: int) -> _Node:
        """What there is at `question`, which is the labels `below` in front of `apex`.

        Records of other types than `type_` may be left out.
        """
        if apex == _SVC:
            return self._under_svc(question, below, type_)
        match below:
            case ():
                return self._at_apex(question)
            case ("dns-version",):
                version = wire.Record(question, _T.TXT, TTL, wire.text_data(VERSION))
                return _Node(is_there=True, records=(version,))
            case ("dns",) | ("pod",):
                return _Node(is_there=True)
            case ("ns", "dns"):
                return _Node(is_there=True, records=_address_records(question, self.own))
            case (*front, "svc"):
                return self._under_svc(question, tuple(front), type_)
            case (namespace, "pod"):
                return _Node(is_there=self._admits(namespace))
            case (label, namespace, "pod") if self._admits(namespace):
                address = _dashed_address(label)
                if address:
                    return _Node(is_there=True, records=_address_records(question, [address]))
        return _NOTHING

    def _at_apex(self, question: wire.Name) -> _Node:
        records = (self._soas[self._zone], wire.Record(question, _T.NS, TTL, self._server))
        return _Node(True, records, _address_records(self._server, self.own))  # noqa: FBT003

    def _under_svc(self, question: wire.Name, below: Labels, type_: int) -> _Node:
        if not below:
            return _Node(is_there=True)
        namespace = below[-1]
        if len(below) == 1:
            tags = frozenset([index.tag_of(namespace)])
            return _Node(is_there=self._index.has_namespace(namespace), tags=tags)
        name = names.NamespacedName(namespace, below[-2])
        service = self._objects.service(name) if self._admits(namespace) else None
        if service is None:
            node = _NOTHING
        elif service.type is services.ServiceType.EXTERNAL_NAME:
            node = _NOTHING if below[:-2] else _external(question, service)
        elif service.is_headless:
            node = self._headless(question, below[:-2], service, type_)
        else:
            node = self._with_cluster_ip(question, below[:-2], service, type_)
        return node._replace(tags=frozenset([name]))

    def _name(self, *labels: str) -> wire.Name:
        return wire.below(self._services, *labels)

    def _with_cluster_ip(
        self, question: wire.Name, below: Labels, service: services.Service, type_: int
    ) -> _Node:
        if not below and type_ != _T.SRV:
            found = served_addresses(service, self._located) if type_ in _ADDRESSES else ()
            return _Node(is_there=True, records=_address_records(question, found))
        ports = [each for each in service.ports if _is_meant(below, each)]
        if below and not ports:
            return _NOTHING
        if len(below) == 1 or type_ != _T.SRV:
            return _Node(is_there=True)
        served = served_addresses(service, self._located)
        target = self._name(service.name.name, service.name.namespace)
        at = (_served_port(service, each, self._located) for each in ports)
        numbers = dict.fromkeys(each for each in at if each is not None)
        records = [wire.Record(question, _T.SRV, TTL, wire.srv_data(n, target)) for n in numbers]
        return _Node(True, tuple(records), _address_records(target, served))  # noqa: FBT003

    def _headless(
        self, question: wire.Name, below: Labels, service: services.Service, type_: int
    ) -> _Node:
        known = self._index.headless(service.name)
        # The specification: without a ready endpoint the name does not exist.
        if known is None or not known.ready:
            return _NOTHING
        if not below and type_ != _T.SRV:
            return _Node(True, _address_records(question, (each.address for each in known.ready)))  # noqa: FBT003
        if len(below) == 1 and not below[0].startswith("_"):
            found = known.by_label.get(below[0], ())
            return _Node(bool(found), _address_records(question, found))
        meant = list(itertools.islice(_meant(below, known.ready), MOST_SRV))
        if below and not meant:
            return _NOTHING
        if len(below) == 1 or type_ != _T.SRV:
            return _Node(is_there=True)
        targets = {
            each.label: self._name(each.label, service.name.name, service.name.namespace)
            for each, _ in meant
        }
        pairs = dict.fromkeys((port.number, targets[each.label]) for each, port in meant)
        records = [wire.Record(question, _T.SRV, TTL, wire.srv_data(*each)) for each in pairs]
        additional = (
            record
            for label, target in targets.items()
            for record in _address_records(target, known.by_label[label])
        )
        hosts = tuple(itertools.islice(additional, index.MOST_READY))
        return _Node(True, tuple(records), hosts)  # noqa: FBT003

    def _pointer(self, question: wire.Name, labels: Labels, type_: int) -> Answer | None:
        """What an address is called. Addresses in 127/8 are this host's own: no other DNS knows."""
        address = _reversed_address(labels)
        if address is None:
            return None
        targets = []
        for front in self._index.pointers(address):
            with contextlib.suppress(ValueError):  # longer than names can be
                targets.append(self._name(*front))
        if not targets and not address.startswith("127."):
            return None
        tags = frozenset([index.tag_of(address)])
        if not targets:
            soa = self._soa(("127", "in-addr", "arpa"))
            return Answer(wire.Rcode.NXDOMAIN, (), soa, (), tags)
        if type_ not in {_T.PTR, _T.ANY}:
            soa = self._soa(labels)
            return Answer(wire.Rcode.NOERROR, (), soa, (), tags)
        records = tuple(wire.Record(question, _T.PTR, TTL, each) for each in targets)
        return Answer(wire.Rcode.NOERROR, records, None, (), tags)


def served_addresses(service: services.Service, located: Located) -> list[str]:
    """The addresses at which clients reach a Service that has cluster IPs."""
    made = []
    for ip in service.cluster_ips:
        places = (located(service, port, ip) for port in service.ports)
        first = next((place for place in places if place is not None), None)
        if first is not None:
            made.append(first.address)
    return made


def _served_port(
    service: services.Service, port: services.ServicePort, located: Located
) -> int | None:
    """The number that clients connect to, which a portal may have moved; None for nowhere."""
    places = (located(service, port, ip) for ip in service.cluster_ips)
    first = next((place for place in places if place is not None), None)
    return first.port if first is not None else None


def _is_meant(below: Labels, port: services.ServicePort | endpoints.Port) -> bool:
    """Whether the labels in front of a Service's are those of a port, or of its protocol.

    Without labels all ports are meant. One without a name has no labels.
    """
    if not below:
        return True
    return bool(port.name) and below in (
        (f"_{port.protocol.lower()}",),
        (f"_{port.name}", f"_{port.protocol.lower()}"),
    )


def _meant(
    below: Labels, ready: Iterable[index.Endpoint]
) -> Iterator[tuple[index.Endpoint, endpoints.Port]]:
    """The ports that a name means, of each endpoint. Those of one slice share their ports."""
    chosen: dict[int, list[endpoints.Port]] = {}
    for each in ready:
        ports = chosen.get(id(each.ports))
        if ports is None:
            ports = [port for port in each.ports if _is_meant(below, port)]
            chosen[id(each.ports)] = ports
        for port in ports:
            yield each, port


def _address_records(name: wire.Name, found: Iterable[str]) -> tuple[wire.Record, ...]:
    made = (wire.address_data(each) for each in dict.fromkeys(found))
    return tuple(wire.Record(name, type_, TTL, data) for type_, data in made)


def _external(question: wire.Name, service: services.Service) -> _Node:
    try:
        target = wire.from_text(service.external_name).lower()
    except ValueError:
        return _Node(is_there=True)
    return _Node(True, (wire.Record(question, _T.CNAME, TTL, target),))  # noqa: FBT003


def _cname(found: Answer) -> wire.Name | None:
    """Where a CNAME, which is the last record of an answer, leads."""
    last = found.answers[-1] if found.answers else None
    return last.data if last is not None and last.type == _T.CNAME else None


def _dashed_address(label: str) -> str | None:
    """The address of a pod's name, `10-0-0-1` or `fd00--1`."""
    for text in (label.replace("-", "."), label.replace("-", ":")):
        parsed = addresses.parse(text)
        if parsed is not None and index.dashed(parsed.text) == label:
            return parsed.text
    return None


def _reversed_address(labels: Labels) -> str | None:
    """The address that a name under in-addr.arpa or ip6.arpa stands for."""
    if len(labels) == 6 and labels[4:] == ("in-addr", "arpa"):
        parsed = addresses.parse(".".join(reversed(labels[:4])))
    elif len(labels) == 34 and labels[32:] == ("ip6", "arpa"):
        digits = "".join(reversed(labels[:32]))
        groups = (digits[at : at + 4] for at in range(0, 32, 4))
        parsed = addresses.parse(":".join(groups)) if len(digits) == 32 else None
    else:
        return None
    return parsed.text if parsed is not None else None
