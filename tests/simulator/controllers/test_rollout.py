"""What a Deployment does next never breaks its bounds, and always gets there."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.controllers import rollout
from kproxy.simulator.kinds import deployments
from kproxy.simulator.store.storage import Object

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEMPLATE = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}
OLD = "old"


def deployment(replicas: int, **spec: Any) -> Object:
    strategy = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    return {
        "metadata": {"name": "web", "generation": 1},
        "spec": {
            "replicas": replicas,
            "template": TEMPLATE,
            "strategy": strategy,
            "progressDeadlineSeconds": 600,
            **spec,
        },
    }


def pod(number: int, template_hash: str, *, ready: bool, since: datetime = NOW) -> Object:
    condition = {
        "type": "Ready",
        "status": str(ready),
        "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    metadata = {
        "name": f"p{number}",
        "labels": {rollout.LABEL_TEMPLATE_HASH: template_hash},
        "creationTimestamp": f"2026-01-01T00:00:{number % 60:02}Z",
        "resourceVersion": str(number),
    }
    status = {"phase": "Running", "conditions": [condition]}
    return {"metadata": metadata, "spec": {"nodeName": "n"}, "status": status}


@given(
    desired=st.integers(0, 8),
    before=st.integers(0, 8),
    surge=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "100%"])),
    unavailable=st.one_of(st.integers(0, 4), st.sampled_from(["0%", "25%", "100%"])),
    seed=st.integers(),
)
def test_a_rollout_stays_within_its_bounds_and_ends(
    desired: int, before: int, surge: int | str, unavailable: int | str, seed: int
) -> None:
    rng = random.Random(seed)
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
    wanted = deployment(desired, strategy=strategy)
    current = rollout.template_hash(TEMPLATE)
    most = deployments.resolved(surge, desired, up=True)
    fewest = deployments.resolved(unavailable, desired, up=False)
    least = desired - (min(fewest, desired) if most or fewest else min(1, desired))
    pods = [pod(number, OLD, ready=True) for number in range(before)]
    serial = before
    for _ in range(200):
        have = rollout.population(wanted, pods)
        available_before = sum(rollout.is_available(each, wanted["spec"], NOW) for each in pods)
        step = rollout.next_step(wanted, have, NOW)
        gone = {each["metadata"]["name"] for each in step.delete}
        pods = [each for each in pods if each["metadata"]["name"] not in gone]
        for _ in range(step.create):
            serial += 1
            pods.append(pod(serial, current, ready=False))
        available = sum(rollout.is_available(each, wanted["spec"], NOW) for each in pods)
        assert len(pods) <= max(desired + most, before)
        assert available >= min(least, available_before)
        waking = [
            index
            for index, each in enumerate(pods)
            if not rollout.is_available(each, wanted["spec"], NOW)
        ]
        if not step.create and not step.delete and not waking:
            break
        for index in rng.sample(waking, rng.randint(1, len(waking)) if waking else 0):
            pods[index] = pod(int(pods[index]["metadata"]["resourceVersion"]), current, ready=True)
    assert [rollout.population(wanted, pods).old, len(pods)] == [[], desired]


def test_the_pods_that_go_first_serve_no_client_or_are_the_youngest() -> None:
    current = rollout.template_hash(TEMPLATE)
    pods = [pod(1, current, ready=True), pod(2, current, ready=False), pod(3, current, ready=True)]
    step = rollout.next_step(deployment(1), rollout.population(deployment(1), pods), NOW)
    assert [each["metadata"]["name"] for each in step.delete] == ["p2", "p3"]


def test_a_broken_template_takes_away_no_more_than_is_allowed() -> None:
    current = rollout.template_hash(TEMPLATE)
    pods = [pod(number, OLD, ready=True) for number in range(4)]
    pods += [pod(number, current, ready=False) for number in range(4, 6)]
    step = rollout.next_step(deployment(4), rollout.population(deployment(4), pods), NOW)
    assert (step.create, len(step.delete)) == (0, 1)
    left = pods[1:]
    step = rollout.next_step(deployment(4), rollout.population(deployment(4), left), NOW)
    assert (step.create, list(step.delete)) == (0, [])


def test_a_pod_is_available_once_it_has_been_ready_for_long_enough() -> None:
    young = pod(1, OLD, ready=True, since=NOW - timedelta(seconds=9))
    assert not rollout.is_available(young, {"minReadySeconds": 10}, NOW)
    assert rollout.is_available(young, {"minReadySeconds": 10}, NOW + timedelta(seconds=1))


def test_a_paused_deployment_rolls_nothing_out() -> None:
    paused = deployment(2, paused=True)
    pods = [pod(1, OLD, ready=True), pod(2, OLD, ready=True)]
    assert rollout.next_step(paused, rollout.population(paused, pods), NOW) == (0, [])


def condition(status: Object, kind: str) -> Object:
    (found,) = (each for each in status["conditions"] if each["type"] == kind)
    return dict(found)


def test_the_status_says_when_a_rollout_is_stuck() -> None:
    wanted = deployment(2)
    have = rollout.population(wanted, [pod(1, OLD, ready=True)])
    wanted["status"] = rollout.status(wanted, have, NOW)
    assert condition(wanted["status"], "Progressing")["reason"] == "ReplicaSetUpdated"

    later = NOW + timedelta(seconds=599)
    assert rollout.status(wanted, have, later) == wanted["status"]
    stuck = rollout.status(wanted, have, NOW + timedelta(seconds=600))
    progressing = condition(stuck, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "ProgressDeadlineExceeded")


@pytest.mark.parametrize(
    ("value", "of", "up", "expected"),
    [("25%", 3, True, 1), ("25%", 3, False, 0), ("100%", 3, False, 3), (2, 3, True, 2)],
)
def test_percentages_round_up_for_the_surge_and_down_otherwise(
    value: int | str, of: int, up: bool, expected: int
) -> None:
    assert deployments.resolved(value, of, up=up) == expected
