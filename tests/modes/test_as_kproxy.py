"""kproxy sends a client to the endpoints that kube-proxy's rules send it to, and to no other."""

import ipaddress
from typing import Any

import hypothesis
from hypothesis import strategies as st

from kproxy.model import addresses, forwarding, names, steps
from kproxy.model.kinds import endpoints, services
from kproxy.modes import world
from kproxy.modes.iptables import iptables_mode, trace
from kproxy.modes.packet import Packet, Verdict
from kproxy.portal import loopback, portal
from kproxy.reconcile.planning import rules
from kproxy.sources import store
from tests.modes import worlds
from tests.reconcile import builders

NODE = "10.0.0.10"
CIDR = "10.244.0.0/16"
POD, ELSEWHERE = "10.244.7.7", "192.0.2.7"
EXTERNAL, BALANCER = "203.0.113.1", "203.0.113.2"
AROUND = trace.Surroundings(own=(NODE,), outgoing=NODE)
ON = world.Node(name="n1", address=NODE, cluster_cidr=CIDR)
_POLICIES = st.sampled_from(services.TrafficPolicy)


class Portal(loopback.LoopbackPortal):
    """One that knows which clients are near, as that of real addresses does."""

    def __init__(self) -> None:
        super().__init__(1, portal.Settings(external_ips=builders.ALL_EXTERNAL_IPS))
        self.node = portal.Node((NODE,), (f"{NODE}/32", "127.0.0.0/8", CIDR))


@st.composite
def kept(draw: st.DrawFn) -> store.Store:
    """One Service with every address, and endpoints on two nodes in any condition."""
    ports = (services.ServicePort("http", names.Protocol.TCP, 80, 30080),)
    made = store.Store()
    made.apply(
        builders.service(
            type=services.ServiceType.LOAD_BALANCER,
            ports=ports,
            external_ips=(EXTERNAL,),
            load_balancer_ips=(BALANCER,),
            source_ranges=draw(st.sampled_from([(), ("192.0.2.0/24",), ("198.51.100.0/24",)])),
            internal_policy=draw(_POLICIES),
            external_policy=draw(_POLICIES),
        )
    )
    conditions = st.fixed_dictionaries(
        {"ready": st.booleans(), "serving": st.booleans(), "terminating": st.booleans()}
    )
    found: list[endpoints.Endpoint] = []
    for number in range(draw(st.integers(0, 4))):
        facts: dict[str, Any] = draw(conditions)
        node = draw(st.sampled_from(["n1", "n2", ""]))
        found.append(builders.endpoint(f"10.244.1.{number}", node=node, **facts))
    made.apply(builders.sliced("web", found))
    return made


@hypothesis.given(
    kept(),
    st.sampled_from([POD, ELSEWHERE, NODE]),
    st.sampled_from([("10.0.9.1", 80), (EXTERNAL, 80), (BALANCER, 80), (NODE, 30080)]),
)
def test_both_send_a_client_to_the_same_endpoints(
    held: store.Store, client: str, to: tuple[str, int]
) -> None:
    target = addresses.SocketAddress(*to)
    tables = iptables_mode.tables(worlds.seen(held, ON))
    ways = tuple(trace.ways(tables, Packet(client, target), AROUND))
    theirs = {way.endpoint for way in ways if way.endpoint is not None}
    verdicts = {way.verdict for way in ways}
    fate, ours = picked(held, client, target)
    assert theirs == set(ours)
    if client == NODE and to[0] in (EXTERNAL, BALANCER) and fate is Verdict.REFUSED:
        fate = Verdict.NOT_FOR_A_SERVICE  # see test_traces: these rules do not look at it
    assert verdicts == {fate}


def picked(
    held: store.Store, client: str, to: addresses.SocketAddress
) -> tuple[Verdict, tuple[addresses.SocketAddress, ...]]:
    """What a client of kproxy meets, and the endpoints that it may be sent to."""
    name = builders.named("web")
    options = builders.options(portal=Portal(), node=ON.name)
    plans = steps.at_once(rules.plans_for(held.service(name), held.sources(name), options))
    plan = plans[builders.port_of("web")]
    (place,) = (each for each in plan.places if (each.frontend.address, each.frontend.port) == to)
    frontend = place.frontend
    fate = plan.rule.fate(frontend)
    if fate is forwarding.FrontendState.NO_ENDPOINTS:
        return Verdict.REFUSED, ()
    source = ipaddress.ip_address(client)
    admitted = place.admitted
    if admitted is not None and not any(source in ipaddress.ip_network(c) for c in admitted):
        return Verdict.DROPPED, ()
    is_near = any(source in ipaddress.ip_network(c) for c in options.portal.node.near)
    scope = frontend.scope
    if scope is forwarding.Scope.LOCAL and frontend.is_external and is_near:
        scope = forwarding.Scope.CLUSTER
    return Verdict.SERVED, plan.rule.backends(scope, frontend.family)
