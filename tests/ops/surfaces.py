"""A whole proxy on the test's own event loop."""

import asyncio
import contextlib
import gc
import inspect
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from kproxy import config, server
from kproxy.ops.serving import places

SECONDS = 60.0
"""Bound of every wait."""


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds, which may be a coroutine function.

    Raises TimeoutError after `SECONDS`.
    """
    async with asyncio.timeout(SECONDS):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(
    manifest: Path,
    *,
    ready_file: Path,
    node: str = "node-a",
    grace_period: float = 0.0,
    healthz: places.TcpPlace | None = None,
    metrics: places.TcpPlace | None = None,
    control: places.UnixPlace | None = None,
    **options: Any,
) -> AsyncIterator[server.Server]:
    """A Server that is ready; stopped at the end if it still runs. `options` are of the Config."""
    cfg = config.Config(
        manifests=(manifest,),
        node=node,
        allow_loopback_endpoints=True,
        ready_file=ready_file,
        grace_period=grace_period,
        healthz=healthz,
        metrics=metrics,
        control=control,
        **options,
    )
    served = server.Server(cfg)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(served.run())
            await until(ready_file.exists)
            try:
                yield served
            finally:
                served.stop()
    finally:
        gc.unfreeze()


def anywhere(*, is_required: bool = True) -> places.TcpPlace:
    """A place on loopback, with a port that the kernel picks."""
    return places.TcpPlace("127.0.0.1", 0, "--flag", is_required)


async def ask(address: str, request: str) -> bytes:
    """All that is answered to `request`, whose lines may end as they like, until the end.

    `address` is `IP:PORT` or the path of a unix socket.
    """
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(SECONDS):
        writer.write(request.replace("\r\n", "\n").replace("\n", "\r\n").encode())
        answer = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return answer


async def get(address: str, path: str, *, verb: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer without transfer coding."""
    answer = await ask(address, f"{verb} {path} HTTP/1.0\nHost: x\n\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().splitlines()
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body
