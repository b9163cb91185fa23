"""Every test of UDP has a rig, which is closed before the harness looks for what is left."""

from collections.abc import AsyncIterator

import pytest

from tests.datapath.rig import harness
from tests.datapath.udp import rig


@pytest.fixture
async def udp(bench: harness.Harness) -> AsyncIterator[rig.Rig]:  # closed after it
    """A data path for UDP with the default limits."""
    made = rig.Rig()
    try:
        yield made
    finally:
        made.close()
