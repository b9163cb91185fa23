"""Collect the evidence: from the parts of a running proxy, or from objects alone."""

import difflib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from kproxy.explain.evidence import EndpointSeen, Evidence, FrontendSeen, Pod, PortSeen, Question
from kproxy.model import forwarding, names, steps
from kproxy.model.kinds import pod_kind
from kproxy.plane import plane
from kproxy.portal import budget
from kproxy.reconcile import proxier
from kproxy.reconcile.planning import rules
from kproxy.sources import source, store

_NEIGHBOURS = 5
_NOTABLE = 1000
"""At most so many boxed or own endpoints are listed."""

_RUN = 64
"""Endpoints, or names, that are looked at in one step: some 500 us."""


def gather_in_steps(
    question: Question,
    held: store.Store,
    served: proxier.Proxier,
    *,
    according_to: str,
    live: plane.Readable | None = None,
    problems: Iterable[source.Problem] = (),
) -> Generator[None, None, Evidence]:
    """What is known about the Service that `question` names, with a pause now and then.

    `live` is the data plane, which the caller has refreshed; None if only objects are known.
    `problems` are those of the source.
    """
    service = held.service(question.service)
    known: dict[str, object] = {}
    if service is None:
        alike = yield from _alike_in_steps(question.service, held.service_names())
        known["namesakes"], known["neighbours"] = alike
    ports: list[PortSeen] = []
    for plan in served.of_service(question.service):
        ports.append((yield from _port_in_steps(plan, question, served, live)))
        yield
    pods = yield from _pods_in_steps(question.service.namespace, held)
    return Evidence(
        question=question,
        according_to=according_to,
        node=served.options.node,
        near=served.options.portal.node.near,
        service=service,
        sources=held.sources(question.service) if service is not None else (),
        ports=tuple(ports),
        pods=pods,
        problems=tuple(
            str(each) for each in problems if each.subject == f"Service {question.service}"
        ),
        **known,  # type: ignore[arg-type]
    )


def from_objects(
    question: Question,
    held: store.Store,
    options: rules.Options,
    namespaces: frozenset[str],
    according_to: str,
    problems: Iterable[source.Problem] = (),
) -> Evidence:
    """The evidence as a proxy with these options would have it after it has read the objects."""
    served = proxier.Proxier(held, _Silent(), options, namespaces=namespaces, room=budget.Budget())
    served.mark_all()
    served.sync()
    gathering = gather_in_steps(
        question, held, served, according_to=according_to, problems=problems
    )
    return steps.at_once(gathering)


def _port_in_steps(
    plan: rules.PortPlan,
    question: Question,
    served: proxier.Proxier,
    live: plane.Readable | None,
) -> Generator[None, None, PortSeen]:
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
    return seen if live is None else (yield from _with_life(seen, question.client, live))


def _pods_in_steps(
    namespace: str, held: store.Store
) -> Generator[None, None, tuple[Pod, ...] | None]:
    """The pods of a namespace; None if no source has read pods."""
    known = held.all(pod_kind.KIND)
    found: list[Pod] = []
    for run in steps.runs(list(known.values())):
        found += (Pod(pod.name.name, pod.labels) for pod in run if pod.name.namespace == namespace)
        yield
    return tuple(found) if known else None


def _with_life(
    seen: PortSeen, client: str, live: plane.Readable
) -> Generator[None, None, PortSeen]:
    """`seen`, with what the data plane knows."""
    notable: list[EndpointSeen] = []
    pools = itertools.chain.from_iterable(pool.backends for pool in seen.pools)
    for count, backend in enumerate(dict.fromkeys(pools), 1):
        if count % _RUN == 0:
            yield
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


def _alike_in_steps(
    wanted: names.NamespacedName, known: Iterable[names.NamespacedName]
) -> Generator[None, None, tuple[tuple[names.NamespacedName, ...], tuple[str, ...]]]:
    """Services of this name elsewhere, and the names here that are most like it."""
    others = yield from steps.sorted_in_steps(known, tuple)
    here: list[str] = []
    elsewhere: list[names.NamespacedName] = []
    near: list[str] = []
    for run in steps.runs(others, _RUN):
        found = [each.name for each in run if each.namespace == wanted.namespace]
        near += _like(wanted.name, found)
        here += found[: _NEIGHBOURS - len(here)]
        elsewhere += (each for each in run if each.name == wanted.name)
        yield
    return tuple(elsewhere[:_NEIGHBOURS]), tuple(_like(wanted.name, near) or here)


def _like(name: str, among: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, among, _NEIGHBOURS, cutoff=0.5)


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
