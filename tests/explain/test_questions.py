"""Each sentence of an explanation, reached by an input that is broken in just that way."""

import dataclasses
import ipaddress
from typing import Any

import pytest
import yaml

from kproxy.explain import answer, evidence, gather, questions
from kproxy.explain.answer import Reason, Verdict
from kproxy.model import addresses, admission, forwarding, names
from kproxy.ops.views import json_pieces
from kproxy.plane import snapshots
from kproxy.portal import loopback, portal
from kproxy.reconcile.planning import rules
from kproxy.sources import store

WEB = """
kind: Service
apiVersion: v1
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
"""
SLICE = """
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: [10.244.0.1], nodeName: node-a}]
"""
FEW = addresses.SocketAddress("10.244.0.1", 80)


def known(
    *documents: str,
    to: str = "",
    shift_below: int = 1,
    node: str = "node-a",
    name: str = "web",
    **question: Any,
) -> evidence.Evidence:
    """The evidence about the Service `web`, from these documents alone."""
    held = store.Store()
    for text in documents:
        for document in yaml.safe_load_all(text):
            for admitted in admission.admit(document):
                assert admitted.accepted is not None, admitted
                held.apply(admitted.accepted)
    allowed = portal.Settings(external_ips=(ipaddress.ip_network("203.0.113.0/24"),))
    asked = evidence.Question(
        names.NamespacedName("default", name),
        to=addresses.parse_socket_address(to) if to else None,
        **question,
    )
    through = loopback.LoopbackPortal(shift_below, allowed)
    options = rules.Options(portal=through, node=node)
    return gather.from_objects(asked, held, options, frozenset(), "the objects alone")


def explained(*documents: str, **question: Any) -> answer.Answer:
    return questions.explain(known(*documents, **question))


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A document with some of its text exchanged."""
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


def test_a_connection_that_is_served() -> None:
    found = explained(WEB, SLICE, client="10.0.0.7")
    assert (found.verdict, found.reason, found.endpoint) == (
        Verdict.SERVED,
        Reason.SERVED,
        FEW,
    )
    assert found.message == (
        "a connection to 127.96.0.10:8080 is served by 10.244.0.1:80: it is the only one"
    )
    assert [step.name for step in found.steps] == [
        *("service", "proxied", "port", "address", "selector", "endpoints"),
        *("ports", "ready", "policy", "pick"),
    ]


WEIGHED = "{name: web, annotations: {kproxy.io/weights: '%s'}}"
LOCAL = ("  selector", "  internalTrafficPolicy: Local\n  selector")
BALANCED = changed(
    WEB,
    (
        "  clusterIP",
        "  type: LoadBalancer\n  loadBalancerSourceRanges: [192.0.2.0/24]\n  clusterIP",
    ),
) + ("status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}\n")


@pytest.mark.parametrize(
    ("documents", "asked", "verdict", "reason", "piece"),
    [
        pytest.param(
            [changed(WEB, ("name: web}", "name: wep}"))],
            {},
            Verdict.NOT_PROXIED,
            Reason.NO_SUCH_SERVICE,
            "there is no Service default/web",
            id="no such Service",
        ),
        pytest.param(
            [
                changed(
                    WEB,
                    ("  clusterIP: 10.96.0.10\n", "  externalName: db.example\n"),
                    ("spec:", "spec:\n  type: ExternalName"),
                )
            ],
            {},
            Verdict.NOT_PROXIED,
            Reason.EXTERNAL_NAME,
            "is a DNS name for db.example",
            id="ExternalName",
        ),
        pytest.param(
            [changed(WEB, ("10.96.0.10", "None"))],
            {},
            Verdict.NOT_PROXIED,
            Reason.HEADLESS,
            "is headless",
            id="headless",
        ),
        pytest.param(
            [changed(WEB, ("  clusterIP: 10.96.0.10\n", ""))],
            {},
            Verdict.NOT_PROXIED,
            Reason.NO_CLUSTER_IP,
            "has no cluster IP yet",
            id="no cluster IP",
        ),
        pytest.param(
            [
                changed(
                    WEB,
                    (
                        "{name: web}",
                        "{name: web, labels: {service.kubernetes.io/service-proxy-name: other}}",
                    ),
                )
            ],
            {},
            Verdict.NOT_PROXIED,
            Reason.OTHER_PROXY,
            "belongs to another proxy",
            id="claimed by another proxy",
        ),
        pytest.param(
            [WEB, SLICE],
            {"port": "https"},
            Verdict.REFUSED,
            Reason.NO_SUCH_PORT,
            "has no port https",
            id="no such port",
        ),
        pytest.param(
            [WEB, SLICE],
            {"to": "10.96.0.10:443"},
            Verdict.REFUSED,
            Reason.NO_SUCH_PORT,
            "has no port 443",
            id="no such port number",
        ),
        pytest.param(
            [changed(WEB, ("port: 8080", "port: 8080, protocol: SCTP"))],
            {},
            Verdict.NOT_PROXIED,
            Reason.PROTOCOL_NOT_SERVED,
            "is SCTP, which kproxy does not serve",
            id="SCTP",
        ),
        pytest.param(
            [WEB, SLICE],
            {"to": "10.96.0.99:8080"},
            Verdict.REFUSED,
            Reason.NO_SUCH_ADDRESS,
            "10.96.0.99:8080 is no address of default/web",
            id="not an address of it",
        ),
        pytest.param(
            [changed(WEB, ("8080", "80")), SLICE],
            {"to": "127.96.0.10:80", "shift_below": 1024},
            Verdict.REFUSED,
            Reason.PORT_MOVED,
            "port 80 of default/web is at 127.96.0.10:10080",
            id="low port moved",
        ),
        pytest.param(
            [changed(WEB, ("  selector", "  externalIPs: [198.51.100.9]\n  selector")), SLICE],
            {"to": "198.51.100.9:8080"},
            Verdict.NOT_PROXIED,
            Reason.ADDRESS_REFUSED,
            "is not in --external-ip-cidrs",
            id="an external IP that is not allowed",
        ),
        pytest.param(
            [changed(WEB, ("10.96.0.10", "fd00::10")), SLICE],
            {},
            Verdict.REFUSED,
            Reason.ADDRESS_UNAVAILABLE,
            "cannot be mapped into 127.0.0.0/8",
            id="IPv6 on the loopback portal",
        ),
        pytest.param(
            [
                changed(
                    WEB, ("{name: web}", '{name: web, creationTimestamp: "2026-01-02T00:00:00Z"}')
                ),
                changed(
                    WEB, ("{name: web}", '{name: old, creationTimestamp: "2026-01-01T00:00:00Z"}')
                ),
                SLICE,
            ],
            {},
            Verdict.NOT_PROXIED,
            Reason.COLLISION,
            "belongs to default/old:http",
            id="another Service has the address",
        ),
        pytest.param(
            [WEB],
            {},
            Verdict.REFUSED,
            Reason.NO_ENDPOINT_OBJECTS,
            "there is no EndpointSlice with the label kubernetes.io/service-name=web",
            id="no endpoint objects",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("ports: [{name: http, port: 80}]", "ports: []"))],
            {},
            Verdict.REFUSED,
            Reason.TARGET_PORT,
            "no pod has the container port http",
            id="wrong targetPort",
        ),
        pytest.param(
            [
                changed(WEB, (", targetPort: http", "")),
                changed(SLICE, ("ports: [{name: http, port: 80}]", "ports: []")),
            ],
            {},
            Verdict.REFUSED,
            Reason.NO_ENDPOINTS,
            'have no endpoint with port "http"',
            id="no endpoint yet",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("[{addresses: [10.244.0.1], nodeName: node-a}]", "[]"))],
            {},
            Verdict.REFUSED,
            Reason.NO_ENDPOINTS,
            'have port "http", and no address there',
            id="a port without addresses",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("name: http", "name: web"))],
            {},
            Verdict.REFUSED,
            Reason.PORT_NAME,
            'port "http" of default/web matches no port of its endpoints, which have "web"',
            id="wrong port name",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("port: 80", "port: 80, protocol: UDP"))],
            {},
            Verdict.REFUSED,
            Reason.PROTOCOL,
            "is TCP, and that of its endpoints is UDP",
            id="wrong protocol",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("endpoints: [{", "endpoints: [{conditions: {ready: false}, "))],
            {},
            Verdict.REFUSED,
            Reason.NOT_READY,
            "1 endpoint, and none is ready: 10.244.0.1:80",
            id="not ready",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("IPv4", "IPv6"), ("10.244.0.1", "fd00::1"))],
            {},
            Verdict.REFUSED,
            Reason.FAMILY,
            "is an address of IPv4, and no endpoint is",
            id="endpoints of the other family",
        ),
        pytest.param(
            [changed(WEB, ("{name: web}", WEIGHED % "10.244.0.1=0")), SLICE],
            {},
            Verdict.REFUSED,
            Reason.WEIGHTS,
            "1 endpoint is ready, and each has weight 0 by annotation kproxy.io/weights",
            id="weight 0",
        ),
        pytest.param(
            [WEB, changed(SLICE, ("10.244.0.1", "10.96.0.10"), ("port: 80", "port: 8080"))],
            {},
            Verdict.REFUSED,
            Reason.OWN_ADDRESS,
            "are its own addresses (10.96.0.10:8080)",
            id="the Service's own address",
        ),
        pytest.param(
            [changed(WEB, LOCAL), SLICE],
            {"node": "node-b"},
            Verdict.DROPPED,
            Reason.LOCAL_POLICY,
            'no ready endpoint of default/web is on node "node-b"',
            id="Local without a local endpoint",
        ),
        pytest.param(
            [BALANCED, SLICE],
            {"to": "203.0.113.7:8080", "client": "198.51.100.1"},
            Verdict.DROPPED,
            Reason.SOURCE_RANGES,
            "198.51.100.1 is not in the loadBalancerSourceRanges",
            id="outside the source ranges",
        ),
    ],
)
def test_each_way_to_fail_has_its_own_sentence(
    documents: list[str], asked: dict[str, Any], verdict: Verdict, reason: Reason, piece: str
) -> None:
    found = explained(*documents, **asked)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert piece in found.message
    assert found.endpoint is None
    assert found.steps[-1] == answer.Step(found.steps[-1].name, found.message, is_good=False)
    if reason is not Reason.ADDRESS_REFUSED:  # its message says what to do
        assert found.advice or reason is Reason.ADDRESS_UNAVAILABLE


@pytest.mark.parametrize(
    ("documents", "asked"),
    [
        pytest.param(
            [BALANCED, SLICE], {"to": "203.0.113.7:8080", "client": "192.0.2.9"}, id="range"
        ),
        pytest.param([BALANCED, SLICE], {"client": "198.51.100.1"}, id="cluster IP"),
        pytest.param([changed(WEB, LOCAL), SLICE], {}, id="Local, here"),
        pytest.param([WEB, SLICE], {"port": "8080"}, id="port by number"),
        pytest.param([WEB, SLICE], {"to": "127.96.0.10:8080"}, id="where it is bound"),
        pytest.param(
            [changed(WEB, ("8080", "80")), SLICE],
            {"to": "127.96.0.10:10080", "shift_below": 1024},
            id="the port that it was moved to",
        ),
    ],
)
def test_and_each_of_these_is_served(documents: list[str], asked: dict[str, Any]) -> None:
    found = explained(*documents, **asked)
    assert (found.verdict, found.endpoint) == (Verdict.SERVED, FEW), found.message


def test_an_endpoint_of_weight_0_is_no_candidate() -> None:
    two = changed(SLICE, ("endpoints: [{", "endpoints: [{addresses: [10.244.0.2]}, {"))
    found = explained(changed(WEB, ("{name: web}", WEIGHED % "10.244.0.2=0")), two)
    assert (found.verdict, found.candidates) == (Verdict.SERVED, (FEW,))
    ready = next(step.finding for step in found.steps if step.name == "ready")
    assert ready == (
        "1 of them get connections; 1 are not ready, hinted for elsewhere, or of weight 0"
    )


def test_an_address_beyond_a_bound_is_named() -> None:
    seen = known(WEB, SLICE)
    (port,) = seen.ports
    (frontend,) = port.frontends
    over = dataclasses.replace(
        frontend, state=forwarding.FrontendState.OVER_BUDGET, detail="raise --max-listeners"
    )
    ports = (dataclasses.replace(port, frontends=(over,)),)
    found = questions.explain(dataclasses.replace(seen, ports=ports))
    assert (found.verdict, found.reason) == (Verdict.REFUSED, Reason.OVER_BUDGET)
    assert "raise --max-listeners" in found.message


def test_a_client_on_the_node_may_reach_every_endpoint() -> None:
    """Row 27 of docs/behaviour.md."""
    local = changed(
        BALANCED, ("  loadBalancerSourceRanges: [192.0.2.0/24]", "  externalTrafficPolicy: Local")
    )
    seen = known(local, SLICE, node="node-b", to="203.0.113.7:8080", client="10.9.0.7")
    assert questions.explain(seen).reason is Reason.LOCAL_POLICY
    (port,) = seen.ports
    near = "10.9.0.0/16"
    frontends = tuple(dataclasses.replace(each, admitted=(near,)) for each in port.frontends)
    ports = (dataclasses.replace(port, frontends=frontends),)
    found = questions.explain(dataclasses.replace(seen, near=(near,), ports=ports))
    assert (found.verdict, found.endpoint) == (Verdict.SERVED, FEW)
    assert "near" in [step.name for step in found.steps]


class TestPods:
    """What the selector means, where pods are known."""

    POD = evidence.Pod("web-0", (("app", "wep"), ("tier", "front")))

    def test_a_selector_that_means_no_pod(self) -> None:
        seen = dataclasses.replace(known(WEB), pods=(self.POD,))
        found = questions.explain(seen)
        assert found.reason is Reason.NO_PODS_MATCH
        assert "no pod in namespace default has the labels app=web" in found.message
        assert "the pods have app=wep,tier=front" in found.advice

    def test_pods_that_it_means_are_counted(self) -> None:
        chosen = dataclasses.replace(self.POD, labels=(("app", "web"),))
        seen = dataclasses.replace(known(WEB, SLICE), pods=(self.POD, chosen))
        found = questions.explain(seen)
        assert found.verdict is Verdict.SERVED
        step = next(step for step in found.steps if step.name == "selector")
        assert step.finding == "1 pod with app=web"


class TestLive:
    """What a running data plane knows besides."""

    def seen(self, **changes: Any) -> evidence.Evidence:
        two = changed(
            SLICE, ("[10.244.0.1], nodeName: node-a}", "[10.244.0.1]}, {addresses: [10.244.0.2]}")
        )
        found = known(WEB, two, client="10.0.0.7")
        (port,) = found.ports
        return dataclasses.replace(
            found, ports=(dataclasses.replace(port, is_live=True, **changes),)
        )

    OTHER = addresses.SocketAddress("10.244.0.2", 80)

    def coming(
        self, backend: addresses.SocketAddress, seconds_left: float | None = None
    ) -> tuple[snapshots.Coming]:
        return (
            snapshots.Coming(
                scope=forwarding.Scope.CLUSTER,
                family=addresses.Family.IPV4,
                backend=backend,
                seconds_left=seconds_left,
            ),
        )

    def test_the_next_in_turn_is_named(self) -> None:
        found = questions.explain(self.seen(coming=self.coming(self.OTHER)))
        assert (found.endpoint, found.candidates) == (self.OTHER, (FEW, self.OTHER))

    def test_a_bound_client_goes_where_it_is_bound(self) -> None:
        sticky = forwarding.Policy(affinity_seconds=10800)
        found = questions.explain(
            self.seen(policy=sticky, coming=self.coming(self.OTHER, seconds_left=99.6))
        )
        assert found.endpoint == self.OTHER
        assert "session affinity sends 10.0.0.7 there for 100 s more" in found.message

    def test_boxed_endpoints_are_named(self) -> None:
        found = questions.explain(self.seen(endpoints=(evidence.EndpointSeen(FEW, is_boxed=True),)))
        assert found.verdict is Verdict.SERVED
        step = next(step for step in found.steps if step.name == "boxed")
        assert step.finding == "1 of 2 did not answer lately: 10.244.0.1:80"

    def test_without_any_that_answers_the_client_is_reset(self) -> None:
        both = tuple(evidence.EndpointSeen(each, is_boxed=True) for each in (FEW, self.OTHER))
        found = questions.explain(self.seen(endpoints=both))
        assert (found.verdict, found.reason) == (Verdict.RESET, Reason.ENDPOINTS_FAIL)


def test_evidence_crosses_the_control_socket_as_it_is() -> None:
    seen = dataclasses.replace(known(BALANCED, SLICE, client="10.0.0.7"), pods=(TestPods.POD,))
    assert evidence.decode(b"".join(json_pieces.of_object(seen))) == seen


DUAL = changed(
    WEB, ("clusterIP: 10.96.0.10", "clusterIP: 'fd00::a'\n  clusterIPs: ['fd00::a', 10.96.0.10]")
)


def test_of_two_cluster_ips_the_one_that_is_there() -> None:
    found = explained(DUAL, SLICE)
    assert (found.verdict, found.endpoint) == (Verdict.SERVED, FEW)
    assert "cluster-ip 10.96.0.10:8080" in next(
        step.finding for step in found.steps if step.name == "address"
    )


def test_a_client_of_a_family_that_the_service_has_not() -> None:
    found = explained(WEB, SLICE, client="fd00::7")
    assert (found.verdict, found.reason) == (Verdict.REFUSED, Reason.FAMILY)
    assert found.message == (
        "fd00::7 is an address of IPv6, and default/web has none of that family"
    )
