"""What cannot be looked up in a Store by name: namespaces, addresses, endpoints by hostname."""

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from kproxy.model import names, steps
from kproxy.model.kinds import endpoints, services

MOST_READY = 4096
"""Endpoints of one Service in an answer: as many as the largest message holds addresses."""
_MOST_POINTERS = 64
"""Names of one address in an answer."""
_STRIDE = 256

Front: TypeAlias = tuple[str, ...]
"""The labels of a name, up to its namespace: the Service's, before it perhaps an endpoint's."""


class Objects(Protocol):
    """What is read of a Store."""

    def service(self, name: names.NamespacedName) -> services.Service | None:
        """The Service of this name, if there is one."""

    def sources(self, service: names.NamespacedName) -> tuple[endpoints.EndpointsObject, ...]: ...


class Endpoint(NamedTuple):
    """A ready endpoint of a headless Service: its label, its address, and its ports."""

    label: str
    address: str
    ports: tuple[endpoints.Port, ...]


class Headless(NamedTuple):
    """The ready endpoints of a headless Service, and the addresses of each label.

    At most `MOST_READY` are in `ready`, and of each label.
    """

    ready: tuple[Endpoint, ...]
    by_label: dict[str, list[str]]


def dashed(address: str) -> str:
    """The label of what has only an address: `10-0-0-1`."""
    return address.replace(".", "-").replace(":", "-")


def tag_of(namespace_or_address: str) -> names.NamespacedName:
    """Stands among Services for a namespace, or for the names of an address."""
    return names.NamespacedName(namespace_or_address, "")


Tags: TypeAlias = set[names.NamespacedName]


class Index:
    """Follows a Store, Service by Service: `update`.

    `served` gives the addresses at which one with cluster IPs is reached. Namespaces that `admits`
    does not admit are not there.
    """

    def __init__(
        self,
        objects: Objects,
        served: Callable[[services.Service], Sequence[str]],
        admits: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._objects = objects
        self._served = served
        self._admits = admits
        self._namespaces: dict[str, int] = {}
        self._headless: dict[names.NamespacedName, Headless] = {}
        # Of every Service that there is: the addresses that are called by its name, and how.
        self._names: dict[names.NamespacedName, tuple[tuple[str, Front], ...]] = {}
        self._pointers: dict[str, tuple[Front, ...]] = {}

    def has_namespace(self, name: str) -> bool:
        """Whether a namespace has Services."""
        return name in self._namespaces

    def headless(self, service: names.NamespacedName) -> Headless | None:
        """The endpoints of a headless Service; None if there is no such Service."""
        return self._headless.get(service)

    def pointers(self, address: str) -> tuple[Front, ...]:
        """The names of an address, in order."""
        return self._pointers.get(address, ())[:_MOST_POINTERS]

    def update(self, name: names.NamespacedName) -> Generator[None, None, Tags]:
        """Look at a Service again, in steps. Returns the tags of what may be another now."""
        service = self._objects.service(name) if self._admits(name.namespace) else None
        pairs: list[tuple[str, Front]] = []
        known: Headless | None = None
        if service is not None and service.is_headless:
            known = yield from self._ready_endpoints(service)
            for label, found in known.by_label.items():
                pairs += [(each, (label, name.name, name.namespace)) for each in found]
                if len(pairs) % _STRIDE == 0:
                    yield
        elif service is not None:
            addresses = dict.fromkeys((*self._served(service), *service.cluster_ips))
            pairs = [(each, (name.name, name.namespace)) for each in addresses]
        changed = {name}
        if (name in self._names) is not (service is not None):
            changed |= self._count(name.namespace, 1 if service is not None else -1)
        if known is not None:
            self._headless[name] = known
        else:
            self._headless.pop(name, None)
        before = dict.fromkeys(self._names.pop(name, ()))
        if service is not None:
            self._names[name] = tuple(pairs)
        now = dict.fromkeys(pairs)
        gone = ((each, ()) for each in before if each not in now)
        come = ((each, (each[1],)) for each in now if each not in before)
        for count, ((address, front), by) in enumerate(itertools.chain(gone, come), 1):
            self._replace(address, front, by)
            changed.add(tag_of(address))
            if count % _STRIDE == 0:
                yield
        return changed

    def _count(self, namespace: str, change: int) -> Tags:
        before = self._namespaces.pop(namespace, 0)
        if before + change:
            self._namespaces[namespace] = before + change
        return {tag_of(namespace)} if not before or not before + change else set()

    def _replace(self, address: str, front: Front, by: tuple[Front, ...]) -> None:
        """`by` in place of `front` among the names of an address."""
        others = tuple(each for each in self._pointers.pop(address, ()) if each != front)
        if others or by:
            self._pointers[address] = tuple(sorted((*others, *by))) if others else by

    def _ready_endpoints(self, service: services.Service) -> Generator[None, None, Headless]:
        """The ready endpoints of a headless Service, by address."""
        found: dict[tuple[str, str], tuple[endpoints.Port, ...]] = {}
        count = 0
        for source in self._objects.sources(service.name):
            for group in endpoints.hosts_of(source):
                for host in group.hosts:
                    count += 1
                    if count % _STRIDE == 0:
                        yield
                    if not host.ready and not service.publishes_not_ready:
                        continue
                    key = host.address, host.hostname or dashed(host.address)
                    known = found.get(key)
                    found[key] = (*known, *group.ports) if known else group.ports
        ready: list[Endpoint] = []
        by_label: dict[str, list[str]] = {}
        for count, (address, label) in enumerate((yield from steps.sorted_in_steps(found, tuple))):
            if count % _STRIDE == 0:
                yield
            if len(ready) < MOST_READY:
                ready.append(Endpoint(label, address, found[address, label]))
            labelled = by_label.setdefault(label, [])
            if len(labelled) < MOST_READY:
                labelled.append(address)
        return Headless(tuple(ready), by_label)
