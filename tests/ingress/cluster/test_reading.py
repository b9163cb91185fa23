"""Whether the first table has what it is made of, though Services are served without it."""

import asyncio

import pytest

from kproxy.ingress import kinds
from kproxy.ingress.cluster import reading
from kproxy.model.kinds import registry
from kproxy.simulator import cluster
from kproxy.simulator.api import emulation, server_faults
from kproxy.sources.access import kubeconfig
from kproxy.sources.api import informer

SECONDS = 20.0
INGRESS = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "Ingress",
    "metadata": {"name": "shop"},
    "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}},
}


async def test_ingresses_that_are_listed_late_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SETTLED_SECONDS", SECONDS)
    options = cluster.Options(token="secret", tls=False, emulate=emulation.Version.V1_20)
    async with cluster.Cluster(options) as simulated:
        simulated.apply([INGRESS])
        simulated.faults.set(server_faults.Kind.SLOW_LIST, resource="ingresses", seconds=600.0)
        access = kubeconfig.ClusterAccess(simulated.url, "test", kubeconfig.User(token="secret"))
        read = informer.InformerSource(
            access, on_problem=lambda _: None, kinds=(*registry.KINDS, *kinds.KINDS)
        )
        running = asyncio.ensure_future(read.run())
        try:
            async with asyncio.timeout(SECONDS):
                while not read.has_synced:  # noqa: ASYNC110  # it has no other signal
                    await asyncio.sleep(0.005)
                assert not read.store.all(kinds.KINDS[0])

                settling = asyncio.ensure_future(reading.Reading(read.all_counters).settle())
                await asyncio.sleep(0)
                assert not settling.done()
                simulated.faults.clear()
                await settling
        finally:
            running.cancel()
            await asyncio.wait([running])

    assert [name.name for name in read.store.all(kinds.KINDS[0])] == ["shop"]
