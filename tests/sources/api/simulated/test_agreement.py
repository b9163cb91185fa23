"""After every outage the proxy agrees with the API server again within five seconds.

What should be served is computed here from the simulator's own objects, independently of the
informer. Meanwhile counters and `get` say that the state is old.

Cases: K03, K09, K20, K21 of docs/faults.md.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kproxy import metrics
from kproxy.simulator import certificates
from kproxy.simulator.api import emulation
from kproxy.simulator.api.server_faults import Kind
from kproxy.simulator.store import resources
from kproxy.sources.access import kubeconfig
from tests import virtual_time
from tests.sources.api.rig import simulated_api
from tests.sources.api.rig.simulated_api import Api, Proxy, beside, until

SECONDS = 5.0


def long(seconds: float) -> Any:
    """The longest time of a test, which costs as much as all the shorter ones."""
    return pytest.param(seconds, marks=pytest.mark.extra)


SERVERS = pytest.mark.parametrize("emulate", [emulation.V1_20, emulation.V1_33], ids=["20", "33"])


def clock() -> float:
    return asyncio.get_running_loop().time()


def truth(api: Api) -> dict[str, set[str]]:
    """Which addresses should be behind which Service."""
    wanted: dict[str, set[str]] = {
        each["metadata"]["name"]: set() for each in api.registry.list(resources.SERVICES)
    }
    for each in api.registry.list(resources.ENDPOINT_SLICES):
        of = each["metadata"]["labels"]["kubernetes.io/service-name"]
        if of in wanted:
            wanted[of] |= {address for end in each["endpoints"] for address in end["addresses"]}
    return wanted


class Churn:
    """Services and endpoints that come, change and go."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._rng = random.Random(5)
        self._serial = 0

    def change(self, times: int = 20) -> None:
        """Some changes at once."""
        for _ in range(times):
            self._serial += 1
            number = self._rng.randrange(12)
            name = f"s-{number}"
            if self._api.registry.find(resources.SERVICES, name, "default"):
                if self._rng.random() < 0.4:
                    self._api.remove_service(name)
                    self._api.remove_slice(f"{name}-1")
                    continue
            else:
                self._api.put_service(name, f"10.96.1.{number + 1}")
            address = f"10.1.{self._serial // 250}.{self._serial % 250 + 1}"
            self._api.put_slice(f"{name}-1", name, address)


async def agreement(api: Api, proxy: Proxy) -> None:
    """Assert that the proxy agrees with the server within `SECONDS` from now, and says so."""
    await until(lambda: proxy.table() == truth(api), SECONDS)
    await until(lambda: not is_old(proxy), SECONDS)


def is_old(proxy: Proxy) -> bool:
    """Whether `get` and the metrics say that some state is old."""
    return bool(metrics.unread(proxy.informed.counters(), clock()))


def run(scenario: Callable[[Api, Proxy, Churn], Awaitable[None]], **options: object) -> None:
    """Run a scenario beside a proxy that has been in agreement for a while."""

    async def main() -> None:
        api = Api(**options)
        async with api.server:
            churn = Churn(api)
            churn.change()
            async with beside(api) as proxy:
                await proxy.synced()
                await asyncio.sleep(40)
                churn.change()
                await agreement(api, proxy)
                await scenario(api, proxy, churn)

    virtual_time.run(main)


@SERVERS
@pytest.mark.parametrize("down_for", [0.0, 3.0, 40.0, long(300.0)])
def test_a_restart_that_forgets_the_watch_cache(
    emulate: emulation.Emulation, down_for: float
) -> None:
    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        for _ in range(3):
            api.faults.set(Kind.RESTART, seconds=down_for)
            await asyncio.sleep(down_for * 0.9)
            if down_for:
                churn.change()
                assert is_old(proxy) or down_for < SECONDS
            await asyncio.sleep(down_for * 0.1 + 0.01)
            churn.change()
            await agreement(api, proxy)
            churn.change()
            await agreement(api, proxy)

    run(scenario, emulate=emulate)


@SERVERS
def test_a_compaction_while_the_server_is_away(emulate: emulation.Emulation) -> None:
    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        await api.server.stop()
        churn.change(200)
        api.forget_history()
        await asyncio.sleep(20)
        assert is_old(proxy)
        await api.server.start()
        await agreement(api, proxy)

    run(scenario, emulate=emulate)


@SERVERS
def test_a_compaction_beside_open_watches(emulate: emulation.Emulation) -> None:
    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        for _ in range(10):
            churn.change()
            api.faults.set(Kind.COMPACTION)
            churn.change()
            await agreement(api, proxy)

    run(scenario, emulate=emulate)


@SERVERS
@pytest.mark.parametrize("seconds", [0.5, 3.0, 6.0, 9.0, 13.0, 35.0, 47.0, long(200.0)])
def test_a_server_that_pauses(emulate: emulation.Emulation, seconds: float) -> None:
    """As under SIGSTOP: connections are accepted by the kernel, and nothing answers."""

    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        for _ in range(3):
            api.faults.set(Kind.SILENT_DEATH)
            churn.change()
            await asyncio.sleep(seconds)
            assert is_old(proxy) or seconds < 10 + SECONDS
            api.faults.clear()
            churn.change()
            await agreement(api, proxy)
            await asyncio.sleep(11)

    run(scenario, emulate=emulate)


@SERVERS
@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0, 3.5, 5.0, 7.5, 9.0, 13.0, 35.0, long(200.0)])
def test_a_pause_after_which_open_watches_are_deaf(
    emulate: emulation.Emulation, seconds: float
) -> None:
    """As when what is between us has forgotten the connections, or another machine took over."""

    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        for number in range(8):
            await asyncio.sleep(0.7 * number)
            for resource in ("services", "endpointslices"):
                api.faults.set(Kind.SILENT_WATCH, resource=resource, count=1)
            await until(lambda: not api.faults.active())
            api.faults.set(Kind.SILENT_DEATH)
            churn.change()
            await asyncio.sleep(seconds)
            api.faults.clear()
            churn.change()
            await agreement(api, proxy)

    run(scenario, emulate=emulate)


@SERVERS
@pytest.mark.parametrize("seconds", [0.15, 4.0, 60.0, long(600.0)])
def test_rights_that_are_loaded_late(emulate: emulation.Emulation, seconds: float) -> None:
    async def scenario(api: Api, proxy: Proxy, churn: Churn) -> None:
        await api.server.stop()
        churn.change()
        await asyncio.sleep(5)
        await api.server.start()
        api.faults.set(Kind.LATE_RBAC, seconds=seconds)
        await asyncio.sleep(seconds)
        assert is_old(proxy)
        await agreement(api, proxy)
        if seconds < 1:
            assert not [each for each in proxy.sentences() if "kubectl" in each]

    run(scenario, emulate=emulate)


@pytest.mark.parametrize("seconds", [2.0, 60.0, long(600.0)])
def test_tokens_that_are_revoked(tmp_path: Path, seconds: float) -> None:
    """The token's file is written anew some time after the server refuses the old one."""

    async def main() -> None:
        api = Api()
        token = tmp_path / "token"
        token.write_text(simulated_api.TOKEN)
        churn = Churn(api)
        async with api.server:
            user = kubeconfig.User(token_file=token)
            access = kubeconfig.ClusterAccess(api.server.url, "test", user)
            async with beside(api, access=access) as proxy:
                await proxy.synced()
                await asyncio.sleep(20)
                churn.change()
                await agreement(api, proxy)
                api.server.rotate_token()
                api.faults.set(Kind.RESTART, seconds=1.0)
                await asyncio.sleep(1 + seconds)
                churn.change()
                await asyncio.sleep(3)
                assert is_old(proxy)
                assert any("Unauthorized" in each for each in proxy.sentences())
                token.write_text(next(iter(api.server.tokens)))
                await agreement(api, proxy)

    virtual_time.run(main)


@pytest.mark.parametrize("later", [0.0, 2.0, pytest.param(150.0, marks=pytest.mark.extra)])
@pytest.mark.parametrize("down_for", [0.0, 1.0, pytest.param(150.0, marks=pytest.mark.extra)])
def test_a_server_with_a_new_authority_certificate_and_token(
    tmp_path: Path, down_for: float, later: float
) -> None:
    """The kubeconfig is written anew some time after the server is back."""
    path = tmp_path / "kubeconfig"

    def certificate() -> certificates.Certificate:
        return certificates.self_signed(("127.0.0.1",), (), datetime.now(UTC))

    async def main() -> None:
        api = Api(certificate=certificate(), renew=certificate)

        def write() -> None:
            path.write_text(json.dumps(api.server.kubeconfig()))

        churn = Churn(api)
        async with api.server:
            write()
            async with beside(api, access=kubeconfig.read([path], None)) as proxy:
                await proxy.synced()
                for _ in range(3):
                    await asyncio.sleep(10)
                    churn.change()
                    await agreement(api, proxy)
                    api.server.rotate_token()
                    await api.server.rekey(down_for=down_for)
                    churn.change()
                    await asyncio.sleep(later)
                    assert is_old(proxy) or later < SECONDS
                    write()
                    await agreement(api, proxy)

    virtual_time.run(main)
