"""ServiceCIDRs, which are read beside a cluster and missed by nothing if they cannot be."""

import asyncio
from typing import Any

import pytest

from kproxy.model.kinds import node_kind, registry, service_cidr_kind
from kproxy.sources.api import discovery
from tests.sources.api.rig import fake_api, following

GROUP = "/apis/networking.k8s.io"
V1, BETA = f"{GROUP}/v1/servicecidrs", f"{GROUP}/v1beta1/servicecidrs"
KINDS = (*registry.KINDS, service_cidr_kind.KIND)


def cidr(version: str, network: str) -> dict[str, Any]:
    return {
        "apiVersion": f"networking.k8s.io/{version}",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [network]},
    }


def serve_group(api: fake_api.FakeApi, *versions: str) -> None:
    """Answer discovery of the group so, from now on."""
    found = {"kind": "APIGroup", "versions": [{"version": each} for each in versions]}

    async def answer(_: object) -> Any:
        return fake_api.reply(found)

    api.script(GROUP, "list", *[answer] * 1000)


def networks(followed: following.Following) -> set[str]:
    known = followed.informed.store.all(service_cidr_kind.KIND).values()
    return {str(network) for each in known for network in each.networks}


def test_they_are_followed() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        serve_group(api, "v1")
        api.put(V1, "kubernetes", cidr("v1", "10.96.0.0/16"))
        async with following.following(api, kinds=KINDS) as followed:
            await followed.until(lambda: networks(followed) == {"10.96.0.0/16"})
            api.put(V1, "more", cidr("v1", "10.97.0.0/16"))
            await followed.until(lambda: networks(followed) == {"10.96.0.0/16", "10.97.0.0/16"})
            api.remove(V1, "kubernetes")
            await followed.until(lambda: networks(followed) == {"10.97.0.0/16"})
            assert followed.told == []

    following.on_fake_time(scenario)


@pytest.mark.parametrize("versions", [("v1beta1",), ("v1", "v1beta1")])
def test_v1beta1_is_read_where_v1_of_the_group_has_none(versions: tuple[str, ...]) -> None:
    """Kubernetes 1.31 and 1.32: networking.k8s.io/v1 is there, for other kinds."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        serve_group(api, *versions)
        for mode in ("list", "stream", "watch"):
            api.script(V1, mode, *[fake_api.fails(404, "NotFound")] * 1000)
        api.put(BETA, "kubernetes", cidr("v1beta1", "10.96.0.0/16"))
        async with following.following(api, kinds=KINDS) as followed:
            await followed.until(lambda: networks(followed) == {"10.96.0.0/16"})
            assert followed.told == []

    following.on_fake_time(scenario)


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (404, "NotFound")])
def test_without_them_all_else_goes_on_in_silence(code: int, reason: str) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        serve_group(api, "v1")
        for mode in ("list", "stream", "watch"):
            api.script(V1, mode, *[fake_api.fails(code, reason)] * 1000)
        async with following.following(api, kinds=KINDS) as followed:
            await followed.synced()
            await asyncio.sleep(300)
            assert followed.services() == {"web"}
            assert followed.told == []
            assert "out of contact" not in followed.informed.describe()
            api.forget_scripts()
            serve_group(api, "v1")
            api.put(V1, "kubernetes", cidr("v1", "10.96.0.0/16"))
            await followed.until(lambda: bool(networks(followed)))

    following.on_fake_time(scenario)


def test_no_rights_are_asked_for_that_kubectl_could_not_grant() -> None:
    """`kubectl create clusterrole` refuses a resource that the server does not have."""
    kinds = (*KINDS, node_kind.KIND)
    followed = {str(each.best) for each in discovery.followed(kinds, "", is_all=True)}
    assert followed == {"services", "endpointslices.discovery.k8s.io", "pods", "nodes"}
