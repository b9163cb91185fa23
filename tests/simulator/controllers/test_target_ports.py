"""Pods whose containers declare no ports."""

import asyncio
from typing import Any

from kproxy.simulator.controllers import target_ports
from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.simulated import PORT, Simulated, deployment, service


def told(running: Simulated) -> list[tuple[str, str]]:
    """What Events say about ports, oldest first."""
    return [
        (each["type"], each["message"])
        for each in running.registry.list(resources.EVENTS, "default")
        if each["reason"] == "TargetPorts"
    ]


def test_such_a_pod_listens_on_the_target_ports_of_its_services() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=1, ports=())])
        await running.until(running.ready)
        (pod,) = running.ready()
        address = pod["status"]["podIP"]
        assert await simulated.get(address) == "refused"
        ((kind, message),) = told(running)
        assert (kind, message.partition(":")[0]) == ("Warning", "nothing listens")

        running.apply([service(ports=[{"port": 80, "targetPort": PORT}])])
        await running.settle()
        assert f"pod: {pod['metadata']['name']}" in await simulated.get(address)
        words = f"the pod listens on the target port {PORT} (of Service web)"
        assert told(running)[-1] == ("Normal", f"the containers declare no ports; {words}")
        assert [each["addresses"] for each in running.endpoints()] == [[address]]

        change = {"spec": {"ports": [{"port": 80, "targetPort": PORT + 1}]}}
        running.patch(resources.SERVICES, "web", change)
        await running.settle()
        assert await simulated.get(address) == "refused"
        assert "pod: " in await simulated.get(address, port=PORT + 1)

        running.registry.delete(resources.SERVICES, "web", "default")
        await running.settle()
        assert await simulated.get(address, port=PORT + 1) == "refused"

    simulated.run(main)


def test_a_named_target_port_is_for_the_container_to_declare() -> None:
    async def main(running: Simulated) -> None:
        running.apply([service(), deployment(replicas=1, ports=())])
        await running.until(running.ready)
        assert told(running)[-1] == (
            "Warning",
            "Service web has the target port http, and no container declares a port of that name",
        )

    simulated.run(main)


def test_a_pod_that_declares_a_port_listens_on_no_other() -> None:
    async def main(running: Simulated) -> None:
        running.apply(
            [service(ports=[{"port": 80, "targetPort": PORT + 1}]), deployment(replicas=1)]
        )
        await running.until(running.ready)
        (pod,) = running.ready()
        assert await simulated.get(pod["status"]["podIP"], port=PORT + 1) == "refused"
        assert told(running) == []

    simulated.run(main)


def test_it_can_be_a_black_hole_on_ports_that_change() -> None:
    async def main(running: Simulated) -> None:
        running.apply([service(ports=[{"port": 80, "targetPort": PORT}])])
        running.apply([deployment(replicas=1, ports=())])
        await running.until(running.ready)
        (pod,) = running.ready()
        address, name = pod["status"]["podIP"], pod["metadata"]["name"]
        hole = {"metadata": {"annotations": {"kproxy.io/black-hole": "true"}}}
        running.patch(resources.PODS, name, hole)
        await running.settle()
        change = {"spec": {"ports": [{"port": 80, "targetPort": PORT + 1}]}}
        running.patch(resources.SERVICES, "web", change)
        await running.settle()
        attempt = asyncio.ensure_future(simulated.get(address, port=PORT + 1))
        assert await simulated.get(address) == "refused"
        assert not attempt.done()
        attempt.cancel()

    simulated.run(main)


def _service(name: str, selector: dict[str, str] | None, *ports: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selector": selector, "ports": list(ports)}}


def test_target_ports() -> None:
    pod = {"metadata": {"labels": {"app": "web", "tier": "front"}}}
    found = target_ports.of(
        pod,
        [
            _service("a", {"app": "web"}, {"port": 80, "targetPort": 8080}, {"port": 443}),
            _service("b", {"app": "web", "tier": "front"}, {"port": 8080}),
            _service("dns", {"app": "web"}, {"port": 53, "protocol": "UDP"}),
            _service("named", {"app": "web"}, {"port": 80, "targetPort": "http"}),
            _service("other", {"app": "db"}, {"port": 5432}),
            _service("by hand", None, {"port": 9}),
        ],
    )
    assert found.numbers == {443: ["a"], 8080: ["a", "b"]}
    assert found.names == [("named", "http")]
