"""The scheduler: spread, cordoned nodes, selectors, and pods that fit nowhere."""

import asyncio

from kproxy.simulator.kinds import conditions
from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.simulated import Simulated, deployment


def nodes_of(running: Simulated) -> list[str]:
    return sorted(pod["spec"].get("nodeName", "") for pod in running.pods())


def test_each_deployment_is_spread_over_the_nodes() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment("a", replicas=1), deployment("b", replicas=3)])
        await running.until(lambda: len(running.ready()) == 4)
        of_b = {
            pod["spec"]["nodeName"]
            for pod in running.pods()
            if pod["metadata"]["labels"]["app"] == "b"
        }
        assert len(of_b) == 3

    simulated.run(main)


def test_a_cordoned_node_gets_no_pods() -> None:
    async def main(running: Simulated) -> None:
        cordon = {"spec": {"unschedulable": True}}
        running.registry.patch(resources.NODES, "", "node-2", "merge", cordon)
        running.apply([deployment(replicas=4)])
        await running.until(lambda: len(running.ready()) == 4)
        assert nodes_of(running) == ["node-1", "node-1", "node-3", "node-3"]

    simulated.run(main)


def test_a_pod_that_fits_nowhere_says_so_and_is_placed_when_it_can_be() -> None:
    async def main(running: Simulated) -> None:
        picky = deployment(replicas=1)
        picky["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "ssd"}
        running.apply([picky])
        await running.settle(1)
        (pod,) = running.pods()
        found = conditions.find(pod["status"]["conditions"], "PodScheduled")
        assert found is not None
        assert (found["status"], found["reason"]) == ("False", "Unschedulable")
        assert found["message"].startswith("0/3 nodes are available")
        reasons = [each["reason"] for each in running.registry.list(resources.EVENTS)]
        assert reasons.count("FailedScheduling") == 1

        label = {"metadata": {"labels": {"disk": "ssd"}}}
        running.registry.patch(resources.NODES, "", "node-3", "merge", label)
        await running.until(running.ready)
        assert nodes_of(running) == ["node-3"]
        await asyncio.sleep(0)

    simulated.run(main)
