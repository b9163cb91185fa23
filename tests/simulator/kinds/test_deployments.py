"""Deployments and Pods as kube-apiserver keeps them: defaults, and refusals in its words."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kproxy.simulator.kinds import deployments, pods
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object
from tests.simulator import simulated


@pytest.fixture
def objects() -> registry.Registry:
    serial = itertools.count()
    stored = storage.Storage(
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC), new_uid=lambda: f"uid-{next(serial)}"
    )
    strategies = {
        resources.DEPLOYMENTS: deployments.DeploymentStrategy(),
        resources.PODS: pods.PodStrategy(stored),
    }
    made = registry.Registry(stored, strategies)
    made.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return made


def test_defaults_are_those_of_the_api(objects: registry.Registry) -> None:
    bare = simulated.deployment()
    del bare["spec"]["replicas"]
    spec = objects.create(resources.DEPLOYMENTS, bare)["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert (spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (10, 600)
    (container,) = spec["template"]["spec"]["containers"]
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["ports"][0]["protocol"] == "TCP"


def change(*path: str | int, to: Any) -> Callable[[Object], None]:
    def apply(manifest: Object) -> None:
        place: Any = manifest["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(change("selector", to={}), "spec.selector: Required value", id="selector"),
        pytest.param(
            change("selector", "matchLabels", to={"app": "x"}),
            'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not '
            "match template `labels`",
            id="labels",
        ),
        pytest.param(
            change("replicas", to=-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            id="replicas",
        ),
        pytest.param(
            change("template", "spec", "containers", to=[]),
            "spec.template.spec.containers: Required value",
            id="containers",
        ),
        pytest.param(
            change("template", "spec", "containers", 0, "ports", 0, "containerPort", to=0),
            "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 0: must be "
            "between 1 and 65535, inclusive",
            id="port",
        ),
        pytest.param(
            change("template", "metadata", "annotations", to={"kproxy.io/crash-after": "soon"}),
            "spec.template.metadata.annotations[kproxy.io/crash-after]: Invalid value: "
            '"soon": must be a number of seconds, such as 1.5',
            id="annotation",
        ),
        pytest.param(
            change("template", "metadata", "annotations", to={"kproxy.io/answers": "{a: {}}"}),
            "spec.template.metadata.annotations[kproxy.io/answers]: Invalid value: "
            "\"{a: {}}\": must name paths that begin with '/', unlike 'a'",
            id="answers",
        ),
        pytest.param(
            change("template", "metadata", "annotations", to={"kproxy.io/https-ports": "tls"}),
            "spec.template.metadata.annotations[kproxy.io/https-ports]: Invalid value: "
            '"tls": must be port numbers, such as 8080,9090',
            id="https ports",
        ),
        pytest.param(
            change(
                "strategy",
                to={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}},
            ),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when "
            "`maxSurge` is 0",
            id="no way to roll",
        ),
    ],
)
def test_refusals_are_in_the_words_of_kube_apiserver(
    objects: registry.Registry, spoil: Callable[[Object], None], message: str
) -> None:
    manifest = simulated.deployment()
    spoil(manifest)
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.DEPLOYMENTS, manifest)
    assert refused.value.code == 422
    assert refused.value.message == f'Deployment.apps "web" is invalid: {message}'


@pytest.mark.parametrize(
    "spoil",
    [change("replicas", to="three"), change("template", "spec", "containers", to={"name": "c"})],
)
def test_a_wrong_json_type_is_a_bad_request(
    objects: registry.Registry, spoil: Callable[[Object], None]
) -> None:
    manifest = simulated.deployment()
    spoil(manifest)
    with pytest.raises(statuses.StatusError, match="cannot be handled as a Deployment") as refused:
        objects.create(resources.DEPLOYMENTS, manifest)
    assert refused.value.code == 400


def test_a_selector_may_not_change(objects: registry.Registry) -> None:
    objects.create(resources.DEPLOYMENTS, simulated.deployment())
    body = {
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}},
        }
    }
    with pytest.raises(statuses.StatusError, match=r"spec\.selector: .*field is immutable"):
        objects.patch(resources.DEPLOYMENTS, "default", "web", "merge", body)


def alone() -> Object:
    spec = simulated.deployment()["spec"]["template"]["spec"]
    return {"metadata": {"name": "alone", "namespace": "default"}, "spec": spec}


def test_of_a_pod_only_the_image_may_change(objects: registry.Registry) -> None:
    made = objects.create(resources.PODS, alone())
    (container,) = made["spec"]["containers"]
    new = {**made, "spec": {**made["spec"], "containers": [{**container, "image": "web:2"}]}}
    objects.update(resources.PODS, new)
    moved = {"spec": {"nodeName": "elsewhere"}}
    with pytest.raises(statuses.StatusError, match="pod updates may not change fields other than"):
        objects.patch(resources.PODS, "default", "alone", "merge", moved)


@pytest.mark.parametrize(
    ("spec", "code"),
    [(None, 422), ({"containers": "c"}, 400), ({"containers": [{"name": 1}]}, 400)],
)
def test_a_change_of_a_pod_into_nonsense_is_refused(
    objects: registry.Registry, spec: Object | None, code: int
) -> None:
    objects.create(resources.PODS, alone())
    with pytest.raises(statuses.StatusError) as caught:
        objects.update(resources.PODS, {"metadata": alone()["metadata"], "spec": spec})
    assert caught.value.code == code


def test_a_pod_without_a_node_goes_at_once_and_one_with_a_node_has_its_grace(
    objects: registry.Registry,
) -> None:
    objects.create(resources.PODS, alone())
    objects.delete(resources.PODS, "alone", "default")
    assert objects.list(resources.PODS) == []

    bound = alone()
    bound["spec"] = {**bound["spec"], "nodeName": "node-1"}
    objects.create(resources.PODS, bound)
    metadata = objects.delete(resources.PODS, "alone", "default")["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 30
    assert metadata["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    metadata = objects.delete(resources.PODS, "alone", "default", grace_seconds=5)["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 5
    metadata = objects.delete(resources.PODS, "alone", "default", grace_seconds=20)["metadata"]
    assert metadata["deletionGracePeriodSeconds"] == 5
    objects.delete(resources.PODS, "alone", "default", grace_seconds=0)
    assert objects.list(resources.PODS) == []


def test_expressions_select_as_in_the_api() -> None:
    def selects(operator: str, *values: str) -> bool:
        requirement = {"key": "app", "operator": operator, "values": list(values)}
        return deployments.matches({"matchExpressions": [requirement]}, {"app": "web"})

    assert selects("In", "web", "x")
    assert not selects("NotIn", "web")
    assert selects("Exists")
    assert not selects("DoesNotExist")
