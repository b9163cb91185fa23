"""Manifests that a cluster begins with: which it takes, and why not the others."""

from typing import Any

import pytest

from kproxy import errors
from kproxy.simulator.api import emulation
from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.objects import backend, ingress
from tests.simulator.simulated import Simulated


def old_ingress(port: int | str = 8080) -> dict[str, Any]:
    path = {"path": "/", "backend": {"serviceName": "web", "servicePort": port}}
    identity = {"apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress"}
    return {**identity, **ingress(rules=[{"http": {"paths": [path]}}])}


def test_an_old_cluster_takes_an_old_ingress_again_and_again() -> None:
    async def main(running: Simulated) -> None:
        running.apply([old_ingress()])
        (stored,) = running.apply([old_ingress()])
        (path,) = stored["spec"]["rules"][0]["http"]["paths"]
        assert path["backend"] == backend(number=8080)
        assert stored["metadata"]["generation"] == 1
        (stored,) = running.apply([old_ingress("http")])
        (path,) = stored["spec"]["rules"][0]["http"]["paths"]
        assert path["backend"] == {"service": {"name": "web", "port": {"name": "http"}}}

    simulated.run(main, emulate=emulation.Version.V1_20)


def test_a_new_cluster_says_which_version_it_has() -> None:
    async def main(running: Simulated) -> None:
        with pytest.raises(errors.KproxyError) as refused:
            running.apply([old_ingress()])
        assert str(refused.value) == (
            "the simulated cluster has Ingress of networking.k8s.io/v1, not of "
            "networking.k8s.io/v1beta1; remove it"
        )
        assert running.registry.list(resources.INGRESSES) == []

    simulated.run(main)
