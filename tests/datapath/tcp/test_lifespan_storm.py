"""Lifetimes under traffic: rules and endpoints change at random, and no answer is cut in order.

Clients ask and servers answer with messages of known length. A connection may end between two
exchanges by FIN, and at any moment by a reset; a FIN within an answer would be a broken promise.
"""

import asyncio
import random

import pytest

from kproxy.datapath.tcp import halfclose, lifespan
from kproxy.model import lifetimes
from kproxy.model.lifetimes import Lifetime, OnEndpointRemoved
from tests.datapath.rig import faulty, harness
from tests.relay import actor

pytestmark = pytest.mark.xdist_group("time")

CLIENTS = 12
EXCHANGES = 25
MOST = 200_000
RULES = (
    lifetimes.UNLIMITED,
    Lifetime(max_age=0.05, age_grace=5.0),
    Lifetime(max_age=0.05, age_grace=0.1),
    Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=5.0),
    Lifetime(max_age=0.1, on_removed=OnEndpointRemoved.DRAIN, drain=0.1),
    Lifetime(on_removed=OnEndpointRemoved.RESET),
)


async def serve(backend: actor.Actor) -> None:
    """Answer each request, which is a length, with that many bytes; end when the client has."""
    try:
        while head := await backend.receive(4):
            head += await backend.receive_exactly(4 - len(head))
            await backend.send(b"x" * int.from_bytes(head, "big"))
        backend.close()
    except (OSError, AssertionError):
        backend.reset()


async def accept_all(bench: harness.Harness, place: harness.Place) -> None:
    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(serve(bench.hold(await place.accept())))


async def exchange(client: actor.Actor, size: int) -> bool:
    """Whether a request was answered, all of it. An end is fine before the answer has begun."""
    try:
        await client.send(size.to_bytes(4, "big"))
        received = 0
        while received < size:
            piece = await client.receive(size - received)
            if not piece:
                assert received == 0, f"a clean end after {received} of {size} bytes"
                return False
            received += len(piece)
    except ConnectionError:
        return False
    return True


async def ask(bench: harness.Harness, service: harness.Service, rng: random.Random) -> None:
    """Keep a connection, and make another one when it ends, as pools do."""
    done = 0
    while done < EXCHANGES:
        try:
            client = await bench.connect(service)
        except ConnectionError:
            continue
        while done < EXCHANGES and await exchange(client, rng.randint(1, MOST)):
            done += 1
            await asyncio.sleep(rng.choice((0, 0, 0.03, 0.1)))
        client.reset() if rng.random() < 0.2 else client.close()


@pytest.mark.extra
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kernel", ["honest", "rough"])
async def test_no_answer_is_cut_in_order(
    bench: harness.Harness, monkeypatch: pytest.MonkeyPatch, kernel: str, seed: int
) -> None:
    monkeypatch.setattr(lifespan, "TICK", 0.01)
    monkeypatch.setattr(lifespan, "QUIET", 0.02)
    monkeypatch.setattr(lifespan, "GONE", 0.02)
    rng = random.Random(seed)
    rates = faulty.ROUGH if kernel == "rough" else faulty.Rates()
    path = bench.start(None, faulty.FaultyKernel(rates, seed))
    places = [bench.backend() for _ in range(3)]
    service = path.serve(*places)

    async def change_rules() -> None:
        while True:
            present = frozenset(
                place.address for place in places if place is places[0] or rng.random() < 0.7
            )
            assert service.balancer is not None
            service.balancer.update(sorted(present))
            path.data_path.lifetimes.follow(service.target.terms, rng.choice(RULES), present)
            await asyncio.sleep(rng.choice((0.01, 0.05, 0.2)))

    async with asyncio.TaskGroup() as group:
        ongoing = [group.create_task(accept_all(bench, place)) for place in places]
        ongoing.append(group.create_task(change_rules()))
        async with (
            harness.within("all requests are answered in the end", 60.0),
            asyncio.TaskGroup() as asking,
        ):
            for _ in range(CLIENTS):
                asking.create_task(ask(bench, service, rng))
        for task in ongoing:
            task.cancel()
    path.data_path.lifetimes.follow(service.target.terms, lifetimes.UNLIMITED, frozenset())
    bench.end_all()
    await harness.until(path.is_quiet, "every connection has ended")
    assert service.target.terms.roll is None
    by_rules = {halfclose.AGED, halfclose.AGED_RESET, halfclose.REMOVED, halfclose.REMOVED_RESET}
    ended_by_rules = sum(service.ended[how] for how in service.ended.keys() & by_rules)
    assert ended_by_rules >= 5, "hardly anything was ended by a rule"
