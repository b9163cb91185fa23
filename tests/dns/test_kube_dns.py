"""An EndpointSlice of our own: written when it is missing or wrong, removed at the end."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kproxy.dns import kube_dns
from kproxy.model import admission
from kproxy.sources import store
from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress
from tests.dns.rig import lab

PATIENCE = 20.0
COLLECTION = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
NAME = "kube-dns-kproxy-node-1"
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {
        "clusterIP": "10.96.0.10",
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53},
            {"name": "metrics", "port": 9153},
        ],
    },
}


class FakeServer:
    """A name server that listens."""

    async def ready(self) -> None:
        """At once."""

    def addresses(self) -> dict[str, str]:
        return {"dns": "192.0.2.53:5353"}


class FakeApi:
    """An API server with EndpointSlices of one version, which shows them to a Store."""

    def __init__(self, shown: store.Store) -> None:
        self.store = shown
        self.written: list[tuple[str, str]] = []
        self.refusal: client.RequestError | None = None
        self.objects: dict[str, Any] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["FakeApi"]:
        yield self

    async def write(self, path: str, written: client.Write) -> None:
        self.written.append((written.method, path))
        await self.may_answer.wait()
        if self.refusal is not None:
            raise self.refusal
        document = json.loads(written.body) if written.body else {}
        if written.method == "POST":
            path = f"{path}/{document['metadata']['name']}"
        elif path not in self.objects:
            raise client.RequestError(progress.Outcome.NOT_FOUND, "the server answers 404")
        if written.method == "DELETE":
            del self.objects[path]
            return
        self.objects[path] = document
        self.show(document)

    def show(self, document: dict[str, Any]) -> None:
        for admitted in admission.admit(document, kinds=lab.KINDS):
            assert admitted.accepted is not None, admitted
            self.store.announce(self.store.apply(admitted.accepted))

    async def until(self, count: int) -> None:
        """Return when there were so many writes."""
        async with asyncio.timeout(PATIENCE):
            while len(self.written) < count:  # noqa: ASYNC110  # a list has no event
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def beside(api: FakeApi) -> AsyncIterator[kube_dns.KubeDns]:
    """What keeps the slice, running."""
    made = kube_dns.KubeDns(FakeServer(), api.store, api.open, "node-1")  # type: ignore[arg-type]  # all that is used
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        yield made
        running.cancel()
    made.close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    """An API server with the Service."""
    monkeypatch.setattr(writing, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(kube_dns, "SETTLE_SECONDS", 0.0)
    made = FakeApi(store.Store(lab.KINDS))
    made.show(SERVICE)
    return made


async def test_the_slice_is_made_and_removed(api: FakeApi) -> None:
    async with beside(api) as made:
        await api.until(2)
        (written,) = api.objects.values()

        assert written["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"
        assert written["endpoints"][0]["addresses"] == ["192.0.2.53"]
        assert written["ports"] == [
            {"name": "dns", "protocol": "UDP", "port": 5353},
            {"name": "dns-tcp", "protocol": "TCP", "port": 5353},
        ]
        await made.drain(10.0)

    assert api.objects == {}
    assert api.written == [
        ("PATCH", f"{COLLECTION}/{NAME}"),
        ("POST", COLLECTION),
        ("DELETE", f"{COLLECTION}/{NAME}"),
    ]


async def test_a_write_that_is_under_way_at_the_end_leaves_nothing(api: FakeApi) -> None:
    api.may_answer.clear()
    async with beside(api) as made, asyncio.TaskGroup() as group:
        await api.until(1)
        group.create_task(made.drain(10.0))
        await asyncio.sleep(0)
        api.may_answer.set()
        await api.until(3)

    assert api.objects == {}
    assert api.written[-1][0] == "DELETE"


async def test_a_slice_that_another_has_changed_is_written_again(api: FakeApi) -> None:
    async with beside(api):
        await api.until(2)
        (written,) = api.objects.values()
        api.show({**written, "endpoints": [{"addresses": ["192.0.2.99"]}]})
        await api.until(3)

    (written,) = api.objects.values()
    assert written["endpoints"][0]["addresses"] == ["192.0.2.53"]


async def test_a_slice_that_is_gone_is_written_again(api: FakeApi) -> None:
    async with beside(api):
        await api.until(2)
        api.objects.clear()
        name = kube_dns.SERVICE._replace(name=NAME)
        api.store.announce(api.store.delete("EndpointSlice", name))
        await api.until(4)

    assert len(api.objects) == 1


async def test_without_the_service_there_is_no_slice(api: FakeApi) -> None:
    async with beside(api):
        await api.until(2)
        api.store.announce(api.store.delete("Service", kube_dns.SERVICE))
        await api.until(3)

    assert api.objects == {}


async def test_a_right_that_is_missing_is_named_once(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refusal = client.RequestError(progress.Outcome.FORBIDDEN, "the server answers 403: no")
    async with beside(api) as made:
        await api.until(3)
        await made.drain(10.0)

    said = capsys.readouterr().out
    assert said.count("cannot become an endpoint of kube-dns: the server answers 403: no") == 1
    assert "--verb=create,patch,delete --resource=endpointslices.discovery.k8s.io" in said
    assert not [each for each in api.written if each[0] == "DELETE"]
