"""How serving ends: by request, at once, or because of a failure."""

import asyncio

import pytest

from kproxy import errors, lifecycle
from kproxy.ops import health
from kproxy.plane import in_process


@pytest.fixture
def syncs() -> health.SyncRecord:
    record = health.SyncRecord()
    with record.sync():
        pass
    return record


async def test_a_request_to_stop_is_seen_by_health_checks_and_is_no_failure(
    syncs: health.SyncRecord,
) -> None:
    shutdown = lifecycle.Shutdown(syncs)
    assert syncs.is_ready

    shutdown.stop()

    await shutdown.wait()
    assert not syncs.is_ready
    assert shutdown.failure is None


async def test_the_first_failure_ends_the_proxy_also_from_within_a_group_of_tasks(
    syncs: health.SyncRecord,
) -> None:
    shutdown = lifecycle.Shutdown(syncs)

    async def fails(text: str) -> None:
        raise errors.KproxyError(text)

    async def fails_in_a_task() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails("first"))

    await shutdown.fail_with(fails_in_a_task())
    await shutdown.fail_with(fails("second"))

    await shutdown.wait()
    assert str(shutdown.failure) == "first"


async def test_a_bug_is_no_failure_of_this_kind(syncs: health.SyncRecord) -> None:
    shutdown = lifecycle.Shutdown(syncs)

    async def breaks() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(shutdown.fail_with(breaks()))

    assert isinstance(errors.first_expected(raised.value), ZeroDivisionError)
    assert shutdown.failure is None


async def test_killing_does_not_wait_for_the_grace_period(syncs: health.SyncRecord) -> None:
    shutdown = lifecycle.Shutdown(syncs)
    served = in_process.InProcessPlane()
    try:
        shutdown.kill()
        async with asyncio.timeout(30):
            await shutdown.drain(served, (), 3600.0)
    finally:
        served.close()


class Draining:
    """A component that drains until `finished` is set."""

    name = "a component"

    def __init__(self) -> None:
        self.finished = asyncio.Event()
        self.drained = False

    def bind(self) -> None:
        pass

    def addresses(self) -> dict[str, str | None]:
        return {}

    async def run(self) -> None:
        pass

    async def ready(self) -> None:
        pass

    async def drain(self, grace: float) -> None:
        await self.finished.wait()
        self.drained = True

    def close(self) -> None:
        pass


async def test_components_drain_before_the_data_plane(syncs: health.SyncRecord) -> None:
    shutdown = lifecycle.Shutdown(syncs)
    drained: list[bool] = []

    class Plane(in_process.InProcessPlane):
        async def drain(self, grace: float) -> int:
            drained.append(component.drained)
            return await super().drain(grace)

    served = Plane()
    component = Draining()
    try:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(shutdown.drain(served, (component,), 3600.0))
            await asyncio.sleep(0)
            component.finished.set()
        assert drained == [True]
    finally:
        served.close()


async def test_killing_does_not_wait_for_components(syncs: health.SyncRecord) -> None:
    shutdown = lifecycle.Shutdown(syncs)
    served = in_process.InProcessPlane()
    component = Draining()
    try:
        shutdown.kill()
        async with asyncio.timeout(30):
            await shutdown.drain(served, (component,), 3600.0)
        assert not component.drained
    finally:
        served.close()
