"""The proxy that most people would write first: asyncio streams, two copy loops. A reference only.

`python -m kproxy.bench.subjects.streams_proxy asyncio|uvloop LISTEN=BACKEND,BACKEND...` (each
HOST:PORT). No half-close, no retry, no limits: what such a proxy costs, not what one should be.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

_CONNECT_TIMEOUT = 1.0
_BUFFER = 65536


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BUFFER):
            writer.write(data)
            await writer.drain()
    writer.close()


def _relay(
    backends: Iterator[list[str]],
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = next(backends)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                up_reader, up_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # TimeoutError is one
            writer.close()
            return
        await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))

    return handle


async def _serve(services: list[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for service in services:
            listen, _, backends = service.partition("=")
            host, port = listen.split(":")
            turns = itertools.cycle([each.split(":") for each in backends.split(",")])
            server = await asyncio.start_server(_relay(turns), host, int(port), backlog=4096)
            await stack.enter_async_context(server)
        await asyncio.Event().wait()


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415  # absent on some platforms

    return uvloop.new_event_loop


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_loop_factory(sys.argv[1])) as runner:
        runner.run(_serve(sys.argv[2:]))
