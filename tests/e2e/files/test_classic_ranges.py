"""Addresses as real clusters have them, in a network namespace where they are local."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.rig import beside_cluster, daemon, programs, simulation
from tests.relay import netns

SERVICES, PODS = "10.96.0.0/16", "10.244.0.0/16"
MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.7.9, selector: {app: web}, ports: [{port: 80}]}
"""

pytestmark = [pytest.mark.netns, netns.needs_root]


@pytest.fixture
def place() -> Iterator[str]:
    """A namespace in which every pod's address is the node's own."""
    programs.need("ip")
    with netns.namespace() as name:
        netns.run("ip", "-n", name, "route", "add", "local", PODS, "dev", "lo")
        yield name


def test_pods_and_services_have_the_addresses_that_clusters_give_them(
    tmp_path: Path, place: str
) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST)
    inside = ("ip", "netns", "exec", place)
    ranges = ("--service-cidr", SERVICES, "--pod-cidr", PODS)
    with (
        beside_cluster.simulating(tmp_path, manifest, *ranges, wrapper=inside) as simulated,
        beside_cluster.following(tmp_path / "proxy", simulated.kubeconfig, wrapper=inside) as proxy,
    ):
        proxy.wait_ready()
        daemon.wait_until(lambda: len(pods(proxy)) == 2, "both pods are ready")
        assert all(each.startswith("10.244.") for each in pods(proxy))
        with netns.inside(place):
            served = ("127.96.7.9", 80)
            simulation.wait_up(served, {simulation.who((pod, 80)) for pod in pods(proxy)})
        assert proxy.stop() == 0


def pods(proxy: beside_cluster.Follower) -> set[str]:
    """The addresses behind the Service."""
    return {address for name, address in proxy.endpoints() if name == "web"}
