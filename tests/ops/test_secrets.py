"""Credentials never show, whatever goes wrong and wherever one looks (docs/faults.md S18)."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy.ops.views import control
from kproxy.simulator import certificates
from kproxy.simulator.api import apiserver, server_faults
from kproxy.simulator.store import resources
from tests.e2e.rig import daemon, manifests
from tests.ops import surfaces
from tests.simulator import objects

TOKEN = "top-Secret-of-the-cluster"
PATHS = {
    "healthz": ("/healthz", "/livez", "/nothing"),
    "metrics": ("/metrics", "/proxyMode", "/healthz", "/nothing"),
    "control": (*(f"/v1/{each}" for each in control.RESOURCES), "/v1/services?name=no", "/v1/no"),
}


@pytest.fixture
async def api() -> AsyncIterator[apiserver.ApiServer]:
    """An API server with one Service, over TLS."""
    registry = objects.new_registry()
    web = objects.service("web")
    address = manifests.fresh_ip(127)
    registry.create(
        resources.SERVICES, {**web, "spec": {**web["spec"], "clusterIP": address, "ports": PORTS}}
    )
    certificate = certificates.self_signed(("127.0.0.1",), ("localhost",), datetime.now(UTC))
    async with apiserver.ApiServer(
        registry, tokens={TOKEN: "kproxy"}, certificate=certificate
    ) as server:
        yield server


PORTS = [{"name": "http", "port": 8080, "protocol": "TCP"}]


def static(_: Path) -> dict[str, Any]:
    return {"token": TOKEN}


def from_file(folder: Path) -> dict[str, Any]:
    path = folder / "token"
    path.write_text(TOKEN)
    return {"tokenFile": str(path)}


def from_plugin(folder: Path) -> dict[str, Any]:
    """A plugin that answers twice, and then fails with the token on its lips."""
    answer = json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": TOKEN},
        }
    )
    plugin = folder / "plugin.py"
    plugin.write_text(
        "import pathlib, sys\n"
        f"count = pathlib.Path({str(folder / 'count')!r})\n"
        "count.write_text(count.read_text() + '.' if count.exists() else '.')\n"
        f"print({answer!r})\n"
        "sys.exit(len(count.read_text()) > 2)\n"
    )
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }


def soft_limit(pid: int, name: str) -> str:
    """A limit that a process runs under."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(name))
    return line.removeprefix(name).split()[0]


async def seen_from_outside(proxy: daemon.Daemon) -> bytes:
    """Everything that anybody can ask it or the system about it."""
    asked = [
        (proxy.ready[place], path, verb)
        for place, paths in PATHS.items()
        for path in paths
        for verb in ("GET", "POST")
    ]
    answers = [
        await surfaces.ask(address, f"{verb} {path} HTTP/1.0\nHost: x\n\n")
        for address, path, verb in asked
    ]
    process = Path(f"/proc/{proxy.pid}")
    files = (process / "cmdline", process / "environ", proxy.ready_file)
    return b"\n".join([*answers, *(each.read_bytes() for each in files)])


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        (static, "Unauthorized"),
        (from_file, "Unauthorized"),
        (from_plugin, "failed with exit code 1"),
    ],
)
async def test_a_token_is_nowhere_to_be_found(
    api: apiserver.ApiServer,
    tmp_path: Path,
    user: Callable[[Path], dict[str, Any]],
    complaint: str,
) -> None:
    config = api.kubeconfig()
    config["users"][0]["user"] = user(tmp_path)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    kubeconfig.chmod(0o600)
    flags = (
        *("--log-level", "debug", "--control", str(tmp_path / "control.sock")),
        *("--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0"),
    )
    starting = daemon.running(
        tmp_path / "proxy", kubeconfig, *flags, source="--kubeconfig", await_ready=False
    )
    with starting as proxy:
        await asyncio.to_thread(proxy.wait_ready)
        assert soft_limit(proxy.pid, "Max core file size") == "0"
        seen = await seen_from_outside(proxy)

        for kind in (
            server_faults.Kind.INTERNAL_ERROR,
            server_faults.Kind.BAD_GATEWAY,
            server_faults.Kind.FORBIDDEN,
        ):
            api.faults.set(kind, count=1)
        await api.stop()
        await api.start()
        await surfaces.until(lambda: not api.faults.active())
        await api.stop()
        api.tokens = {"another": "kproxy"}  # the proxy's is refused from now on
        await api.start()
        await asyncio.to_thread(
            daemon.wait_until, lambda: proxy.log_lines(complaint), "a complaint about credentials"
        )
        seen += await seen_from_outside(proxy)
        assert await asyncio.to_thread(proxy.stop) == 0
        log = proxy.log()

    assert b"userspace" in seen
    assert b'service="web"' in seen
    for where in (seen, log.encode()):
        for secret in (TOKEN, base64.b64encode(TOKEN.encode()).decode(), "Bearer"):
            assert secret.encode() not in where
