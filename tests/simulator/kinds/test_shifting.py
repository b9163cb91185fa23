"""Ports that cannot be bound move, and the manifest that says the old ones goes on meaning them."""

import asyncio
from typing import Any

from kproxy.simulator.kinds import pods, shifting
from kproxy.simulator.store import resources
from kproxy.simulator.store.storage import Object
from tests.simulator import simulated
from tests.simulator.objects import ingress
from tests.simulator.simulated import Simulated, deployment, get, service

PORTS = [{"containerPort": 80}]


def web(*ports: int) -> Object:
    named = [{"name": f"p{port}", "port": port, "targetPort": 80} for port in ports]
    return service(ports=named)


def ports(running: Simulated) -> list[int]:
    spec = running.registry.get(resources.SERVICES, "web", "default")["spec"]
    return [port["port"] for port in spec["ports"]]


def annotation(found: Object) -> str:
    return str(found["metadata"]["annotations"][shifting.ANNOTATION_SHIFTED_PORTS])


def strategic(running: Simulated, *changes: Object) -> Object:
    """What `kubectl apply` sends when it compares a manifest's ports with the moved ones."""
    body: Any = {"spec": {"ports": list(changes)}}
    return running.registry.patch(resources.SERVICES, "default", "web", "strategic", body)


def test_what_the_objects_say_is_where_it_is_reached() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(ports=PORTS), web(80, 8080)])
        await running.until(lambda: len(running.ready()) == 3)
        await running.settle()

        assert ports(running) == [10080, 8080]
        assert annotation(running.registry.get(resources.SERVICES, "web", "default")) == "80=10080"
        assert annotation(running.deployment()) == "80=10080"
        (pod, *_) = running.pods()
        assert pod["spec"]["containers"][0]["ports"][0]["containerPort"] == 10080
        assert "pod: " in await get(pod["status"]["podIP"], port=10080)
        assert {port["port"] for each in running.slices() for port in each["ports"]} == {10080}

    simulated.run(main, shift_below=1024)


def test_the_patch_of_an_unchanged_manifest_changes_nothing() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(ports=PORTS), web(80)])
        await running.until(lambda: len(running.ready()) == 3)
        await running.settle(5)
        version = running.registry.storage.resource_version
        strategic(running, {"name": "p80", "port": 80, "targetPort": 80})
        running.apply([deployment(ports=PORTS), web(80)])
        await running.settle(5)
        assert running.registry.storage.resource_version == version

    simulated.run(main, shift_below=1024)


def test_a_manifest_can_drop_a_moved_port_and_take_another() -> None:
    async def main(running: Simulated) -> None:
        running.apply([web(80)])
        changed = strategic(
            running, {"name": "p90", "port": 90, "targetPort": 80}, {"$patch": "delete", "port": 80}
        )
        assert ports(running) == [10090]
        assert annotation(changed) == "80=10080,90=10090"

    simulated.run(main, shift_below=1024)


def test_the_moved_number_is_understood_too_and_a_json_patch_is_shifted() -> None:
    async def main(running: Simulated) -> None:
        running.apply([web(80)])
        strategic(running, {"port": 10080, "name": "renamed"})
        assert ports(running) == [10080]
        body = [{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]
        running.registry.patch(resources.SERVICES, "default", "web", "json", body)
        assert ports(running) == [10081]
        await asyncio.sleep(0)

    simulated.run(main, shift_below=1024)


def test_ports_of_the_annotation_move_too() -> None:
    async def main(running: Simulated) -> None:
        extra = deployment(replicas=1, annotations={pods.ANNOTATION_PORTS: "81,8081"}, ports=())
        running.apply([extra])
        await running.until(running.ready)
        (pod,) = running.pods()
        assert pods.ports(pod) == [10081, 8081]
        assert annotation(running.deployment()) == "81=10081"
        assert "pod: " in await get(pod["status"]["podIP"], port=10081)

    simulated.run(main, shift_below=1024)


def test_nothing_moves_for_who_may_bind_every_port() -> None:
    async def main(running: Simulated) -> None:
        running.apply([web(80)])
        assert ports(running) == [80]
        await asyncio.sleep(0)

    simulated.run(main, shift_below=1)


def test_what_names_a_port_of_a_service_moves_with_it() -> None:
    route = {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}
    listener = {"name": "web", "port": 80, "protocol": "TCP"}
    group = {"apiVersion": "gateway.networking.k8s.io/v1"}
    metadata = {"metadata": {"name": "web", "namespace": "default"}}
    given = [
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", **ingress()},
        {**group, "kind": "TCPRoute", **metadata, "spec": route},
        {
            **group,
            "kind": "Gateway",
            **metadata,
            "spec": {"gatewayClassName": "kproxy", "listeners": [listener]},
        },
    ]

    async def main(running: Simulated) -> None:
        for _ in range(2):
            made, routed, gateway = (each["spec"] for each in running.apply(given))
            (path,) = made["rules"][0]["http"]["paths"]
            assert path["backend"]["service"]["port"] == {"number": 10080}
            assert routed["rules"][0]["backendRefs"][0]["port"] == 10080
            assert gateway["listeners"][0]["port"] == 10080

    simulated.run(main, shift_below=1024)


def test_the_ports_of_https_move() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(annotations={pods.ANNOTATION_HTTPS_PORTS: "443"})])
        template = running.deployment()["spec"]["template"]
        assert pods.https_ports(template) == [10443]

    simulated.run(main, shift_below=1024)
