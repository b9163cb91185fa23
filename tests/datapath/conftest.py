"""Every test of the data path runs in a harness, and fails if anything is left of it."""

from collections.abc import AsyncIterator

import pytest

from tests.datapath import harness


@pytest.fixture(autouse=True)
async def bench() -> AsyncIterator[harness.Harness]:
    """Yield a harness; afterwards everything must be gone."""
    made = harness.Harness()
    yield made
    await made.finish()
