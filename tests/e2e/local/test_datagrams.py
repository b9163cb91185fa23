"""Datagrams of every size, and links of a small MTU, through both ways of the local portal."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.local import catalogue, conftest
from tests.e2e.local.conftest import Cluster, Way
from tests.e2e.rig import manifests, namespaces, pods, published

pytestmark = [
    pytest.mark.netns,
    pytest.mark.extra,
    namespaces.needs_root,
    namespaces.needs_programs,
]

_SIZES = (1, 2, 511, 512, 513, 1232, 1280, 1472, 1473, 4096, 4097, 9000, 32768, 65506, 65507)
"""Around the bounds of DNS, IPv6, Ethernet, kube-proxy's buffer (4096) and UDP."""


@pytest.mark.parametrize("size", _SIZES)
def test_datagrams_of_any_size_pass_both_ways(cluster: Cluster, family: Family, size: int) -> None:
    _echoes(cluster.network, catalogue.WEB.at(family), size)


def test_an_empty_datagram_passes_both_ways(cluster: Cluster, family: Family) -> None:
    _echoes(cluster.network, catalogue.WEB.at(family), 0)


def test_a_flow_stays_with_one_pod_and_its_datagrams_are_not_joined(
    cluster: Cluster, family: Family
) -> None:
    with pods.connect(cluster.network.pod_a, catalogue.WEB.at(family), Protocol.UDP) as client:
        sent = {os.urandom(size) for size in range(1, 200)}
        received = {pods.exchange(client, each) for each in sent}
        assert received == sent


@pytest.fixture(scope="module", params=Way, ids=str)
def narrow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[namespaces.Network]:
    """The node-a of a network whose links carry packets of 1280 bytes, the least for IPv6."""
    folder = tmp_path_factory.mktemp("n")
    service = catalogue.EXTERNAL
    path = manifests.write(folder / "services.yaml", *service.objects())
    way: Way = request.param
    with (
        namespaces.network(mtu=1280) as network,
        pods.pods(network),
        conftest.on_node(folder, network, "node-a", path, *conftest.RANGES, *way.flags),
    ):
        yield network


@pytest.mark.parametrize("size", [1, 1232, 1252, 1253, 1280, 1500, 9000, 65507])
def test_datagrams_pass_links_of_a_small_mtu(
    narrow: namespaces.Network, family: Family, size: int
) -> None:
    _echoes(narrow, catalogue.EXTERNAL.at(family), size)


def test_a_stream_passes_links_of_a_small_mtu(narrow: namespaces.Network, family: Family) -> None:
    address = published.of(catalogue.outside(12), family), 80
    with contextlib.closing(pods.connect(narrow.client, address)) as client:
        pods.name(client)
        for _ in range(64):
            block = os.urandom(16384)
            assert pods.exchange(client, block) == block


def _echoes(network: namespaces.Network, address: tuple[str, int], size: int) -> None:
    with contextlib.closing(pods.connect(network.pod_a, address, Protocol.UDP)) as client:
        datagram = os.urandom(size)
        assert pods.exchange(client, datagram) == datagram
