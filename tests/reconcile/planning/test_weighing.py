"""Weights of a Service become those of its pools: by address, by its pods' label, or not at all."""

import pytest

from kproxy.model import admission, forwarding, names
from kproxy.model import steps as stepwise
from kproxy.model.kinds import pod_kind, services
from kproxy.model.weighting import Weights
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.reconcile import builders

WEB = builders.named("web")
STATES = forwarding.FrontendState


def pod(name: str, **labels: str) -> pod_kind.Pod:
    return pod_kind.Pod(builders.named(name), tuple(sorted(labels.items())))


def stored(*objects: admission.Accepted) -> store.Store:
    kept = store.Store()
    for each in objects:
        kept.apply(each)
    return kept


def plan_of(kept: store.Store) -> rules.PortPlan:
    (plan,) = stepwise.at_once(
        rules.plans_for(
            kept.service(WEB), kept.sources(WEB), builders.options(node="n1"), kept.pods(WEB)
        )
    ).values()
    return plan


def weights_of(plan: rules.PortPlan, scope: str = "cluster") -> dict[str, int]:
    """The weights of a pool by address; all 1 where the pool says nothing."""
    for pool in plan.rule.pools:
        if pool.scope == scope:
            weights = pool.weights or (1,) * len(pool.backends)
            return {
                each.address: weight for each, weight in zip(pool.backends, weights, strict=True)
            }
    return {}


def three(*, local: str = "") -> admission.Accepted:
    """10.1.0.1 to 10.1.0.3, which are the pods a, b and c; one of them on this node."""
    return builders.sliced(
        "web",
        [
            builders.endpoint(f"10.1.0.{n}", pod=pod, node="n1" if pod == local else "n2")
            for n, pod in enumerate("abc", 1)
        ],
    )


def test_without_weights_a_pool_has_none() -> None:
    (pool,) = plan_of(stored(builders.service(), three())).rule.pools
    assert pool.weights == ()


@pytest.mark.parametrize("weights", [Weights((("10.9.9.9", 4),)), Weights((("10.1.0.1", 1),))])
def test_weights_that_change_nothing_are_none(weights: Weights) -> None:
    (pool,) = plan_of(stored(builders.service(weights=weights), three())).rule.pools
    assert pool.weights == ()


def test_by_address() -> None:
    weights = Weights((("10.1.0.1", 9), ("10.1.0.3", 0)))
    plan = plan_of(stored(builders.service(weights=weights), three()))
    assert weights_of(plan) == {"10.1.0.1": 9, "10.1.0.2": 1, "10.1.0.3": 0}


def test_by_the_label_of_the_pods() -> None:
    weights = Weights((), (("v1", 9), ("v2", 3)))
    pods = pod("a", version="v1"), pod("b", version="v2"), pod("c", version="v3", other="v1")
    plan = plan_of(stored(builders.service(weights=weights), three(), *pods))
    assert weights_of(plan) == {"10.1.0.1": 9, "10.1.0.2": 3, "10.1.0.3": 1}


def test_by_a_label_of_ones_own_and_the_address_counts_more() -> None:
    weights = Weights((("10.1.0.2", 7),), (("green", 5),), "colour")
    pods = pod("a", colour="green"), pod("b", colour="green")
    plan = plan_of(stored(builders.service(weights=weights), three(), *pods))
    assert weights_of(plan) == {"10.1.0.1": 5, "10.1.0.2": 7, "10.1.0.3": 1}


def test_a_pod_of_another_namespace_is_another_pod() -> None:
    weights = Weights((), (("v1", 9),))
    other = pod_kind.Pod(names.NamespacedName("other", "a"), (("version", "v1"),))
    plan = plan_of(stored(builders.service(weights=weights), three(), other))
    assert set(weights_of(plan).values()) == {1}


def test_all_of_weight_0_is_refused_and_said() -> None:
    weights = Weights(tuple((f"10.1.0.{n}", 0) for n in (1, 2, 3)))
    plan = plan_of(stored(builders.service(weights=weights), three()))
    (frontend,) = plan.rule.frontends
    assert plan.rule.fate(frontend) is STATES.NO_ENDPOINTS
    assert plan.why_absent(frontend) == (
        "every endpoint that is ready has weight 0 by annotation kproxy.io/weights"
    )


def test_local_ones_of_weight_0_are_no_local_ones() -> None:
    kept = stored(
        builders.service(
            weights=Weights((("10.1.0.2", 0),)), internal_policy=services.TrafficPolicy.LOCAL
        ),
        three(local="b"),
    )
    plan = plan_of(kept)
    (frontend,) = plan.rule.frontends
    assert plan.rule.fate(frontend) is STATES.DROPPED
    assert "has weight 0" in plan.why_absent(frontend)
    assert weights_of(plan) == {"10.1.0.1": 1, "10.1.0.2": 0, "10.1.0.3": 1}


def test_the_bound_on_endpoints_cuts_weights_too() -> None:
    kept = stored(builders.service(weights=Weights((("10.1.0.1", 9),))), three())
    options = builders.options(bounds=rules.Bounds(endpoints=2))
    (plan,) = stepwise.at_once(
        rules.plans_for(kept.service(WEB), kept.sources(WEB), options)
    ).values()
    (pool,) = plan.rule.pools
    assert len(pool.backends) == len(pool.weights) == 2


class TestStore:
    """Which Services a pod concerns."""

    def test_pods_concern_the_services_that_weigh_by_a_label(self) -> None:
        kept = store.Store()
        assert not kept.wants_pods
        kept.apply(builders.service("plain"))
        kept.apply(builders.service("by-address", weights=Weights((("10.1.0.1", 2),))))
        assert not kept.wants_pods
        assert kept.apply(pod("a", version="v1")) == frozenset()
        weighing = builders.service(weights=Weights((), (("v1", 2),)))
        kept.apply(weighing)
        assert kept.wants_pods
        assert kept.apply(pod("a", version="v1")) == frozenset()
        assert kept.apply(pod("a", version="v2")) == {WEB}
        assert kept.apply(pod("new")) == {WEB}
        assert kept.delete("Pod", builders.named("new")) == {WEB}
        other = pod_kind.Pod(names.NamespacedName("other", "a"))
        assert kept.apply(other) == frozenset()
        kept.apply(builders.service())
        assert not kept.wants_pods
        kept.apply(weighing)
        kept.delete("Service", WEB)
        assert not kept.wants_pods

    def test_only_pods_of_the_endpoints_are_given_and_only_if_asked_for(self) -> None:
        pods = pod("a"), pod("b"), pod("stranger")
        kept = stored(builders.service(), three(), *pods)
        assert kept.pods(WEB) == ()
        kept.apply(builders.service(weights=Weights((), (("v1", 2),))))
        assert kept.pods(WEB) == pods[:2]
