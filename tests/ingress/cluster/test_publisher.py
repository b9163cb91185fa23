"""What is written back to an API server, which the test plays. Its clock jumps."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import pytest

from kproxy.ingress import kinds, state, table
from kproxy.ingress.cluster import publisher, record
from kproxy.model import names
from kproxy.model.kinds import registry
from kproxy.model.kinds.ingress import ingress_kind, ingresses
from kproxy.sources import store
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests import virtual_time
from tests.ingress.cluster.test_record import SERVER, left_by_a_killed_proxy, recorded

OWN = "192.0.2.1"


class Api:
    """Takes what is written, or fails with `outcome`; a status that it takes is in the Store."""

    def __init__(self, known: store.Store) -> None:
        self.known = known
        self.written: list[tuple[str, str, Any]] = []
        self.outcome: progress.Outcome | None = None
        self.tries = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def write(self, path: str, written: client.Write) -> None:
        self.tries += 1
        if self.outcome is not None:
            raise client.RequestError(self.outcome, "the server says no")
        body = json.loads(written.body)
        self.written.append((written.method, path, body))
        if written.method == "PATCH":
            entries = body["status"]["loadBalancer"]["ingress"] or ()
            found = tuple(each.get("ip") or each["hostname"] for each in entries)
            self.known.apply(ingress(path.split("/")[-2], *found))


class World:
    """A publisher, what it reads, and where it writes."""

    def __init__(self) -> None:
        self.known = store.Store((*registry.KINDS, *kinds.KINDS))
        self.api = Api(self.known)
        self.shown = state.IngressState()
        self.own = [OWN]
        self.record = record.Record(SERVER)
        self.publisher = publisher.Publisher(
            lambda: self.api, self.known, self.shown, lambda: self.own, self.record
        )

    def serve(self, *served: ingresses.Ingress) -> None:
        """These are in force now."""
        for each in served:
            self.known.apply(each)
        self.shown.served = frozenset(each.name for each in served)
        self.shown.version = "1"
        self.publisher.look()

    def published(self, name: str) -> tuple[str, ...]:
        """The addresses in the status of an Ingress."""
        found = self.known.get(ingress_kind.KIND, names.NamespacedName("default", name))
        assert found is not None
        return found.published

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Api]:
        """Publish for the time of the block."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.publisher.run())
            await asyncio.sleep(1)
            yield self.api
            task.cancel()


def ingress(name: str, *published: str) -> ingresses.Ingress:
    """An Ingress whose status has these addresses."""
    return ingresses.Ingress(
        names.NamespacedName("default", name), "kproxy", uid=f"uid-{name}", published=published
    )


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test whose clock jumps."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        virtual_time.run(lambda: test(**fixtures))

    return run


@virtual
async def test_an_address_is_added_where_it_is_missing_and_nowhere_else() -> None:
    world = World()
    world.serve(ingress("a"), ingress("b", OWN), ingress("c", "192.0.2.9", "lb.example"))
    async with world.running() as api:
        await asyncio.sleep(60)

    root = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
    assert [(method, path) for method, path, _ in api.written] == [
        ("PATCH", f"{root}/a/status"),
        ("PATCH", f"{root}/c/status"),
    ]
    assert api.written[1][2]["status"]["loadBalancer"]["ingress"] == [
        {"ip": "192.0.2.9"},
        {"hostname": "lb.example"},
        {"ip": OWN},
    ]


@virtual
async def test_another_proxy_that_writes_over_it_is_no_war() -> None:
    world = World()
    world.serve(ingress("a"))
    async with world.running() as api:
        world.known.apply(ingress("a", "192.0.2.2"))
        await asyncio.sleep(60)

    assert len(api.written) == 2
    assert world.known.all(kinds.KINDS[0])[names.NamespacedName("default", "a")].published == (
        "192.0.2.2",
        OWN,
    )


@virtual
async def test_an_address_that_is_no_longer_ours_is_taken_out() -> None:
    world = World()
    world.serve(ingress("a"), ingress("b", "192.0.2.9"))
    async with world.running():
        world.own[:] = ["192.0.2.8"]
        world.publisher.look()
        await asyncio.sleep(60)

    assert world.published("a") == ("192.0.2.8",)
    assert world.published("b") == ("192.0.2.9", "192.0.2.8")


@virtual
async def test_what_a_killed_proxy_has_published_is_taken_out(tmp_path: Path) -> None:
    world = World()
    world.record.take(left_by_a_killed_proxy(tmp_path, SERVER, "192.0.2.7", OWN))
    world.serve(ingress("a", "192.0.2.7", OWN, "192.0.2.9"), ingress("b", "192.0.2.7"))
    async with world.running() as api:
        await asyncio.sleep(60)
        assert world.published("a") == (OWN, "192.0.2.9")
        assert world.published("b") == (OWN,)

        world.known.apply(ingress("b", OWN, "192.0.2.7"))  # another proxy there lives
        await asyncio.sleep(60)

    assert world.published("b") == (OWN, "192.0.2.7")
    assert len(api.written) == 2


@virtual
async def test_it_is_taken_out_once_there_is_a_table_and_the_server_takes_it(
    tmp_path: Path,
) -> None:
    world = World()
    world.record.take(left_by_a_killed_proxy(tmp_path, SERVER, "192.0.2.7"))
    world.publisher.look()
    async with world.running() as api:
        api.outcome = progress.Outcome.FORBIDDEN
        world.serve(ingress("a", "192.0.2.7"))
        await asyncio.sleep(60)
        api.outcome = None
        await asyncio.sleep(600)

    assert world.published("a") == (OWN,)


@virtual
async def test_a_record_names_what_may_be_published_now(tmp_path: Path) -> None:
    world = World()
    world.record.take(left_by_a_killed_proxy(tmp_path, SERVER, "192.0.2.7"))

    def write(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)

    world.record.keep_by(write)
    world.serve(ingress("a", "192.0.2.7"))
    world.api.outcome = progress.Outcome.FORBIDDEN
    async with world.running() as api:
        assert recorded(tmp_path) == {"192.0.2.7", OWN}
        api.outcome = None
        await asyncio.sleep(600)
        assert recorded(tmp_path) == {OWN}


@virtual
async def test_the_end_takes_our_address_out_and_leaves_the_others() -> None:
    world = World()
    world.serve(ingress("a", OWN), ingress("b", OWN, "192.0.2.2"))
    async with world.running() as api:
        await world.publisher.withdraw(5)
        await asyncio.sleep(60)

    found = [body["status"]["loadBalancer"]["ingress"] for _, _, body in api.written]
    assert found == [None, [{"ip": "192.0.2.2"}]]


@virtual
async def test_a_missing_right_is_said_once_and_asked_for_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World()
    world.api.outcome = progress.Outcome.FORBIDDEN
    world.serve(*(ingress(f"i{number}") for number in range(10)))
    async with world.running() as api:
        await asyncio.sleep(600)
        tries = api.tries
        api.outcome = None
        await asyncio.sleep(120)

    said = capsys.readouterr().out
    assert said.count("cannot patch ingresses/status") == 1
    assert "kubectl create clusterrole" in said
    assert tries < 100
    assert len(api.written) == 10


@virtual
async def test_a_problem_becomes_an_event_and_a_flood_is_bounded() -> None:
    world = World()
    world.serve(ingress("a", OWN))
    async with world.running() as api:
        for number in range(1000):
            name = names.NamespacedName("default", "a")
            world.publisher.note(table.Problem(name, "NoService", f"problem {number}"))
        await asyncio.sleep(0.5)
        at_once = len(api.written)
        await asyncio.sleep(3600)

    assert at_once == publisher.EVENTS_AT_ONCE
    assert len(api.written) == publisher.MOST_WAITING
    method, path, event = api.written[-1]
    assert (method, path) == ("POST", "/api/v1/namespaces/default/events")
    assert (event["type"], event["reason"], event["message"]) == (
        "Warning",
        "NoService",
        "problem 999",
    )
    assert event["involvedObject"] == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "namespace": "default",
        "name": "a",
        "uid": "uid-a",
    }
