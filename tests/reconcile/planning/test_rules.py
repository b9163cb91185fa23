"""From a Service and its endpoints to forwarding rules: pure tables.

Behaviour: rows 1, 3, 4, 7, 21, 29, 34 and 41 of docs/behaviour.md.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from kproxy.model import addresses, admission, forwarding, lifetimes, names
from kproxy.model import steps as stepwise
from kproxy.model.kinds import endpoints, services
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.reconcile import builders

WEB = builders.named("web")
HTTP = builders.port_of("web")
IPV4, IPV6 = addresses.Family
ROUND_ROBIN, RANDOM = services.Strategy.ROUND_ROBIN, services.Strategy.RANDOM
LOCAL = services.TrafficPolicy.LOCAL
KINDS = forwarding.FrontendKind
SCOPE = forwarding.Scope


def rules_of(
    *objects: admission.Accepted, **options: Any
) -> dict[names.ServicePortName, forwarding.Rule]:
    kept = store.Store()
    for each in objects:
        kept.apply(each)
    plans = plans_of(kept, **{"node": "n1", **options})
    return {name: plan.rule for name, plan in plans.items() if plan.is_served}


def plans_of(kept: store.Store, **options: Any) -> dict[names.ServicePortName, rules.PortPlan]:
    steps = rules.plans_for(kept.service(WEB), kept.sources(WEB), builders.options(**options))
    return stepwise.at_once(steps)


def rule_of(*objects: admission.Accepted, **options: Any) -> forwarding.Rule:
    (rule,) = rules_of(*objects, **options).values()
    return rule


def test_a_cluster_ip_service_has_one_rule_per_port_with_its_own_endpoints() -> None:
    assert rules_of(
        builders.service(ports={"http": 80, "admin": 9000}),
        builders.sliced("web", "10.1.0.1:8080 10.1.0.2:8080"),
        builders.sliced("web", "10.1.0.1:9001", ports=["admin"], suffix="2"),
    ) == {
        HTTP: forwarding.Rule(
            HTTP,
            (forwarding.Frontend(KINDS.CLUSTER_IP, "10.0.9.1", 80),),
            forwarding.Policy(ROUND_ROBIN, None),
            builders.pools("10.1.0.1:8080 10.1.0.2:8080"),
        ),
        builders.port_of("web", "admin"): forwarding.Rule(
            builders.port_of("web", "admin"),
            (forwarding.Frontend(KINDS.CLUSTER_IP, "10.0.9.1", 9000),),
            forwarding.Policy(ROUND_ROBIN, None),
            builders.pools("10.1.0.1:9001"),
        ),
    }


def test_a_frontend_is_served_by_the_endpoints_of_its_family() -> None:
    """A dual-stack Service has each pod in two slices (docs/behaviour.md row 39)."""
    six = addresses.SocketAddress("fd00::1", 8080)
    rule = rule_of(
        builders.service(other_cluster_ips=("fd00::a",), internal_policy=LOCAL),
        builders.sliced("web", "10.1.0.1"),
        builders.sliced("web", [endpoints.Endpoint(six, node="n1")], suffix="2"),
    )
    both = {frontend.family: frontend for frontend in rule.frontends}
    assert rule.backends(SCOPE.CLUSTER, IPV4) == (builders.backend("10.1.0.1"),)
    assert rule.backends(SCOPE.LOCAL, IPV4) == ()
    assert rule.backends(SCOPE.CLUSTER, IPV6) == rule.backends(SCOPE.LOCAL, IPV6) == (six,)
    assert rule.fate(both[IPV4]) is forwarding.FrontendState.DROPPED
    assert rule.fate(both[IPV6]) is forwarding.FrontendState.BOUND


def test_endpoints_of_the_other_family_alone_serve_no_client() -> None:
    six = endpoints.Endpoint(addresses.SocketAddress("fd00::1", 8080))
    rule = rule_of(builders.service(), builders.sliced("web", [six]))
    assert rule.fate(rule.frontends[0]) is forwarding.FrontendState.NO_ENDPOINTS


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param([], id="no Service, endpoints alone"),
        pytest.param([builders.service(ip="")], id="headless"),
        pytest.param(
            [builders.service(ip="", type=services.ServiceType.EXTERNAL_NAME)], id="ExternalName"
        ),
        pytest.param([builders.service(proxied_elsewhere=True)], id="proxied elsewhere"),
        pytest.param([builders.service(ports={})], id="no ports"),
        pytest.param([builders.service("other")], id="another Service"),
        pytest.param(
            [builders.service(namespace="other")], id="of the same name in another namespace"
        ),
    ],
)
def test_nothing_is_proxied_for(objects: Sequence[admission.Accepted]) -> None:
    assert rules_of(*objects, builders.sliced("web")) == {}


def test_only_tcp_and_udp_ports_have_rules() -> None:
    protocols = {"tcp": names.Protocol.TCP, "udp": names.Protocol.UDP, "sctp": names.Protocol.SCTP}
    ports = tuple(services.ServicePort(name, each, 53) for name, each in protocols.items())
    found = rules_of(builders.service(ports=ports))
    assert [(name.port, name.protocol) for name in found] == list(protocols.items())[:2]
    assert [rule.frontends[0].protocol for rule in found.values()] == ["TCP", "UDP"]


def test_without_endpoints_there_is_a_rule_without_backends() -> None:
    rule = rule_of(builders.service())
    assert rule.pools == ()
    assert rule.frontends == (forwarding.Frontend(KINDS.CLUSTER_IP, "10.0.9.1", 80),)


def test_endpoints_are_joined_by_port_name_and_never_by_number() -> None:
    service = builders.service(ports={"http": 80, "admin": 8080})
    found = rules_of(service, builders.sliced("web", "10.1.0.1:8080"))
    assert found[HTTP].backends(SCOPE.CLUSTER) == builders.backends("10.1.0.1:8080")
    assert found[builders.port_of("web", "admin")].backends(SCOPE.CLUSTER) == ()


def test_an_unnamed_port_is_joined_with_an_unnamed_port() -> None:
    found = rules_of(builders.service(ports={"": 80}), builders.sliced("web", ports=[""]))
    assert found[builders.port_of("web", "")].backends(SCOPE.CLUSTER) == builders.backends(
        "10.1.0.1"
    )


@pytest.mark.parametrize(
    ("annotated", "default", "effective"),
    [
        pytest.param(None, ROUND_ROBIN, ROUND_ROBIN, id="default"),
        pytest.param(None, RANDOM, RANDOM, id="another default"),
        pytest.param(RANDOM, ROUND_ROBIN, RANDOM, id="the annotation wins"),
        pytest.param(ROUND_ROBIN, RANDOM, ROUND_ROBIN, id="whatever the default"),
    ],
)
def test_the_strategy_is_the_annotation_or_else_the_default(
    annotated: services.Strategy | None,
    default: services.Strategy,
    effective: services.Strategy,
) -> None:
    found = rules_of(builders.service(strategy=annotated), default_strategy=default)
    assert found[HTTP].policy == forwarding.Policy(effective, None)


def test_affinity_is_the_services_and_the_same_for_all_its_ports() -> None:
    service = builders.service(ports={"http": 80, "admin": 90}, affinity_seconds=60)
    assert [rule.policy.affinity_seconds for rule in rules_of(service).values()] == [60, 60]


@pytest.mark.parametrize(
    ("internal", "external", "scopes"),
    [
        pytest.param({}, {}, [SCOPE.CLUSTER] * 4, id="Cluster"),
        pytest.param(
            {"internal_policy": LOCAL},
            {},
            [SCOPE.LOCAL, *[SCOPE.CLUSTER] * 3],
            id="internal Local concerns the cluster IP",
        ),
        pytest.param(
            {},
            {"external_policy": LOCAL},
            [SCOPE.CLUSTER, *[SCOPE.LOCAL] * 3],
            id="external Local concerns everything else",
        ),
        pytest.param(
            {"internal_policy": LOCAL}, {"external_policy": LOCAL}, [SCOPE.LOCAL] * 4, id="both"
        ),
    ],
)
def test_every_virtual_address_is_a_frontend_in_the_scope_of_its_policy(
    internal: dict[str, Any], external: dict[str, Any], scopes: list[forwarding.Scope]
) -> None:
    service = builders.service(
        type=services.ServiceType.LOAD_BALANCER,
        ports=(services.ServicePort("http", names.Protocol.TCP, 80, 30080),),
        external_ips=("203.0.113.1",),
        load_balancer_ips=("198.51.100.1",),
        **internal,
        **external,
    )
    assert rule_of(service).frontends == (
        forwarding.Frontend(KINDS.CLUSTER_IP, "10.0.9.1", 80, scopes[0]),
        forwarding.Frontend(KINDS.NODE_PORT, "127.0.0.1", 30080, scopes[1]),
        forwarding.Frontend(KINDS.EXTERNAL_IP, "203.0.113.1", 80, scopes[2]),
        forwarding.Frontend(KINDS.LOAD_BALANCER, "198.51.100.1", 80, scopes[3]),
    )


def ready(text: str, node: str = "") -> endpoints.Endpoint:
    return builders.endpoint(text, node=node)


def draining(text: str, node: str = "") -> endpoints.Endpoint:
    return builders.endpoint(text, ready=False, serving=True, terminating=True, node=node)


def unready(text: str, node: str = "") -> endpoints.Endpoint:
    return builders.endpoint(text, ready=False, serving=False, node=node)


def ended(text: str, node: str = "") -> endpoints.Endpoint:
    return builders.endpoint(text, ready=False, serving=False, terminating=True, node=node)


@pytest.mark.parametrize(
    ("found", "cluster", "local"),
    [
        pytest.param([ready("1.1.1.1"), unready("1.1.1.2")], "1.1.1.1", "", id="ready only"),
        pytest.param([ready("1.1.1.1"), draining("1.1.1.2")], "1.1.1.1", "", id="not draining"),
        pytest.param([draining("1.1.1.1"), unready("1.1.1.2")], "1.1.1.1", "", id="else draining"),
        pytest.param([ended("1.1.1.1"), unready("1.1.1.2")], "", "", id="else none"),
        pytest.param(
            [ready("1.1.1.1", "n1"), ready("1.1.1.2", "n2")],
            "1.1.1.1 1.1.1.2",
            "1.1.1.1",
            id="local are those of this node",
        ),
        pytest.param(
            [draining("1.1.1.1", "n1"), ready("1.1.1.2", "n2")],
            "1.1.1.2",
            "1.1.1.1",
            id="the fallback is local where nothing local is ready",
        ),
        pytest.param(
            [unready("1.1.1.1", "n1"), draining("1.1.1.2", "n2")],
            "1.1.1.2",
            "",
            id="and cluster-wide where nothing is ready",
        ),
        pytest.param(
            [ready("1.1.1.1", "n1"), draining("1.1.1.2", "n1"), draining("1.1.1.3", "n2")],
            "1.1.1.1",
            "1.1.1.1",
            id="no fallback beside a ready one",
        ),
        pytest.param([ready("1.1.1.1", "N1")], "1.1.1.1", "", id="node names are case-sensitive"),
    ],
)
def test_ready_endpoints_or_else_those_that_drain_in_each_scope_by_itself(
    found: list[endpoints.Endpoint], cluster: str, local: str
) -> None:
    service = builders.service(internal_policy=services.TrafficPolicy.LOCAL)
    rule = rule_of(service, builders.sliced("web", found))
    assert rule.pools == builders.pools(cluster, local)
    assert rule.backends(SCOPE.CLUSTER) == builders.backends(cluster)
    assert rule.backends(SCOPE.LOCAL) == builders.backends(local)


@pytest.mark.parametrize("policy", ["internal_policy", "external_policy"])
def test_local_endpoints_are_for_services_that_have_a_local_policy(policy: str) -> None:
    found = builders.sliced("web", [ready("1.1.1.1", "n1"), ready("1.1.1.2", "n2")])
    plain = builders.service(external_ips=("203.0.113.1",))
    fields: dict[str, Any] = {policy: services.TrafficPolicy.LOCAL}
    local = builders.service(external_ips=plain.external_ips, **fields)
    assert rule_of(plain, found).pools == builders.pools("1.1.1.1 1.1.1.2")
    assert rule_of(local, found).pools == builders.pools("1.1.1.1 1.1.1.2", "1.1.1.1")


@pytest.mark.parametrize("node", ["", "n1"])
def test_a_node_without_a_name_has_no_local_endpoints(node: str) -> None:
    rule = rule_of(builders.service(), builders.sliced("web", [ready("1.1.1.1", "")]), node=node)
    assert rule.backends(SCOPE.LOCAL) == ()


def test_the_rule_is_the_same_whatever_order_the_slices_came_in() -> None:
    one = builders.sliced("web", "10.1.0.3 10.1.0.1")
    two = builders.sliced("web", "10.1.0.2 10.1.0.1", suffix="2")
    service = builders.service()
    assert rule_of(service, one, two) == rule_of(two, one, service)
    assert rule_of(service, one, two).backends(SCOPE.CLUSTER) == builders.backends(
        "10.1.0.1 10.1.0.2 10.1.0.3"
    )


KEEP, DRAIN, RESET = lifetimes.OnEndpointRemoved


@pytest.mark.parametrize(
    ("on_removed", "spared"),
    [
        pytest.param(KEEP, "", id="keep: nothing has to be known"),
        pytest.param(DRAIN, "10.1.0.2", id="drain: from the first word that the pod ends"),
        pytest.param(RESET, "10.1.0.2 10.1.0.3", id="reset: once the pod is gone"),
    ],
)
def test_an_endpoint_that_is_not_ready_is_not_removed(
    on_removed: lifetimes.OnEndpointRemoved, spared: str
) -> None:
    found = [
        builders.endpoint("10.1.0.1"),
        builders.endpoint("10.1.0.2", ready=False),
        builders.endpoint("10.1.0.3", ready=False, terminating=True),
    ]
    lifetime = lifetimes.Lifetime(on_removed=on_removed)

    rule = rule_of(builders.service(lifetime=lifetime), builders.sliced("web", found))

    assert rule.spared == builders.backends(spared)
    assert rule.policy.lifetime == lifetime


def test_the_last_endpoints_that_serve_while_terminating_are_not_drained() -> None:
    found = [builders.endpoint("10.1.0.1", ready=False, serving=True, terminating=True)]
    service = builders.service(lifetime=lifetimes.Lifetime(on_removed=DRAIN))

    rule = rule_of(service, builders.sliced("web", found))

    assert (rule.pools, rule.spared) == (builders.pools("10.1.0.1"), ())


def test_one_that_ends_is_drained_though_it_is_the_last_one_of_this_node() -> None:
    found = [draining("10.1.0.1", "n1"), ready("10.1.0.2", "n2")]
    service = builders.service(lifetime=lifetimes.Lifetime(on_removed=DRAIN))

    rule = rule_of(service, builders.sliced("web", found))

    assert (rule.pools, rule.spared) == (builders.pools("10.1.0.2"), ())
