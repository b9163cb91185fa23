"""Every test of the data path runs in a harness, and fails if anything is left of it."""

from collections.abc import AsyncIterator

import pytest

from tests.datapath import harness


@pytest.fixture(autouse=True)
async def bench() -> AsyncIterator[harness.Harness]:
    """Yield a harness; afterwards everything must be gone."""
    await harness.until(lambda: not harness.is_still_watching(), "an earlier test's watch is over")
    made = harness.Harness()
    yield made
    await made.finish()
