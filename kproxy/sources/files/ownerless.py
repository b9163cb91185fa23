"""Endpoints of files without a Service in them: mostly a name or a namespace is mistyped.

In a cluster, Endpoints without a Service are common, and not reported.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

from kproxy.model import admission, names
from kproxy.model.kinds import endpoints, service_kind
from kproxy.sources import source
from kproxy.sources.documents import document

Tables = Mapping[str, Mapping[names.NamespacedName, admission.Accepted]]


def notes(
    tables: Tables,
    places: Mapping[admission.Key, str],
    quiet: Collection[str],
    most: int,
    pause: document.Pause,
) -> list[source.Problem]:
    """A note on each such object, `most` at most, and one that counts the others.

    `places` has the document that gives an object; `quiet` are documents with worse problems.
    """
    services = tables.get(service_kind.KIND.name, {})
    found = [
        each
        for each in _ownerless(tables, pause)
        if places.get((each.kind, each.name)) not in quiet
    ]
    similar = _by_lower_name(services) if found else {}
    made = [_note(each, places, similar) for each in islice(found, most)]
    if len(found) > most:
        text = f"{len(found) - most} more objects with endpoints belong to no Service"
        made.append(source.Problem(admission.Severity.NOTE, "manifests", "", text))
    return made


def _ownerless(tables: Tables, pause: document.Pause) -> Iterator[endpoints.EndpointsObject]:
    services = tables.get(service_kind.KIND.name, {})
    for kind, table in tables.items():
        if kind == service_kind.KIND.name:
            continue
        for each in table.values():
            pause()
            if isinstance(each, endpoints.EndpointsObject) and each.service not in services:
                yield each


def _by_lower_name(
    services: Mapping[names.NamespacedName, object],
) -> Mapping[str, Sequence[names.NamespacedName]]:
    made: dict[str, list[names.NamespacedName]] = {}
    for name in services:
        made.setdefault(name.name.lower(), []).append(name)
    return made


def _note(
    each: endpoints.EndpointsObject,
    places: Mapping[admission.Key, str],
    similar: Mapping[str, Sequence[names.NamespacedName]],
) -> source.Problem:
    text = f"no file has the Service {each.service}, so nothing uses its endpoints"
    if near := similar.get(each.service.name.lower(), ()):
        text += f"; is Service {near[0]} meant?"
    subject = f"{each.kind} {each.name}"
    place = places.get((each.kind, each.name), "")
    return source.Problem(admission.Severity.NOTE, place, subject, text)
