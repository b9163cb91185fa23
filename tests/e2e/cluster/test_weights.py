"""Weights and strategies beside a cluster: pods are read once a Service weighs by a label."""

import collections
import contextlib
import http.client
from collections.abc import Iterator

import pytest

from kproxy.demo import stage
from kproxy.ops.views import control_client
from tests.e2e.rig import daemon, simulation
from tests.e2e.rig.simulation import PORT, Address, Api, Object, Simulation

V1_PODS, V2_PODS = 2, 1
ANNOTATION = "kproxy.io/weights"


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """A cluster, and the proxy beside it."""
    folder = tmp_path_factory.mktemp("weights")
    with (
        stage.claimed_ranges() as ranges,
        simulation.simulation(folder, ranges, "node-1") as made,
    ):
        yield made


@pytest.fixture
def api(beside: Simulation) -> Api:
    """The namespace with two versions of an application, all of whose pods are ready."""
    made = beside.api("default")
    for version, replicas in (("v1", V1_PODS), ("v2", V2_PODS)):
        deploy(made, version, replicas)
    daemon.wait_until(
        lambda: ready(made) == V1_PODS + V2_PODS, "the pods of both versions are ready"
    )
    return made


def deploy(api: Api, version: str, replicas: int) -> None:
    labels = {"app": "web", "version": version}
    container = {"name": "c", "image": "web", "ports": [{"containerPort": PORT}]}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    api.create("Deployment", version, {"spec": spec})


def ready(api: Api) -> int:
    found = [pod["status"].get("conditions", ()) for pod in api.list("Pod", "app=web")]
    return sum(
        any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        for conditions in found
    )


def weigh(api: Api, weights: str | None) -> None:
    """Change what the Service says."""
    api.patch("Service", "web", {"metadata": {"annotations": {ANNOTATION: weights}}})


def split(address: Address, requests: int) -> dict[str, int]:
    """How many of so many requests each version answers; those that fail count as "x"."""
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(requests):
        version = "x"
        with contextlib.suppress(OSError, http.client.HTTPException):
            version = simulation.who(address).partition("-")[0]
        counts[version] += 1
    return dict(counts)


def wait_split(address: Address, expected: dict[str, int]) -> None:
    """Return when a run of requests is divided just so.

    The first run may begin before the data plane has what the proxy shows.
    """
    requests = sum(expected.values())
    daemon.wait_until(lambda: split(address, requests) == expected, f"the split is {expected}")


def wait_weights(beside: Simulation, expected: dict[str, int]) -> None:
    """Return when the proxy shows these weights of the versions' pods."""

    def weights() -> Object:
        (view,) = control_client.fetch(beside.control, "services", namespace="default", name="web")
        return {each["pod"].partition("-")[0]: each["weight"] for each in view["endpoints"]}

    daemon.wait_until(lambda: weights() == expected, f"the weights are {expected}")


def test_a_label_of_the_pods_decides_and_changes_take_effect(beside: Simulation, api: Api) -> None:
    spec = {"selector": {"app": "web"}, "ports": [{"port": PORT}]}
    made = api.create("Service", "web", {"spec": spec})
    address = made["spec"]["clusterIP"], PORT
    beside.wait_state(api, "web", "bound", V1_PODS + V2_PODS)
    assert "pods at" not in source_of(beside)
    wait_weights(beside, {"v1": 1, "v2": 1})
    wait_split(address, {"v1": 6, "v2": 3})

    weigh(api, "v1=4,v2=1")
    wait_weights(beside, {"v1": 4, "v2": 1})
    assert "pods at" in source_of(beside)
    wait_split(address, {"v1": 16, "v2": 2})

    weigh(api, "v1=0")
    wait_weights(beside, {"v1": 0, "v2": 1})
    wait_split(address, {"v2": 5})

    weigh(api, "v1=0,v2=0")
    simulation.wait_down(address)

    # By another label, which a pod gets while it is served.
    label = {"kproxy.io/weight-label": "tier", ANNOTATION: "heavy=2"}
    api.patch("Service", "web", {"metadata": {"annotations": label}})
    wait_weights(beside, {"v1": 1, "v2": 1})
    api.patch("Pod", a_pod(api, "v2"), {"metadata": {"labels": {"tier": "heavy"}}})
    wait_weights(beside, {"v1": 1, "v2": 2})
    wait_split(address, {"v1": 4, "v2": 4})

    weigh(api, "v1=many")
    daemon.wait_until(
        lambda: f'metadata.annotations["{ANNOTATION}"] is "v1=many"' in beside.log(),
        "the mistake is named",
    )
    wait_split(address, {"v1": 4, "v2": 4})


def a_pod(api: Api, version: str) -> str:
    name: str = api.list("Pod", f"version={version}")[0]["metadata"]["name"]
    return name


def source_of(beside: Simulation) -> str:
    """Where the proxy reads its objects, in its words."""
    described: str = control_client.fetch_status(beside.control)["source"]["description"]
    return described
