"""The Node of the proxy, which is read beside a cluster and missed by nothing if it cannot be.

Behaviour: rows 33 and 49 of docs/behaviour.md.
"""

import asyncio
from typing import Any

import pytest

from kproxy.model.kinds import node_kind, registry
from tests.sources.api.rig import fake_api, following

NODES = "/api/v1/nodes"
KINDS = (*registry.KINDS, node_kind.only("n1"))


def node(zone: str) -> dict[str, Any]:
    labels = {node_kind.LABEL_ZONE: zone}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}}


def test_it_is_asked_for_alone_and_followed() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(NODES, "n1", node("z1"))
        async with following.following(api, kinds=KINDS) as followed:
            changes: list[None] = []
            kept = followed.informed.store
            kept.watch(node_kind.KIND, lambda: changes.append(None))

            def zone() -> str:
                found = kept.get(node_kind.KIND, node_kind.KIND.key("n1"))
                return found.zone if found else ""

            await followed.until(lambda: zone() == "z1")
            api.put(NODES, "n1", node("z2"))
            await followed.until(lambda: zone() == "z2")
            api.remove(NODES, "n1")
            await followed.until(lambda: zone() == "")
            assert len(changes) == 3
            asked = [each for each in api.asked if each.path == NODES]
            assert {each.query["fieldSelector"] for each in asked} == {"metadata.name=n1"}

    following.on_fake_time(scenario)


@pytest.mark.parametrize(("code", "reason"), [(403, "Forbidden"), (404, "NotFound")])
def test_without_it_all_else_goes_on_in_silence(code: int, reason: str) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        for mode in ("list", "stream", "watch"):
            api.script(NODES, mode, *[fake_api.fails(code, reason)] * 1000)
        async with following.following(api, kinds=KINDS) as followed:
            await followed.synced()
            await asyncio.sleep(300)
            assert followed.services() == {"web"}
            assert followed.told == []
            assert "out of contact" not in followed.informed.describe()
            assert len(followed.informed.counters()) == 2
            api.forget_scripts()
            api.put(NODES, "n1", node("z1"))
            kept = followed.informed.store
            await followed.until(lambda: bool(kept.all(node_kind.KIND)))

    following.on_fake_time(scenario)


def test_it_is_not_asked_for_where_rights_end_at_namespaces() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        async with following.following(
            api, kinds=KINDS, namespaces=frozenset({"default", "other"})
        ) as followed:
            await followed.synced()
            assert not [each for each in api.asked if "nodes" in each.path]

    following.on_fake_time(scenario)
