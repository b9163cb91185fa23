"""Rows 17 and 26 to 28 of docs/behaviour.md: whose connections a frontend takes."""

import ipaddress
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.model import addresses, forwarding
from kproxy.model.judging import load_balancer_rules
from kproxy.model.kinds import services
from kproxy.portal import loopback, portal
from kproxy.reconcile.planning import rules, source_ranges
from tests.reconcile import builders

KINDS = forwarding.FrontendKind
BOUND, DROPPED = forwarding.FrontendState.BOUND, forwarding.FrontendState.DROPPED
IPV4, IPV6 = addresses.Family
LOCAL = services.TrafficPolicy.LOCAL
NODE = portal.Node(
    addresses=("192.0.2.5",),
    own=("192.0.2.5", "2001:db8::5"),
    near=("127.0.0.0/8", "::1/128", "10.244.0.0/16", "192.0.2.5/32", "2001:db8::5/128"),
)
VIPS = {IPV4: "198.51.100.1", IPV6: "2001:db8:ffff::1"}


def admitted(
    ranges: tuple[str, ...],
    kind: forwarding.FrontendKind = KINDS.LOAD_BALANCER,
    fate: forwarding.FrontendState = BOUND,
    family: addresses.Family = IPV4,
    node: portal.Node = NODE,
) -> forwarding.Admission:
    service = builders.service(load_balancer_ips=tuple(VIPS.values()), source_ranges=ranges)
    frontend = forwarding.Frontend(kind, VIPS[family], 80, family=family)
    return source_ranges.admission(service, frontend, fate, node)


@pytest.mark.parametrize(
    ("ranges", "family", "expected"),
    [
        pytest.param((), IPV4, None, id="none given: all"),
        pytest.param(("203.0.113.0/24",), IPV4, ("203.0.113.0/24",), id="a range"),
        pytest.param(
            ("203.0.113.0/24", "fd00::/8"), IPV6, ("fd00::/8",), id="those of the frontend's family"
        ),
        pytest.param(("203.0.113.0/24",), IPV6, None, id="none of the family: all, as kube-proxy"),
        pytest.param(("203.0.113.0/24", "0.0.0.0/0"), IPV4, None, id="every network: all"),
        pytest.param(
            ("192.0.2.0/24",),
            IPV4,
            ("192.0.2.0/24", "198.51.100.1/32"),
            id="this node's own address: from the load balancer's too",
        ),
        pytest.param(
            ("2001:db8::/64",),
            IPV6,
            ("2001:db8::/64", "2001:db8:ffff::1/128"),
            id="this node's own address, IPv6",
        ),
    ],
)
def test_row_17_sources_of_a_load_balancers_address(
    ranges: tuple[str, ...], family: addresses.Family, expected: forwarding.Admission
) -> None:
    assert admitted(ranges, family=family) == expected


@pytest.mark.parametrize("kind", [KINDS.CLUSTER_IP, KINDS.NODE_PORT, KINDS.EXTERNAL_IP])
def test_row_17_ranges_are_for_load_balancers_addresses_alone(
    kind: forwarding.FrontendKind,
) -> None:
    assert admitted(("203.0.113.0/24",), kind) is None


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        pytest.param(
            (),
            ("127.0.0.0/8", "10.244.0.0/16", "192.0.2.5/32", "198.51.100.1/32"),
            id="no ranges: all that is near",
        ),
        pytest.param(("203.0.113.0/24",), (), id="no client is in both"),
        pytest.param(("10.0.0.0/8",), ("10.244.0.0/16",), id="a range around what is near"),
        pytest.param(("10.244.7.0/24",), ("10.244.7.0/24",), id="a range inside of what is near"),
        pytest.param(
            ("192.0.2.0/24",),
            ("192.0.2.5/32", "198.51.100.1/32"),
            id="the node itself, from its address and from the load balancer's",
        ),
    ],
)
def test_rows_17_and_26_together_admit_clients_that_are_in_both(
    ranges: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert admitted(ranges, fate=DROPPED) == expected


def test_row_28_the_internal_policy_drops_clients_on_this_node_too() -> None:
    assert admitted((), KINDS.CLUSTER_IP, DROPPED) == ()


@pytest.mark.parametrize("kind", [KINDS.NODE_PORT, KINDS.EXTERNAL_IP, KINDS.LOAD_BALANCER])
def test_row_26_where_no_client_is_near_all_are_dropped(kind: forwarding.FrontendKind) -> None:
    assert admitted((), kind, DROPPED, node=portal.Node(("127.0.0.1",))) == ()


NETWORKS = st.builds(
    lambda address, length: str(ipaddress.ip_network((address, length), strict=False)),
    st.integers(0x0A000000, 0x0A00FFFF),
    st.integers(18, 32),
)


@hypothesis.given(
    st.lists(NETWORKS, min_size=1, max_size=6),
    st.lists(NETWORKS, min_size=1, max_size=6),
    st.integers(0x0A000000, 0x0A00FFFF),
)
def test_what_is_admitted_is_in_a_range_and_near(
    ranges: list[str], near: list[str], client: int
) -> None:
    made = admitted(tuple(ranges), fate=DROPPED, node=portal.Node(near=tuple(near)))
    assert made is not None
    address = ipaddress.IPv4Address(client)

    def holds(networks: Any) -> bool:
        return any(address in ipaddress.ip_network(each) for each in networks)

    assert holds(made) is (holds(ranges) and holds(near))
    assert len(made) <= len(ranges) + len(near) * len(ranges)


class _Portal(loopback.LoopbackPortal):
    """The loopback portal on another node."""

    def __init__(self) -> None:
        super().__init__(1, portal.Settings())
        self.node = NODE


def test_more_ranges_than_can_be_enforced_admit_no_client() -> None:
    most = load_balancer_rules.MOST_SOURCE_RANGES
    many = tuple(f"10.{n // 250}.{n % 250}.0/24" for n in range(most + 1))
    service = builders.service(load_balancer_ips=("198.51.100.1",), source_ranges=many)
    steps = rules.plans_for(service, [builders.sliced("web")], rules.Options(portal=_Portal()))
    plans: rules.Plans = {}
    try:
        while True:
            next(steps)
    except StopIteration as end:
        plans = end.value
    (plan,) = plans.values()
    cluster_ip, vip = plan.places
    assert cluster_ip.admitted is None
    assert (vip.admitted, vip.state) == ((), DROPPED)
    assert vip.address is not None
    assert "merge some of spec.loadBalancerSourceRanges" in vip.detail
