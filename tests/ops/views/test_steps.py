"""What is shown of ten thousand Services is made in steps: no step looks at many of them."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest

from kproxy.explain import evidence, gather
from kproxy.model import addresses, forwarding, labels, names
from kproxy.ops.views import fact_stream, status
from kproxy.plane import snapshots
from tests.ops import observing

MANY = 2000
FEW = 300
"""A step looks at fewer than so many things."""


class Counter:
    """Counts calls since it was read last."""

    def __init__(self) -> None:
        self._count = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose calls count."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count += 1
            return function(*args, **kwargs)

        return counted

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """`items`, each of which counts as it is taken."""
        for item in items:
            self._count += 1
            yield item

    def most(self, steps: Iterable[object]) -> int:
        """Take all steps. The most that one of them counted."""
        counts = []
        for _ in steps:
            counts.append(self._count)
            self._count = 0
        return max(*counts, self._count)


@pytest.fixture
async def proxy() -> AsyncIterator[observing.OpenProxy]:
    """A proxy of many Services, none of which has clients."""
    with observing.open_proxy() as made:
        made.serve(*(f"web-{number}" for number in range(MANY)), affinity=60)
        yield made


@pytest.fixture
def counter() -> Counter:
    """A counter at zero."""
    return Counter()


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "web-7"},
        {"namespace": "other"},
        {"namespace": "default", "name": "web-7"},
        {"selector": labels.parse("tier=front")},
    ],
    ids=["name", "namespace", "both", "labels"],
)
async def test_services_that_were_not_asked_for_are_passed_over_in_steps(
    proxy: observing.OpenProxy,
    counter: Counter,
    asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = proxy.proxier.known()
    monkeypatch.setattr(proxy.proxier, "known", lambda: counter.each(known))
    found: list[Any] = []
    assert counter.most(map(found.append, status.select(proxy.seen, **asked))) < FEW
    names_found = [plan.rule.name.service.name for plan in found if plan is not None]
    assert names_found == (["web-7"] if "name" in asked else [])


async def test_services_without_clients_are_passed_over_in_steps(
    proxy: observing.OpenProxy, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy.plane, "affinity", counter.wrap(proxy.plane.affinity))
    plans = proxy.proxier.known()
    assert counter.most(status.affinity_views(proxy.seen, plans)) < FEW


async def test_facts_that_were_not_asked_for_are_passed_over_in_steps(
    proxy: observing.OpenProxy, counter: Counter
) -> None:
    is_wanted = counter.wrap(lambda _: False)
    assert counter.most(fact_stream.recent(proxy.feed, is_wanted)) < FEW


def gathered(proxy: observing.OpenProxy, name: str) -> Iterator[None]:
    """The steps in which the evidence about a Service is gathered."""
    question = evidence.Question(names.NamespacedName("default", name), client="10.9.9.9")
    return gather.gather_in_steps(
        question, proxy.source.store, proxy.proxier, according_to="the proxy", live=proxy.plane
    )


async def test_evidence_about_many_endpoints_is_gathered_in_steps(
    proxy: observing.OpenProxy, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [addresses.SocketAddress(f"10.1.{n // 250}.{n % 250}", 80) for n in range(MANY)]
    (plan,) = proxy.proxier.of_service(names.NamespacedName("default", "web-7"))
    family = addresses.Family.IPV4
    pool = forwarding.Pool(forwarding.Scope.CLUSTER, family, tuple(found))
    rule = forwarding.Rule(plan.rule.name, plan.rule.frontends, plan.rule.policy, (pool,))
    changed = type(plan)(rule, plan.places)
    monkeypatch.setattr(proxy.proxier, "of_service", lambda _: [changed])
    monkeypatch.setattr(
        proxy.plane, "endpoint", counter.wrap(lambda *_: snapshots.Endpoint(is_used=True))
    )
    assert 0 < counter.most(gathered(proxy, "web-7")) < FEW


async def test_names_like_one_that_is_not_known_are_looked_for_in_steps(
    proxy: observing.OpenProxy, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = proxy.source.store.service_names()
    monkeypatch.setattr(proxy.source.store, "service_names", lambda: counter.each(known))
    assert 0 < counter.most(gathered(proxy, "web-x")) <= FEW
