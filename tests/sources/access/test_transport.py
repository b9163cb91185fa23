"""The connections of a client last as long as the client, and no longer."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kproxy.sources.access import kubeconfig
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests.sources.access import tls
from tests.sources.api.rig import fake_api

Run = Callable[[Coroutine[Any, Any, None]], None]


def connected(port: int) -> int:
    """How many sockets of this process are connected to a port of this machine."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(int(entry.name))) as each,
        ):
            found += each.getpeername()[1:2] == (port,)
    return found


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_secure", [True, False], ids=["https", "http"])
def test_nothing_is_connected_any_more_once_a_client_is_closed(
    tmp_path: Path, run: Run, *, is_secure: bool
) -> None:
    """An event loop that ends with a socket open warns, and uvloop may fail to end."""
    made, key = tls.certificate(tmp_path, "server")

    async def main() -> None:
        api = fake_api.FakeApi()
        async with fake_api.serving(api, tls.server(made, key) if is_secure else None):
            port = int(api.url.rpartition(":")[2])
            access = kubeconfig.ClusterAccess(api.url, "test", authority=made)
            async with client.Client(access, environment={}) as asking:
                async with asking.get(progress.Mode.LIST, fake_api.SERVICES, {}) as answer:
                    await answer.read_all(60.0, 1_000_000)
                # A watch, which is given up in the middle.
                query = {"watch": "true"}
                async with asking.get(progress.Mode.WATCH, fake_api.SERVICES, query):
                    assert connected(port) >= 1
            assert connected(port) == 0

    run(main())
