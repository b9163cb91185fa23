"""The simulated cluster as a whole: what is applied comes to be, and stays so."""

import asyncio
import socket
from typing import Any

import pytest

from kproxy import errors
from kproxy.simulator import cluster
from kproxy.simulator.kinds import pods
from kproxy.simulator.store import resources
from tests.simulator import simulated
from tests.simulator.simulated import Simulated, deployment, get, service


def ips(found: list[dict[str, Any]]) -> set[str]:
    return {pod["status"]["podIP"] for pod in found}


def test_a_deployment_becomes_pods_on_all_nodes_that_a_service_reaches() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=6), service()])
        await running.until(lambda: len(running.ready()) == 6)
        await running.settle()

        assert {pod["spec"]["nodeName"] for pod in running.pods()} == {"node-1", "node-2", "node-3"}
        assert {each["addresses"][0] for each in running.endpoints()} == ips(running.pods())
        (subset,) = running.registry.get(resources.ENDPOINTS, "web", "default")["subsets"]
        assert {each["ip"] for each in subset["addresses"]} == ips(running.pods())
        assert subset["ports"] == [{"port": simulated.PORT, "protocol": "TCP"}]

    simulated.run(main)


def test_a_pod_answers_with_its_name_and_the_request() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=1)])
        await running.until(running.ready)
        (pod,) = running.pods()

        lines = (await get(pod["status"]["podIP"], "/path?q=1")).splitlines()

        assert lines[:4] == [
            f"pod: {pod['metadata']['name']}",
            "namespace: default",
            f"node: {pod['spec']['nodeName']}",
            f"pod-ip: {pod['status']['podIP']}",
        ]
        assert "client: 127.0.0.1" in lines
        assert "request: GET /path?q=1" in lines
        assert "header Host: x" in lines

    simulated.run(main)


def test_a_deleted_pod_drains_and_a_successor_has_a_new_name_and_address() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=2), service()])
        await running.until(lambda: len(running.ready()) == 2)
        gone = running.pods()[0]
        running.registry.delete(resources.PODS, gone["metadata"]["name"], "default")
        await running.settle()

        conditions = {each["addresses"][0]: each["conditions"] for each in running.endpoints()}
        assert conditions[gone["status"]["podIP"]] == {
            "ready": False,
            "serving": True,
            "terminating": True,
        }
        assert "pod: " in await get(gone["status"]["podIP"])

        await running.until(lambda: len(running.pods()) == 2 and len(running.ready()) == 2)
        await running.settle()
        assert gone["metadata"]["name"] not in {pod["metadata"]["name"] for pod in running.pods()}
        assert gone["status"]["podIP"] not in ips(running.pods())
        assert {each["addresses"][0] for each in running.endpoints()} == ips(running.pods())
        assert await get(gone["status"]["podIP"]) == "refused"

    simulated.run(main)


def test_a_request_under_way_is_finished_before_its_pod_goes() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=1, annotations={pods.ANNOTATION_RESPONSE_DELAY: "5"})])
        await running.until(running.ready)
        (pod,) = running.pods()
        name = pod["metadata"]["name"]

        async with asyncio.TaskGroup() as group:
            answer = group.create_task(get(pod["status"]["podIP"]))
            await running.settle(0.1)
            running.registry.delete(resources.PODS, name, "default")
            await running.settle(3)
            assert running.registry.find(resources.PODS, name, "default")
            assert f"pod: {name}" in await answer
        await running.settle(0.1)
        assert running.registry.find(resources.PODS, name, "default") is None

    simulated.run(main)


def test_grace_zero_removes_a_pod_at_once() -> None:
    async def main(running: Simulated) -> None:
        running.apply([pod_alone()])
        await running.until(running.ready)
        (pod,) = running.pods()
        running.registry.delete(resources.PODS, "alone", "default", grace_seconds=0)
        assert running.pods() == []
        await running.settle()
        assert await get(pod["status"]["podIP"]) == "refused"

    simulated.run(main)


def pod_alone(**annotations: str) -> dict[str, Any]:
    spec = deployment()["spec"]["template"]["spec"]
    metadata = {"name": "alone", "labels": {"app": "web"}, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def test_scaling_up_and_down_keeps_what_is_ready() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=2)])
        await running.until(lambda: len(running.ready()) == 2)
        running.patch(resources.DEPLOYMENTS, "web", {"spec": {"replicas": 5}})
        await running.until(lambda: len(running.ready()) == 5)
        running.patch(resources.DEPLOYMENTS, "web", {"spec": {"replicas": 1}})
        await running.until(lambda: len(running.pods()) == 1)
        await running.settle()

        status = running.deployment()["status"]
        assert (status["replicas"], status["availableReplicas"]) == (1, 1)
        assert status["observedGeneration"] == running.deployment()["metadata"]["generation"]

    simulated.run(main)


def test_a_rolling_update_never_leaves_fewer_or_makes_more_than_allowed() -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    slow = {pods.ANNOTATION_READINESS_DELAY: "2"}

    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=4, annotations=slow, strategy=rolling)])
        await running.until(lambda: len(running.ready()) == 4)
        seen = []
        running.registry.storage.subscribe(
            lambda _: seen.append(
                (
                    len(running.ready()),
                    sum(not pods.is_terminating(pod) for pod in running.pods()),
                )
            )
        )
        running.apply([deployment(replicas=4, image="web:2", annotations=slow, strategy=rolling)])
        await running.until(running.is_rolled_out)

        assert min(ready for ready, _ in seen) == 4
        assert max(active for _, active in seen) == 5
        images = {pod["spec"]["containers"][0]["image"] for pod in running.ready()}
        assert images == {"web:2"}

    simulated.run(main)


def scalings(running: Simulated) -> list[str]:
    """What the Deployment controller has reported, without names of templates."""
    told = running.registry.list(resources.EVENTS, "default")
    found = [each for each in told if each["reason"] == "ScalingReplicaSet"]
    found.sort(key=lambda each: int(each["metadata"]["resourceVersion"]))
    words = [each["message"].split() for each in found]
    return [" ".join(each[:2] + each[5:]) for each in words]


def test_each_scaling_has_one_event_and_successors_have_none() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=12)])
        await running.until(running.is_rolled_out)
        running.registry.delete(resources.PODS, running.pods()[0]["metadata"]["name"], "default")
        await running.settle(5)
        await running.until(running.is_rolled_out)
        assert scalings(running) == ["Scaled up from 0 to 12"]

        running.patch(resources.DEPLOYMENTS, "web", {"spec": {"replicas": 0}})
        await running.until(lambda: not running.pods())
        running.patch(resources.DEPLOYMENTS, "web", {"spec": {"replicas": 12}})
        await running.until(running.is_rolled_out)
        assert scalings(running) == ["Scaled down from 12 to 0", "Scaled up from 0 to 12"]

    simulated.run(main)


def test_recreate_lets_all_go_before_any_comes() -> None:
    recreate = {"type": "Recreate"}

    async def main(running: Simulated) -> None:
        running.apply([deployment(strategy=recreate)])
        await running.until(lambda: len(running.ready()) == 3)
        mixed = []

        def note(_: object) -> None:
            images = {pod["spec"]["containers"][0]["image"] for pod in running.pods()}
            mixed.append(len(images) > 1)

        running.registry.storage.subscribe(note)
        running.apply([deployment(image="web:2", strategy=recreate)])
        await running.until(running.is_rolled_out)
        assert mixed
        assert not any(mixed)

    simulated.run(main)


def test_deleting_a_deployment_takes_its_pods_and_not_a_bare_one_of_the_same_labels() -> None:
    async def main(running: Simulated) -> None:
        running.apply([pod_alone(), deployment()])
        await running.until(lambda: len(running.ready()) == 4)
        running.registry.delete(resources.DEPLOYMENTS, "web", "default")
        await running.until(lambda: len(running.pods()) == 1)
        assert running.pods()[0]["metadata"]["name"] == "alone"

    simulated.run(main)


def test_orphans_are_adopted_again_and_a_relabelled_pod_is_let_go() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment()])
        await running.until(lambda: len(running.ready()) == 3)
        before = {pod["metadata"]["name"] for pod in running.pods()}
        running.registry.delete(resources.DEPLOYMENTS, "web", "default", propagation="Orphan")
        await running.settle(5)
        assert {pod["metadata"]["name"] for pod in running.pods()} == before

        running.apply([deployment()])
        await running.settle(5)
        assert {pod["metadata"]["name"] for pod in running.pods()} == before

        quarantined = min(before)
        running.patch(resources.PODS, quarantined, {"metadata": {"labels": {"app": "debug"}}})
        await running.until(lambda: len(running.pods()) == 4)
        pod = running.registry.get(resources.PODS, quarantined, "default")
        assert not pod["metadata"].get("ownerReferences")

    simulated.run(main)


def test_a_crash_restarts_with_a_growing_backoff() -> None:
    async def main(running: Simulated) -> None:
        running.apply([pod_alone(**{pods.ANNOTATION_CRASH_AFTER: "10"}), service()])
        await running.until(running.ready)
        await running.until(lambda: not running.ready())
        (pod,) = running.pods()
        (container,) = pod["status"]["containerStatuses"]
        assert container["restartCount"] == 1
        assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert container["lastState"]["terminated"]["exitCode"] == 1
        assert await get(pod["status"]["podIP"]) == "refused"
        await running.settle()
        assert running.endpoints()[0]["conditions"]["ready"] is False

        await running.until(running.ready, 1.5)
        await running.until(lambda: not running.ready(), 11)
        await running.settle(1.5)
        assert not running.ready()
        await running.until(running.ready, 1)

    simulated.run(main)


def test_readiness_waits_and_follows_the_annotation_live() -> None:
    async def main(running: Simulated) -> None:
        delays = {pods.ANNOTATION_START_DELAY: "3", pods.ANNOTATION_READINESS_DELAY: "4"}
        running.apply([pod_alone(**delays)])
        await running.settle(2.9)
        assert running.pods()[0]["status"]["phase"] == "Pending"
        await running.settle(0.2)
        assert running.pods()[0]["status"]["phase"] == "Running"
        await running.settle(3.8)
        assert not running.ready()
        await running.settle(0.2)
        assert running.ready()

        for value, expected in (("false", 0), ("true", 1)):
            ready = {"metadata": {"annotations": {pods.ANNOTATION_READY: value}}}
            running.patch(resources.PODS, "alone", ready)
            await running.settle()
            assert len(running.ready()) == expected

    simulated.run(main)


def test_a_slow_start_delays_answers_less_and_less() -> None:
    async def main(running: Simulated) -> None:
        loop = asyncio.get_running_loop()
        running.apply([pod_alone(**{pods.ANNOTATION_SLOW_START: "10"})])
        await running.until(running.ready)
        taken = []
        for _ in range(4):
            begun = loop.time()
            await get(running.pods()[0]["status"]["podIP"])
            taken.append(loop.time() - begun)
            await running.settle(5)
        assert taken[0] > taken[1] > taken[2] == taken[3] == 0

    simulated.run(main)


def test_a_black_hole_swallows_connections_and_can_be_filled_in() -> None:
    async def main(running: Simulated) -> None:
        running.apply([pod_alone(**{pods.ANNOTATION_BLACK_HOLE: "true"})])
        await running.until(running.ready)
        address = running.pods()[0]["status"]["podIP"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await get(address)

        filled = {"metadata": {"annotations": {pods.ANNOTATION_BLACK_HOLE: "false"}}}
        running.patch(resources.PODS, "alone", filled)
        await running.settle()
        assert "pod: alone" in await get(address)

    simulated.run(main)


def test_endpoints_made_by_hand_are_mirrored_kept_and_go_with_their_service() -> None:
    async def main(running: Simulated) -> None:
        subsets = [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]
        by_hand = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}}
        running.apply([{**by_hand, "subsets": subsets}])
        await running.settle(1)
        assert running.endpoints("db") == []
        running.apply([service("db", selector=None)])
        await running.settle(1)

        (mirror,) = running.slices("db")
        assert mirror["endpoints"] == [{"addresses": ["192.0.2.7"], "conditions": {"ready": True}}]
        assert mirror["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
        manager = mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
        assert manager == "endpointslicemirroring-controller.k8s.io"

        running.registry.delete(resources.SERVICES, "db", "default")
        await running.settle(1)
        assert running.registry.find(resources.ENDPOINTS, "db", "default") is None
        assert running.slices("db") == []

    simulated.run(main)


def test_a_service_without_endpoints_has_an_empty_slice_and_a_mere_name_has_none() -> None:
    async def main(running: Simulated) -> None:
        name = {"type": "ExternalName", "externalName": "example.com", "ports": []}
        running.apply([service(), service("elsewhere", **name)])
        await running.settle()
        (kept,) = running.slices()
        assert (kept["ports"], kept["endpoints"]) == ([], [])
        assert running.slices("elsewhere") == []
        assert running.registry.find(resources.ENDPOINTS, "elsewhere", "default") is None

        running.apply([deployment(replicas=1)])
        await running.until(running.endpoints)
        await running.settle()
        assert [len(each["endpoints"]) for each in running.slices()] == [1]
        running.registry.delete(resources.DEPLOYMENTS, "web", "default")
        await running.until(lambda: not running.endpoints())
        await running.settle()
        assert [each["endpoints"] for each in running.slices()] == [[]]
        running.registry.delete(resources.SERVICES, "web", "default")
        assert running.slices() == []

    simulated.run(main)


def test_a_load_balancer_gets_its_address_a_moment_later() -> None:
    async def main(running: Simulated) -> None:
        running.apply([service(type="LoadBalancer")])
        await running.settle(0.1)
        assert running.registry.get(resources.SERVICES, "web", "default")["status"] == {
            "loadBalancer": {}
        }
        await running.settle(1)
        status = running.registry.get(resources.SERVICES, "web", "default")["status"]
        (ingress,) = status["loadBalancer"]["ingress"]
        prefix = running.options.load_balancer_cidr.rpartition(".")[0]
        assert ingress["ip"].startswith(f"{prefix}.")

        running.patch(resources.SERVICES, "web", {"spec": {"type": "ClusterIP"}})
        await running.settle(1)
        changed = running.registry.get(resources.SERVICES, "web", "default")
        assert changed["status"] == {"loadBalancer": {}}
        assert "nodePort" not in changed["spec"]["ports"][0]

    simulated.run(main)


def test_a_taken_port_is_an_event_and_a_restart_and_harms_no_other_pod() -> None:
    async def main(running: Simulated) -> None:
        running.apply([deployment(replicas=1)])
        await running.until(running.ready)
        (pod,) = running.pods()
        node, address = pod["spec"]["nodeName"], pod["status"]["podIP"]
        head, _, last = address.rpartition(".")
        with socket.create_server((f"{head}.{int(last) + 1}", simulated.PORT)):
            blocked = pod_alone()
            blocked["spec"] = {**blocked["spec"], "nodeName": node}
            running.apply([blocked])
            await running.settle(0.1)
            held = running.registry.get(resources.PODS, "alone", "default")["status"]
            (container,) = held["containerStatuses"]
            assert container["lastState"]["terminated"]["reason"] == "StartError"
            assert "address already in use" in container["lastState"]["terminated"]["message"]
            reasons = {each["reason"] for each in running.registry.list(resources.EVENTS)}
            assert "Failed" in reasons
            assert len(running.ready()) == 1
        await running.until(lambda: len(running.ready()) == 2)

    simulated.run(main)


def test_the_api_server_is_a_service_of_its_own_cluster() -> None:
    async def main(running: Simulated) -> None:
        found = running.registry.get(resources.SERVICES, "kubernetes", "default")
        (subset,) = running.registry.get(resources.ENDPOINTS, "kubernetes", "default")["subsets"]
        assert found["spec"]["clusterIP"].endswith(".0.1")
        assert subset["addresses"] == [{"ip": "127.0.0.1"}]
        assert running.url.endswith(f":{subset['ports'][0]['port']}")
        assert [each["metadata"]["name"] for each in running.registry.list(resources.NODES)] == [
            "node-1",
            "node-2",
            "node-3",
        ]

    simulated.run(main)


def test_applying_the_same_again_changes_nothing() -> None:
    async def main(running: Simulated) -> None:
        manifests = [deployment(), service()]
        running.apply(manifests)
        await running.until(lambda: len(running.ready()) == 3)
        await running.settle(5)
        version = running.registry.storage.resource_version
        running.apply(manifests)
        await running.settle(60)
        assert running.registry.storage.resource_version == version

    simulated.run(main)


def test_a_namespace_of_what_has_none_means_nothing() -> None:
    async def main(running: Simulated) -> None:
        made = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "kproxy", "namespace": "shop"},
            "spec": {"controller": "kproxy.io/ingress"},
        }
        for _ in range(2):
            (applied,) = running.apply([made])
            assert "namespace" not in applied["metadata"]

    simulated.run(main)


def test_what_cannot_be_applied_is_one_sentence() -> None:
    async def main(running: Simulated) -> None:
        with pytest.raises(errors.KproxyError, match="no CronJob of batch/v1"):
            running.apply([{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {}}])
        with pytest.raises(errors.KproxyError, match=r'Service "web" is invalid: spec\.ports'):
            running.apply([service(ports=[])])

    simulated.run(main)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"service_cidr": "nonsense"}, "service CIDR 'nonsense'", id="no CIDR"),
        pytest.param({"service_cidr": "127.96.0.0/31"}, "too small", id="too small"),
        pytest.param({"pod_cidr": "127.244.0.0/22", "nodes": 4}, "no room", id="too many nodes"),
        pytest.param({"pod_cidr": "127.96.0.0/16"}, "overlap", id="overlap"),
    ],
)
def test_ranges_that_cannot_work_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(errors.ConfigError, match=words):
        cluster.Cluster(cluster.Options(**options))  # type: ignore[arg-type]
