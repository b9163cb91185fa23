"""kproxy as an endpoint of the cluster's own DNS Service."""

import json
from pathlib import Path

import pytest

from kproxy.demo import stage
from kproxy.simulator import cluster
from tests.e2e import conftest
from tests.e2e.rig import daemon, programs, simulation

PORTS = [
    {"name": "dns", "port": 53, "protocol": "UDP"},
    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
]


@pytest.mark.extra
def test_it_answers_behind_kube_dns_until_it_ends(tmp_path: Path, run: conftest.Run) -> None:
    with stage.claimed_ranges() as ranges:
        options = cluster.Options(
            service_cidr=ranges.services,
            pod_cidr=ranges.pods,
            load_balancer_cidr=ranges.load_balancers,
        )
        with simulation.simulated(options) as (running, loop):
            kubeconfig = tmp_path / "kubeconfig"
            kubeconfig.write_text(json.dumps(running.kubeconfig))
            api = simulation.Simulation(tmp_path, running, loop).api("kube-system")
            made = api.create("Service", "kube-dns", {"spec": {"ports": PORTS}})
            port = made["spec"]["ports"][0]["port"]
            flags = ("--dns", "127.0.0.1:0", "--dns-upstream", "none", "--dns-as-kube-dns")

            proxy = run(kubeconfig, *flags, source="--kubeconfig")

            address = made["spec"]["clusterIP"], port
            for way in ("+notcp", "+tcp"):
                daemon.wait_until(
                    lambda way=way: programs.dig(  # type: ignore[misc]  # a default binds it
                        address, way, "+short", "kubernetes.default.svc.cluster.local"
                    ),
                    f"kube-dns answers, {way}",
                )
            assert len(api.list("EndpointSlice")) == 1
            assert proxy.stop() == 0
            assert api.list("EndpointSlice") == []
