"""At the end, first answers that are due are waited for, and other flows are not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kproxy.datapath import data_path
from kproxy.datapath.udp import endings, path
from tests.datapath.rig import harness
from tests.datapath.udp import rig

FOREVER = 1e6


@pytest.fixture
async def patient(
    bench: harness.Harness,  # closed after it
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[rig.Rig]:
    """A data path that waits for answers, and keeps flows, for as long as it takes."""
    monkeypatch.setattr(path, "ANSWER_SECONDS", FOREVER)
    made = rig.Rig(data_path.Limits(udp_timeout=10 * FOREVER))
    yield made
    made.close()


async def begun(udp: rig.Rig) -> tuple[rig.Sink, rig.Service, rig.Peer]:
    """A client that has asked, and a server that has not answered."""
    sink, client = udp.sink(), udp.client()
    service = udp.serve(sink)
    await client.send(b"question", service.address)
    await harness.until(lambda: sink.taken, "the question")
    return sink, service, client


async def test_an_answer_that_is_due_arrives_before_the_end(patient: rig.Rig) -> None:
    sink, service, client = await begun(patient)
    async with asyncio.TaskGroup() as group:
        drain = group.create_task(patient.data_path.drain(FOREVER))
        await asyncio.sleep(0)
        await sink.send(b"answer", ("127.0.0.1", *sink.clients))
        assert await client.receive() == (b"answer", tuple(service.address))
        async with harness.within("the end after the answer"):
            assert await drain == 0
    assert service.front.fd < 0
    assert service.ended == {endings.FRONTEND_CLOSED: 1}


async def test_new_questions_are_served_while_an_answer_is_due(patient: rig.Rig) -> None:
    sink, _, client = await begun(patient)
    other = patient.serve(patient.server())
    async with asyncio.TaskGroup() as group:
        drain = group.create_task(patient.data_path.drain(FOREVER))
        await asyncio.sleep(0)
        assert (await patient.client().ask(b"x", other.address)).endswith(b"x")
        silent = patient.serve(patient.sink())
        await patient.client().send(b"x", silent.address)
        await patient.until_flows(3)
        assert not drain.done()
        await sink.send(b"answer", ("127.0.0.1", *sink.clients))
        assert (await client.receive())[0] == b"answer"
        async with harness.within("the end, for later questions are not waited for"):
            await drain


async def test_flows_that_were_answered_are_not_waited_for(patient: rig.Rig) -> None:
    service = patient.serve(patient.server())
    await patient.client().ask(b"x", service.address)
    async with harness.within("the end"):
        await patient.data_path.drain(FOREVER)


async def test_an_answer_that_takes_too_long_is_not_waited_for(patient: rig.Rig) -> None:
    await begun(patient)
    patient.clock.ahead += 2 * FOREVER
    async with harness.within("the end"):
        await patient.data_path.drain(FOREVER)


async def test_no_answer_is_waited_for_beyond_the_grace(patient: rig.Rig) -> None:
    await begun(patient)
    async with harness.within("the end"):
        await patient.data_path.drain(0.0)


async def test_draining_that_is_cancelled_leaves_fronts_to_close(patient: rig.Rig) -> None:
    _, service, _ = await begun(patient)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await patient.data_path.drain(FOREVER)
    assert service.front.fd >= 0
