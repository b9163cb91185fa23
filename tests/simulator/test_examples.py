"""The files in `examples/` do in a simulated cluster what their first lines say."""

from pathlib import Path

import pytest

from kproxy.simulator import applied_files
from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.simulated import Simulated

EXAMPLES = Path(__file__).parents[2] / "examples"
SIMULATED = (
    "deployment-and-service.yaml",
    "httpd-service.yaml",
    "ingress-with-tls.yaml",
    "two-microservices.yaml",
    "weighted-gateway.yaml",
)


@pytest.mark.parametrize("name", SIMULATED)
def test_every_service_has_the_pods_of_its_deployment(name: str) -> None:
    given = applied_files.read([EXAMPLES / name])

    async def main(running: Simulated) -> None:
        running.apply(each.content for each in given)
        deployments = running.registry.list(resources.DEPLOYMENTS, "default")
        wanted = sum(each["spec"]["replicas"] for each in deployments)
        await running.until(lambda: len(running.ready()) == wanted)
        await running.settle(1)
        for service in running.registry.list(resources.SERVICES, "default"):
            service_name = service["metadata"]["name"]
            if service_name == "kubernetes":
                continue
            (endpoint, *_) = running.endpoints(service_name)
            (listed,) = running.slices(service_name)
            (port,) = listed["ports"]
            answer = await simulated.get(endpoint["addresses"][0], port=port["port"])
            assert "namespace: default" in answer

    simulated.run(main)


def test_each_example_is_named_by_its_command() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        comment = path.read_text().partition("apiVersion")[0]
        command = "simulate --filename" if path.name in SIMULATED else "run --manifests"
        assert f"kproxy {command} examples/{path.name}\n" in comment
