"""Every test of the data path runs in a harness, and fails if anything is left of it.

After each event, the connection that it reached must be in one of the states it may be in.
"""

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from kproxy.datapath import poller
from tests import steady_time
from tests.datapath.rig import consistency, harness


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], steady_time.SteadyLoop]]:
    """No timeout of the data path is over because this process could not run."""
    return {"steady": steady_time.SteadyLoop}


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    """Give the data path the clock of the event loop."""
    with steady_time.given_to(poller):
        yield


@pytest.fixture(autouse=True)
def violations() -> Iterator[list[str]]:
    """Check each connection after its events; yield what was found, which must be nothing."""
    with consistency.watch() as found:
        yield found
    assert not found, f"{len(found)} times inconsistent, first: {found[0]}"


@pytest.fixture(autouse=True)
async def bench(violations: list[str]) -> AsyncIterator[harness.Harness]:
    """Yield a harness; afterwards everything must be gone."""
    await harness.until(lambda: not harness.is_still_watching(), "an earlier test's watch is over")
    made = harness.Harness()
    yield made
    await made.finish()
