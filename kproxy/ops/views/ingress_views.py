"""The Ingresses that a proxy knows, as `kproxy get ingresses` shows them."""

import operator
from collections import defaultdict
from collections.abc import Iterator, Mapping

from kproxy.ingress import state
from kproxy.model import names, steps
from kproxy.model.kinds.ingress import ingress_kind, ingresses
from kproxy.ops.views import observed, status


def has(seen: observed.Observed, namespace: str, name: str) -> bool:
    """Whether there is an Ingress of this name, in any namespace if that is ""."""
    known = seen.source.store.all(ingress_kind.KIND)
    if namespace:
        return names.NamespacedName(namespace, name) in known
    return any(each.name == name for each in known)


def views(seen: observed.Observed, namespace: str = "", name: str = "") -> status.Views:
    """The Ingresses of this name and namespace, in the order of names; "" means any.

    Those of other classes are among them; `served` says which are this proxy's.
    """
    shown = seen.ingress
    if shown is None:
        return
    problems: dict[names.NamespacedName, list[str]] = defaultdict(list)
    for each in sorted(shown.problems):
        problems[each.ingress].append(each.text)
    yield None
    known = (
        each
        for each in tuple(seen.source.store.all(ingress_kind.KIND).values())
        if namespace in ("", each.name.namespace) and name in ("", each.name.name)
    )
    for ingress in (yield from steps.sorted_in_steps(known, operator.attrgetter("name"))):
        yield _view(shown, ingress, problems)


def in_short(shown: state.IngressState) -> dict[str, object]:
    """What `kproxy status` says of Ingresses."""
    return {
        "served": len(shown.served),
        "problems": len(shown.problems),
        "reloads": shown.counters.reloads,
        "restarts": shown.counters.restarts,
        **shown.addresses,
    }


def _view(
    shown: state.IngressState,
    ingress: ingresses.Ingress,
    problems: Mapping[names.NamespacedName, list[str]],
) -> status.View:
    is_served = ingress.name in shown.served
    return {
        "namespace": ingress.name.namespace,
        "name": ingress.name.name,
        "class": ingress.class_name or ingress.annotation(ingresses.ANNOTATION_CLASS),
        "hosts": list(dict.fromkeys(rule.host or "*" for rule in ingress.rules)) or ["*"],
        "tls_hosts": list(dict.fromkeys(host for tls in ingress.tls for host in tls.hosts)),
        "services": sorted(set(_services(ingress))),
        "served": is_served,
        "addresses": [each for each in shown.addresses.values() if each] if is_served else [],
        "published": list(ingress.published),
        "problems": problems.get(ingress.name, []),
        "created": ingress.created or None,
    }


def _services(ingress: ingresses.Ingress) -> Iterator[str]:
    backends = [path.backend for rule in ingress.rules for path in rule.paths]
    if ingress.default_backend is not None:
        backends.append(ingress.default_backend)
    yield from (each.service for each in backends if each.service)
