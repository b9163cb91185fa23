"""The names of Services and their addresses, as a hosts file has them: `kproxy get hosts`.

Each view is one line of hosts(5). A Service has a line for each of its ClusterIPs, at the address
where kproxy serves it; a headless Service has one for each ready endpoint, by its hostname if it
has one. A Service of type ExternalName has none: a hosts file knows no aliases.
"""

import operator
from collections.abc import Iterator, Sequence

from kproxy.model import labels, steps
from kproxy.model.kinds import service_kind, services
from kproxy.ops.views import observed, reached, status


def views(
    seen: observed.Observed,
    namespace: str = "",
    name: str = "",
    selector: Sequence[labels.Requirement] = (),
) -> status.Views:
    """The lines of that Service or namespace, in the order of names; "" means any.

    `selector` narrows them to Services with such labels.
    """
    known = (
        each
        for each in tuple(seen.source.store.all(service_kind.KIND).values())
        if namespace in ("", each.name.namespace)
        and name in ("", each.name.name)
        and (not selector or labels.match(selector, dict(each.labels)))
    )
    for each in (yield from steps.sorted_in_steps(known, operator.attrgetter("name"))):
        yield from _of_service(seen, each)


def _of_service(seen: observed.Observed, known: services.Service) -> Iterator[status.View | None]:
    yield None
    if known.is_headless:
        for host in reached.ready_hosts(seen.source.store.sources(known.name)):
            yield _line(seen, known, host.address, (), host.hostname)
        return
    found = reached.service(seen, known)
    for address in found.addresses:
        yield _line(seen, known, address, found.ports)


def _line(
    seen: observed.Observed,
    known: services.Service,
    address: str,
    ports: Sequence[reached.ReachedPort],
    hostname: str = "",
) -> status.View:
    name = f"{known.name.name}.{known.name.namespace}"
    if hostname:
        name = f"{hostname}.{name}"
    return {
        "namespace": known.name.namespace,
        "service": known.name.name,
        "hostname": hostname,
        "address": address,
        "hostnames": [f"{name}.svc.{seen.cluster_domain}", f"{name}.svc", name],
        "headless": known.is_headless,
        "ports": [
            {
                "name": port.name,
                "protocol": port.protocol.value,
                "port": port.port,
                "bound_port": place.port,
            }
            for port in ports
            for place in port.at
            if place.address == address
        ],
    }
