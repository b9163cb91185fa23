"""Statuses written to an API server: which requests are made, and what follows from refusals."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec
from structlog.testing import capture_logs

from kproxy.gateway import publisher, statuses, watcher
from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress
from tests import virtual_time
from tests.gateway import documents

GATEWAYS = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways"
EDGE = ("Gateway", documents.named("edge"))
SPLIT = ("TCPRoute", documents.named("split"))
OUTCOMES = progress.Outcome


class Answer:
    """The body of an answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read_all(self, _seconds: float, _ceiling: int) -> bytes:
        """All of it."""
        return self._body


class FakeApi:
    """Objects by path. `refusals` are the outcomes of the next requests, None for an answer."""

    def __init__(self, **statuses: Any) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            f"{GATEWAYS}/{name}": status for name, status in statuses.items()
        }
        self.versions: dict[str, int] = dict.fromkeys(self.objects, 1)
        self.refusals: list[progress.Outcome | None] = []
        self.reads: list[str] = []
        self.writes: list[str] = []
        self.opened = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["FakeApi"]:
        """As a client is used."""
        self.opened += 1
        yield self

    @contextlib.asynccontextmanager
    async def get(
        self, _mode: progress.Mode, path: str, _query: Mapping[str, str]
    ) -> AsyncIterator[Any]:
        """As `client.Client.get`."""
        self.reads.append(path)
        self._refuse()
        if path not in self.objects:
            raise client.RequestError(OUTCOMES.NOT_FOUND, "not found")
        metadata = {"resourceVersion": str(self.versions[path])}
        found = {"metadata": metadata, "status": self.objects[path]}
        yield Answer(msgspec.json.encode(found))

    async def write(self, path: str, written: client.Write) -> None:
        """As `client.Client.write`."""
        self.writes.append(path)
        self._refuse()
        name, slash, part = path.rpartition("/")
        assert (slash, part) == ("/", "status")
        assert written.method == "PATCH"
        assert written.media_type == "application/merge-patch+json"
        body = msgspec.json.decode(written.body)
        if body["metadata"]["resourceVersion"] != str(self.versions[name]):
            raise client.RequestError(OUTCOMES.SERVER_ERROR, "the server answers 409: conflict")
        self.objects[name] = body["status"]
        self.versions[name] += 1

    def _refuse(self) -> None:
        if self.refusals and (outcome := self.refusals.pop(0)) is not None:
            raise client.RequestError(outcome, f"refused: {outcome}")


def of_gateway(*addresses: str, reason: str = "Accepted") -> statuses.GatewayStatus:
    accepted = statuses.Condition("Accepted", is_true=True, reason=reason)
    return statuses.GatewayStatus(EDGE[1], 1, addresses, (accepted,), ())


def publish(
    api: FakeApi,
    scenario: Callable[[publisher.Publisher], Any],
) -> None:
    """Run a scenario beside a publisher, on virtual time."""

    async def run() -> None:
        made = publisher.Publisher(api.open, lambda: 1_800_000_000.0)
        running = asyncio.get_running_loop().create_task(made.run())
        await scenario(made)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    virtual_time.run(run)


def test_a_status_is_written_once_and_what_is_so_already_is_not() -> None:
    api = FakeApi(edge={})

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({EDGE: of_gateway("192.0.2.1")}))
        await asyncio.sleep(1)
        assert api.writes == [f"{GATEWAYS}/edge/status"]
        status = api.objects[f"{GATEWAYS}/edge"]
        assert status["addresses"] == [{"type": "IPAddress", "value": "192.0.2.1"}]
        assert status["conditions"][0]["lastTransitionTime"] == "2027-01-15T08:00:00Z"
        made.take(watcher.Change({EDGE: of_gateway("192.0.2.1")}))
        await asyncio.sleep(1)
        assert len(api.writes) == 1
        assert len(api.reads) == 2

    publish(api, scenario)


def test_addresses_that_are_no_longer_ours_are_taken_out_at_a_change_and_at_the_end() -> None:
    other = {"type": "IPAddress", "value": "192.0.2.9"}
    api = FakeApi(edge={"addresses": [other]})

    async def scenario(made: publisher.Publisher) -> None:
        for address in ("192.0.2.1", "192.0.2.2"):
            made.take(watcher.Change({EDGE: of_gateway(address)}))
            await asyncio.sleep(1)
            found = [each["value"] for each in api.objects[f"{GATEWAYS}/edge"]["addresses"]]
            assert found == ["192.0.2.9", address]
        await made.withdraw(5.0)
        assert api.objects[f"{GATEWAYS}/edge"]["addresses"] == [other]
        made.take(watcher.Change({EDGE: of_gateway("192.0.2.3")}))
        await asyncio.sleep(100)
        assert api.objects[f"{GATEWAYS}/edge"]["addresses"] == [other]

    publish(api, scenario)


def test_what_fails_is_tried_again_with_the_latest_status() -> None:
    api = FakeApi(edge={})
    api.refusals = [OUTCOMES.UNREACHABLE, None, OUTCOMES.SERVER_ERROR]

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({EDGE: of_gateway(reason="Old")}))
        await asyncio.sleep(0.5)
        made.take(watcher.Change({EDGE: of_gateway(reason="New")}))
        await asyncio.sleep(10)
        (condition,) = api.objects[f"{GATEWAYS}/edge"]["conditions"]
        assert condition["reason"] == "New"

    publish(api, scenario)


def test_an_object_that_cannot_be_written_keeps_no_other_from_it() -> None:
    class Picky(FakeApi):
        """Refuses what is said of one object."""

        async def write(self, path: str, written: client.Write) -> None:
            if "bad" in path:
                raise client.RequestError(OUTCOMES.SERVER_ERROR, "the server answers 422")
            await super().write(path, written)

    api = Picky(bad={}, edge={}, third={})

    async def scenario(made: publisher.Publisher) -> None:
        names = ("bad", "edge", "third")
        keys = [("Gateway", documents.named(name)) for name in names]
        made.take(watcher.Change({key: of_gateway() for key in keys}))
        await asyncio.sleep(0.5)
        assert api.writes == [f"{GATEWAYS}/{name}/status" for name in ("edge", "third")]

    publish(api, scenario)


def test_what_is_being_written_at_the_end_is_withdrawn_too() -> None:
    class Slow(FakeApi):
        """Takes a second for a write."""

        async def write(self, path: str, written: client.Write) -> None:
            await asyncio.sleep(1)
            await super().write(path, written)

    api = Slow(edge={}, second={})

    async def scenario(made: publisher.Publisher) -> None:
        for name in ("edge", "second"):
            key = ("Gateway", documents.named(name))
            made.take(watcher.Change({key: of_gateway("192.0.2.1")}))
        await asyncio.sleep(1.5)
        await made.withdraw(10.0)
        await asyncio.sleep(100)
        assert [each.get("addresses", []) for each in api.objects.values()] == [[], []]

    publish(api, scenario)


def test_without_the_right_it_is_said_once_and_tried_ever_less_often() -> None:
    api = FakeApi(edge={})
    api.refusals = [OUTCOMES.FORBIDDEN] * 1000

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({EDGE: of_gateway()}))
        await asyncio.sleep(600)
        assert 10 < len(api.reads) < 20
        api.refusals.clear()
        await asyncio.sleep(writing.LONGEST_WAIT + 1)
        assert len(api.writes) == 1

    with capture_logs() as logs:
        publish(api, scenario)
    (line,) = [each["event"] for each in logs]
    assert "cannot write the status of gateways: refused: forbidden" in line
    assert "kubectl create clusterrole kproxy-gateway-writer --verb=get,patch" in line
    assert "gateways.gateway.networking.k8s.io/status" in line


def test_an_object_that_is_gone_is_looked_for_in_each_version_and_forgotten() -> None:
    api = FakeApi()

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({EDGE: of_gateway()}))
        await asyncio.sleep(100)
        assert api.reads == [f"{GATEWAYS}/edge", f"{GATEWAYS}/edge".replace("v1", "v1beta1")]

    publish(api, scenario)


def test_a_route_of_no_gateway_of_ours_loses_what_we_have_written() -> None:
    api = FakeApi()
    path = GATEWAYS.replace("gateways", "tcproutes") + "/split"
    ours = {"controllerName": "kproxy.io/gateway", "parentRef": {"name": "edge"}}
    api.objects[path], api.versions[path] = {"parents": [ours]}, 1

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({}, frozenset({SPLIT, EDGE})))
        await asyncio.sleep(1)
        assert api.objects[path] == {"parents": []}

    publish(api, scenario)


def test_a_server_that_answers_with_what_is_no_object_harms_nothing() -> None:
    api = FakeApi(edge={}, second={})

    class Odd(FakeApi):
        """Answers with no object first."""

        @contextlib.asynccontextmanager
        async def get(
            self, mode: progress.Mode, path: str, query: Mapping[str, str]
        ) -> AsyncIterator[Any]:
            if not self.reads:
                self.reads.append(path)
                yield Answer(b"<html>")
                return
            async with super().get(mode, path, query) as answer:
                yield answer

    api = Odd(edge={})

    async def scenario(made: publisher.Publisher) -> None:
        made.take(watcher.Change({EDGE: of_gateway()}))
        await asyncio.sleep(10)
        assert len(api.writes) == 1

    publish(api, scenario)
