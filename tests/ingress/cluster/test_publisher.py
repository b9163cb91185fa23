"""What is written back to an API server, which the test plays. Its clock jumps."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Self

import pytest

from kproxy.ingress import kinds, state, table
from kproxy.ingress.cluster import publisher
from kproxy.model import names
from kproxy.model.kinds import registry
from kproxy.model.kinds.ingress import ingresses
from kproxy.sources import store
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests import virtual_time

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
        self.publisher = publisher.Publisher(
            lambda: self.api, self.known, self.shown, lambda: (OWN,)
        )

    def serve(self, *served: ingresses.Ingress) -> None:
        """These are in force now."""
        for each in served:
            self.known.apply(each)
        self.shown.served = frozenset(each.name for each in served)
        self.publisher.look()

    @contextlib.asynccontextmanager
    async def published(self) -> AsyncIterator[Api]:
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
    async with world.published() as api:
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
    async with world.published() as api:
        world.known.apply(ingress("a", "192.0.2.2"))
        await asyncio.sleep(60)

    assert len(api.written) == 2
    assert world.known.all(kinds.KINDS[0])[names.NamespacedName("default", "a")].published == (
        "192.0.2.2",
        OWN,
    )


@virtual
async def test_the_end_takes_our_address_out_and_leaves_the_others() -> None:
    world = World()
    world.serve(ingress("a", OWN), ingress("b", OWN, "192.0.2.2"))
    async with world.published() as api:
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
    async with world.published() as api:
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
    async with world.published() as api:
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
