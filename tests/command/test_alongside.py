"""A command beside a proxy in this process: which variables it gets, and what ends both."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kproxy import config, errors, parts, server
from kproxy.command import alongside, command
from tests.e2e.rig import manifests
from tests.ops import surfaces


class Failing:
    """A component that fails when it is asked to."""

    name = "failing"

    def __init__(self) -> None:
        self.fails = asyncio.Event()

    def bind(self) -> None:
        """It has no address."""

    def addresses(self) -> Mapping[str, str | None]:
        """None."""
        return {}

    async def run(self) -> None:
        """Raise KproxyError, in time."""
        await self.fails.wait()
        raise errors.KproxyError("it failed")

    async def ready(self) -> None:
        """At once."""

    async def drain(self, grace: float) -> None:
        """At once."""

    def close(self) -> None:
        """It has nothing."""


def in_namespace(namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    document["metadata"]["namespace"] = namespace
    return document


async def test_variables_are_of_the_own_namespace_and_of_the_api_server(tmp_path: Path) -> None:
    api, own, other = (manifests.fresh_ip() for _ in range(3))
    path = manifests.write(
        tmp_path / "objects.yaml",
        manifests.service("kubernetes", api, 443),
        in_namespace("shop", manifests.service("my-web", own, 8080)),
        in_namespace("shop", manifests.service("none", "None", 8080)),
        manifests.service("other", other, 8080),
    )
    async with surfaces.serving(path, ready_file=tmp_path / "ready.json") as served:
        found = await alongside.variables(served.observed, "shop")

    hosts = {name: value for name, value in found.items() if name.endswith("_SERVICE_HOST")}
    assert hosts == {
        "KUBERNETES_SERVICE_HOST": manifests.bound(api),
        "MY_WEB_SERVICE_HOST": manifests.bound(own),
    }
    assert found["MY_WEB_PORT_8080_TCP"] == f"tcp://{manifests.bound(own)}:8080"


async def test_a_proxy_that_fails_asks_its_command_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = Failing()
    monkeypatch.setattr(parts, "make_components", lambda _cfg, _seen: (component,))
    web = manifests.service("web", manifests.fresh_ip(), 8080)
    path = manifests.write(tmp_path / "web.yaml", web)
    sign, ended = tmp_path / "sign", tmp_path / "ended"
    script = f"trap 'touch {ended}; exit 0' TERM; touch {sign}; while :; do sleep 0.01; done"
    beside = command.Command(["sh", "-c", script], os.environ)
    served = server.Server(
        config.Config(manifests=(path,), node="a", grace_period=surfaces.SECONDS), beside=beside
    )
    running = asyncio.ensure_future(served.run())
    try:
        await surfaces.until(sign.exists)
        component.fails.set()

        async with asyncio.timeout(surfaces.SECONDS):
            with pytest.raises(errors.KproxyError, match="it failed"):
                await running
    finally:
        beside.close()

    assert ended.exists()
    assert served.exit_code is None
