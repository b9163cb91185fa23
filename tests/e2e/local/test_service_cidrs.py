"""The ranges of ServiceCIDR objects, from a simulated API server to the routes of this host."""

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path

import pytest

from kproxy.simulator import cluster
from kproxy.simulator.store import resources
from tests.e2e.rig import daemon, manifests, simulation
from tests.portal.local import test_routes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make routes"),
]
OPTIONS = cluster.Options(
    service_cidr="10.96.0.0/16,fd00:10:96::/112", pod_cidr="10.244.0.0/16,fd00:10:244::/48", nodes=1
)
RANGES = {"10.96.0.0/16", "fd00:10:96::/112"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "k"


def test_each_range_is_one_route_for_as_long_as_there_is_one(folder: Path) -> None:
    with simulation.simulated(OPTIONS) as (running, loop):
        folder.mkdir()
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(running.kubeconfig))
        flags = ("--portal", "local", "--no-bpf")
        with daemon.running(folder, kubeconfig, *flags, source="--kubeconfig") as proxy:

            async def create(name: str, *cidrs: str) -> None:
                made = {"metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}
                running.registry.create(resources.SERVICE_CIDRS, made)

            async def delete(name: str) -> None:
                running.registry.delete(resources.SERVICE_CIDRS, name)

            def do(work: Coroutine[None, None, None]) -> None:
                asyncio.run_coroutine_threadsafe(work, loop).result(daemon.DEADLINE)

            def until(routes: set[str]) -> None:
                daemon.wait_until(lambda: test_routes.local_routes() == routes, f"{routes} only")

            until(RANGES)
            do(create("more", "10.97.0.0/16"))
            until({*RANGES, "10.97.0.0/16"})
            do(create("everything", "0.0.0.0/0"))
            daemon.wait_until(
                lambda: bool(proxy.log_lines("range=0.0.0.0/0")), "the refusal is logged"
            )
            do(delete("kubernetes"))
            until({"10.97.0.0/16", "10.96.0.1"})
            assert len(proxy.wait_logged("range=0.0.0.0/0")) == 1
            assert proxy.stop() == 0, proxy.log()
            assert "Traceback" not in proxy.log()
    assert test_routes.local_routes() == set()


def test_a_range_that_is_given_is_the_only_one(folder: Path) -> None:
    with simulation.simulated(OPTIONS) as (running, _):
        folder.mkdir()
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(running.kubeconfig))
        flags = ("--portal", "local", "--no-bpf", "--service-cluster-ip-range", "10.0.0.0/8")
        with daemon.running(folder, kubeconfig, *flags, source="--kubeconfig") as proxy:
            assert test_routes.local_routes() == {"10.0.0.0/8"}
            assert proxy.stop() == 0, proxy.log()


def test_files_may_have_one_too(folder: Path) -> None:
    made = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16"]},
    }
    folder.mkdir()
    path = manifests.write(folder / "web.yaml", manifests.service("web", "10.97.0.10", 8080), made)
    with daemon.running(folder, path, "--portal", "local", "--no-bpf") as proxy:
        routes = {"10.96.0.0/16", "10.97.0.10"}
        daemon.wait_until(lambda: test_routes.local_routes() == routes, f"{routes} only")
        assert proxy.stop() == 0, proxy.log()
