"""Collect the evidence: from the parts of a running proxy, or from objects alone."""

import difflib
from collections.abc import Callable, Iterable, Iterator

from kproxy.explain.evidence import EndpointSeen, Evidence, FrontendSeen, Pod, PortSeen, Question
from kproxy.model import forwarding, names
from kproxy.model.kinds import pod_kind
from kproxy.plane import plane
from kproxy.portal import budget
from kproxy.reconcile import proxier
from kproxy.reconcile.planning import rules
from kproxy.sources import store

_NEIGHBOURS = 5
_NOTABLE = 1000
"""At most so many boxed or own endpoints are listed."""


def gather(
    question: Question,
    held: store.Store,
    served: proxier.Proxier,
    *,
    told_by: str,
    live: plane.Readable | None = None,
) -> Evidence:
    """What is known about the Service that `question` names.

    `live` is the data plane, which the caller has refreshed; None if only objects are known.
    """
    service = held.service(question.service)
    known: dict[str, object] = {}
    if service is None:
        known["namesakes"], known["neighbours"] = _alike(question.service, held.service_names())
    plans = [plan for plan in served.known() if plan.rule.name.service == question.service]
    return Evidence(
        question=question,
        told_by=told_by,
        node=served.options.node,
        near=served.options.portal.node.near,
        service=service,
        sources=held.sources(question.service) if service is not None else (),
        ports=tuple(_port(plan, question, served, live) for plan in plans),
        pods=_pods(question.service.namespace, held),
        **known,  # type: ignore[arg-type]
    )


def from_objects(
    question: Question,
    held: store.Store,
    options: rules.Options,
    namespaces: frozenset[str],
    told_by: str,
) -> Evidence:
    """The evidence as a proxy with these options would have it after it has read the objects."""
    served = proxier.Proxier(held, _Silent(), options, namespaces=namespaces, room=budget.Budget())
    served.mark_all()
    served.sync()
    return gather(question, held, served, told_by=told_by)


def _port(
    plan: rules.PortPlan,
    question: Question,
    served: proxier.Proxier,
    live: plane.Readable | None,
) -> PortSeen:
    rule = plan.rule
    admitted = {place.frontend: place.admitted for place in plan.places}
    seen = PortSeen(
        name=rule.name,
        is_served=plan.is_served,
        frontends=tuple(
            FrontendSeen(
                status.frontend,
                status.bound,
                status.state,
                status.detail,
                admitted.get(status.frontend),
            )
            for status in served.frontends(rule.name)
        ),
        policy=rule.policy,
        pools=rule.pools,
        loops=tuple(sorted(plan.loops)),
    )
    return seen if live is None else _with_life(seen, question.client, live)


def _pods(namespace: str, held: store.Store) -> tuple[Pod, ...] | None:
    """The pods of a namespace; None if no source has read pods."""
    known = held.all(pod_kind.KIND)
    found = [pod for name, pod in known.items() if name.namespace == namespace]
    return tuple(Pod(pod.name.name, pod.labels) for pod in found) if known else None


def _with_life(seen: PortSeen, client: str, live: plane.Readable) -> PortSeen:
    """`seen`, with what the data plane knows."""
    notable: list[EndpointSeen] = []
    for backend in dict.fromkeys(each for pool in seen.pools for each in pool.backends):
        known = live.endpoint(seen.name, backend)
        is_boxed = known.penalized_until is not None and not known.is_used
        if (is_boxed or known.own_address_of) and len(notable) < _NOTABLE:
            notable.append(EndpointSeen(backend, is_boxed, known.own_address_of))
    return PortSeen(
        name=seen.name,
        is_served=seen.is_served,
        frontends=seen.frontends,
        policy=seen.policy,
        pools=seen.pools,
        loops=seen.loops,
        is_live=True,
        endpoints=tuple(notable),
        coming=tuple(live.coming(seen.name, client)),
    )


def _alike(
    wanted: names.NamespacedName, known: Iterable[names.NamespacedName]
) -> tuple[tuple[names.NamespacedName, ...], tuple[str, ...]]:
    """Services of this name elsewhere, and the names here that are most like it."""
    others = sorted(known)
    here = [each.name for each in others if each.namespace == wanted.namespace]
    elsewhere = tuple(each for each in others if each.name == wanted.name)
    near = difflib.get_close_matches(wanted.name, here, _NEIGHBOURS, cutoff=0.5)
    return elsewhere[:_NEIGHBOURS], tuple(near or here[:_NEIGHBOURS])


class _Silent:
    """Satisfies `plane.Forwarder`, carries nothing out, and says that every frontend is open."""

    def __init__(self) -> None:
        self._hear: Callable[[forwarding.Report], None] = lambda _: None

    def subscribe(self, hear: Callable[[forwarding.Report], None]) -> None:
        """Reports come while `send` runs."""
        self._hear = hear

    def send(self, message: forwarding.Message) -> None:
        """Nothing is done."""
        if isinstance(message, forwarding.OpenFrontend):
            self._hear(forwarding.Opened(message.address))

    def send_steps(self, message: forwarding.SetBackends) -> Iterator[None]:
        """Nothing is done."""
        del message
        return iter(())
