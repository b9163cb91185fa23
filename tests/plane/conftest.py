"""No timeout of a data plane in this process is over because the process could not run."""

from collections.abc import Callable, Iterator

import pytest

from kproxy.datapath import poller
from kproxy.plane import in_process
from tests import steady_time


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], steady_time.SteadyLoop]]:
    """The event loop has that clock."""
    return {"steady": steady_time.SteadyLoop}


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    """So has the data plane."""
    with steady_time.given_to(poller, in_process):
        yield
