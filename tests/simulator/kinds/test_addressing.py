"""Cluster IPs, node ports and pod addresses: in range, held once, the upper band first."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.kinds import addressing

CIDR = ipaddress.IPv4Network("127.96.0.0/24")


@pytest.fixture
def cluster_ips() -> addressing.ClusterIPs:
    return addressing.ClusterIPs(CIDR, random.Random(1))


@pytest.mark.parametrize("address", ["127.96.0.0", "127.96.0.255", "10.0.0.1", "::1"])
def test_an_address_out_of_range_is_refused_with_the_range(
    cluster_ips: addressing.ClusterIPs, address: str
) -> None:
    with pytest.raises(addressing.AllocationError) as refused:
        cluster_ips.check(address)
    assert str(refused.value) == (
        f"the provided IP ({address}) is not in the valid range. "
        "The range of valid IPs is 127.96.0.0/24"
    )


def test_a_held_address_is_refused_until_it_is_released(
    cluster_ips: addressing.ClusterIPs,
) -> None:
    cluster_ips.hold("127.96.0.10")
    with pytest.raises(addressing.AllocationError, match=r"^provided IP is already allocated$"):
        cluster_ips.check("127.96.0.10")
    cluster_ips.release("127.96.0.10")
    cluster_ips.check("127.96.0.10")


@given(st.integers(24, 30), st.integers())
def test_picks_are_all_addresses_once_the_lower_band_last(prefix: int, seed: int) -> None:
    cidr = ipaddress.IPv4Network(f"127.96.0.0/{prefix}")
    pool = addressing.ClusterIPs(cidr, random.Random(seed))
    picked = []
    for _ in range(cidr.num_addresses - 2):
        picked.append(pool.pick())
        pool.hold(picked[-1])
    assert set(picked) == {str(each) for each in cidr.hosts()}
    assert len(set(picked)) == len(picked)
    if cidr.num_addresses > 16:
        low = {str(cidr[index]) for index in range(1, 17)}
        assert set(picked[-16:]) == low
    with pytest.raises(addressing.AllocationError, match="range is full"):
        pool.pick()


def test_node_ports_begin_above_the_static_band_and_skip_what_is_excluded() -> None:
    pool = addressing.NodePorts(random.Random(1))
    assert all(pool.pick(()) >= 30086 for _ in range(100))
    narrow = addressing.NodePorts(random.Random(1), range(30000, 30003))
    assert narrow.pick({30000, 30002}) == 30001


@pytest.mark.parametrize("port", [29999, 32768, 80])
def test_a_node_port_out_of_range_is_refused_with_the_range(port: int) -> None:
    with pytest.raises(addressing.AllocationError) as refused:
        addressing.NodePorts(random.Random(1)).check(port)
    assert str(refused.value) == (
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    )


def test_pod_addresses_come_in_turn_and_are_used_again_only_after_a_round() -> None:
    pool = addressing.PodIPs(ipaddress.IPv4Network("127.244.1.0/29"))
    every = [pool.allocate() for _ in range(5)]
    assert every == [f"127.244.1.{last}" for last in range(2, 7)]
    with pytest.raises(addressing.AllocationError):
        pool.allocate()
    pool.release("127.244.1.4")
    pool.release("127.244.1.2")
    assert [pool.allocate(), pool.allocate()] == ["127.244.1.2", "127.244.1.4"]
