"""The API server is restarted, killed or stopped while clients connect (K02, K03, K09)."""

import asyncio
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kproxy.simulator import certificates
from kproxy.simulator.store import resources
from tests.e2e.rig import beside_cluster, daemon, manifests, sockets
from tests.sources.api.rig import simulated_api

CLIENTS = 8
BACKENDS = 6
PORTS = [{"port": manifests.PORT}]
GET_SERVICES = [sys.executable, "-m", "kproxy", "get", "services"]


@contextlib.asynccontextmanager
async def backends() -> AsyncIterator[list[daemon.Address]]:
    """Servers that outlive every change, and answer each connection with their address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(writer.get_extra_info("sockname")[0].encode())
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with contextlib.AsyncExitStack() as stack:
        addresses = []
        port = 0
        for _ in range(BACKENDS):
            server = await asyncio.start_server(answer, manifests.fresh_ip(127), port)
            await stack.enter_async_context(server)
            addresses.append(server.sockets[0].getsockname())
            port = addresses[0][1]
        yield addresses


class Load:
    """Clients that connect again and again, each as soon as it has been answered."""

    def __init__(self, frontend: daemon.Address) -> None:
        self._frontend = frontend
        self.answers = 0
        self.failures: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._connect_for_ever())

    async def ask(self) -> str:
        """Who answers. Raises OSError, TimeoutError."""
        async with asyncio.timeout(sockets.SECONDS):
            reader, writer = await asyncio.open_connection(*self._frontend)
            try:
                writer.write(b"who?\n")
                return (await reader.read()).decode()
            finally:
                writer.close()

    async def _connect_for_ever(self) -> None:
        while True:
            try:
                answered = await self.ask()
            except (OSError, TimeoutError) as error:
                self.failures.append(repr(error))
            else:
                self.answers += 1
                if not answered:
                    self.failures.append("an empty answer")
            await asyncio.sleep(0.005)


class Churn:
    """Changes of what is served: never all backends of web at once, other Services at will."""

    def __init__(self, api: simulated_api.Api, addresses: list[daemon.Address]) -> None:
        self._api = api
        self._addresses = addresses
        self._rng = random.Random(11)
        api.put_service("web", manifests.fresh_ip(), ports=PORTS)
        self.change()

    def change(self) -> None:
        """Other backends, and a Service more or less."""
        chosen = self._rng.sample(self._addresses, self._rng.randint(1, BACKENDS))
        self._put_slice("web", *(address for address, _ in chosen))
        name = f"s-{self._rng.randrange(10)}"
        if self._api.registry.find(resources.SERVICES, name, "default"):
            self._api.remove_service(name)
            self._api.remove_slice(f"{name}-1")
        else:
            self._api.put_service(name, manifests.fresh_ip(), ports=PORTS)
            self._put_slice(name, self._addresses[0][0])

    def truth(self) -> set[tuple[str, str]]:
        """Pairs of a Service's name and an address behind it, by a list."""
        return {
            (each["metadata"]["labels"]["kubernetes.io/service-name"], endpoint["addresses"][0])
            for each in self._api.registry.list(resources.ENDPOINT_SLICES)
            for endpoint in each["endpoints"]
        }

    def _put_slice(self, of: str, *ips: str) -> None:
        _, port = self._addresses[0]
        self._api.put_slice(f"{of}-1", of, *ips, ports=[{"name": "", "port": port}])


@pytest.mark.parametrize(
    "restarts",
    [2, pytest.param(5, marks=pytest.mark.extra), pytest.param(100, marks=pytest.mark.long)],
)
async def test_k03_restarts_of_the_api_server_cost_no_connection_and_no_change(
    tmp_path: Path, restarts: int
) -> None:
    """Restarts follow each other so fast that the proxy backs off, and sleeps through some.

    That each of a hundred restarts is noticed: cluster/test_simulated_outages.
    """
    shown = certificates.self_signed(("127.0.0.1",), (), datetime.now(UTC))
    api, rng = simulated_api.Api(certificate=shown), random.Random(7)
    async with backends() as addresses, api.server:
        churn = Churn(api, addresses)
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(api.server.kubeconfig()))
        with beside_cluster.following(tmp_path / "proxy", kubeconfig) as proxy:
            await asyncio.to_thread(proxy.wait_ready)
            load = Load(proxy.address("web"))
            async with asyncio.TaskGroup() as group:
                loading = group.create_task(load.run())
                for _ in range(restarts):
                    churn.change()
                    await api.server.stop()
                    churn.change()
                    await asyncio.sleep(rng.uniform(0, 0.3))
                    await api.server.start()
                    await asyncio.sleep(rng.uniform(0, 0.3))
                await simulated_api.until(lambda: proxy.endpoints() == churn.truth(), 90)
                loading.cancel()
            assert load.failures == []
            assert load.answers > restarts
            assert proxy.samples("kproxy_relists_total") == [1.0, 1.0]
            current = {address for name, address in churn.truth() if name == "web"}
            # What it has heard of is made true soon, not at once.
            async with asyncio.timeout(sockets.SECONDS):
                while {await load.ask() for _ in range(4 * BACKENDS)} != current:
                    pass


def test_k02_when_the_api_server_is_killed_traffic_goes_on_and_staleness_is_shown(
    tmp_path: Path,
) -> None:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        documents = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web"},
                "spec": {"ports": PORTS},
            },
            manifests.endpoints("web", [pod.address]),
        ]
        manifest = manifests.write(tmp_path / "web.yaml", *documents)
        with (
            beside_cluster.simulating(tmp_path, manifest) as simulation,
            beside_cluster.following(tmp_path / "proxy", simulation.kubeconfig) as proxy,
        ):
            proxy.wait_ready()
            address = proxy.address("web")
            daemon.wait_until(lambda: sockets.is_open(address), "it is served")
            simulation.process.kill()
            simulation.process.wait()
            for seconds in (0.5, 1.0, 2.0):
                daemon.wait_until(
                    lambda seconds=seconds: min(stale(proxy)) > seconds,  # type: ignore[misc]
                    "staleness grows",
                )
                assert sockets.ask(address) == "pod"
            daemon.wait_until(
                lambda: (
                    len(proxy.samples("kproxy_watch_failures_total", reason="unreachable")) == 2
                ),
                "both resources have been asked for again",
            )
            assert proxy.wait_logged("what was last known is served")
            shown = subprocess.run(
                [*GET_SERVICES, "--control", str(proxy.control)],
                capture_output=True,
                text=True,
                timeout=daemon.DEADLINE,
                check=True,
            )
            assert "web" in shown.stdout
            assert re.fullmatch(
                r"Warning: endpointslices\S* and services could not be read for \d+ s: .*\n",
                shown.stderr,
            )
            assert proxy.stop() == 0


def stale(proxy: beside_cluster.Follower) -> list[float]:
    """Seconds since the API server was last heard of, about each resource."""
    return proxy.samples("kproxy_watch_stale_seconds")


@pytest.mark.long
def test_k09_a_stopped_api_server_is_noticed_although_its_kernel_answers(tmp_path: Path) -> None:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        manifest = manifests.write(tmp_path / "none.yaml", manifests.endpoints("db", [pod.address]))
        with (
            beside_cluster.simulating(tmp_path, manifest) as simulation,
            beside_cluster.following(tmp_path / "proxy", simulation.kubeconfig) as proxy,
        ):
            proxy.wait_ready()
            simulation.process.send_signal(signal.SIGSTOP)
            daemon.wait_until(
                lambda: len(proxy.samples("kproxy_watch_failures_total", reason="silent")) == 2,
                "the silence is noticed",
                seconds=70 + 30,
            )
            simulation.process.send_signal(signal.SIGCONT)
            body = {"metadata": {"name": "db"}, "spec": {"ports": PORTS}}
            simulation.post("/api/v1/namespaces/default/services", body)
            daemon.wait_until(
                lambda: ("db", pod.address[0]) in proxy.endpoints(), "it goes on", seconds=90
            )
