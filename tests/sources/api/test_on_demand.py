"""Pods are read from an API server once a Service weighs its endpoints by a label of pods."""

import asyncio
from typing import Any

from kproxy.model import names
from kproxy.model.kinds import pod_kind
from tests.sources.api.rig import fake_api, following

PODS = "/api/v1/pods"
SERVICES = "/api/v1/services"
WEB = names.NamespacedName("default", "web")


def pod(version: str) -> dict[str, Any]:
    return {"metadata": {"labels": {"version": version}}, "status": {"phase": "Running"}}


def weighed() -> dict[str, Any]:
    """The Service web with weights."""
    annotations = {"kproxy.io/weights": "v1=9,v2=1"}
    return {**fake_api.service("10.96.0.1"), "metadata": {"annotations": annotations}}


def asked_for_pods(api: fake_api.FakeApi) -> bool:
    return any(request.path == PODS for request in api.asked)


def test_pods_are_not_asked_for_until_a_service_weighs_by_a_label() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(PODS, "web-1", pod("v1"))
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(600)
            assert not asked_for_pods(api)
            assert "pods" not in followed.informed.describe()
            api.put(SERVICES, "web", weighed())
            kept = followed.informed.store
            await followed.until(lambda: bool(kept.all(pod_kind.KIND)))
            assert "pods at" in followed.informed.describe()
            changes = len(followed.changes)
            api.put(PODS, "web-1", pod("v2"))
            await followed.until(lambda: len(followed.changes) > changes)
            assert followed.changes[-1] == {WEB}
            assert [each.label("version") for each in kept.all(pod_kind.KIND).values()] == ["v2"]
            assert followed.informed.problems() == ()

    following.on_fake_time(scenario)


def test_a_missing_right_is_said_with_its_remedy_and_the_service_is_served() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(SERVICES, "web", weighed())
        said = 'pods is forbidden: User "u" cannot list resource "pods"'
        api.script(PODS, "list", *[fake_api.fails(403, "Forbidden", said)] * 100)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web"}
            await followed.until(lambda: bool(followed.told))
            (sentence,) = followed.sentences()
            assert "pods: cannot list" in sentence
            assert "--resource=services,endpointslices.discovery.k8s.io,pods" in sentence

    following.on_fake_time(scenario)
