"""The proxy most people would write first: asyncio streams, two copy loops. A reference only.

`python -m benchmarks.naive_proxy LISTEN BACKEND...` (each HOST:PORT). uvloop when importable.
No half-close, no retry, no limits: what such a proxy costs, not what one should be.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterator
from importlib import metadata
from typing import Any

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(ImportError):
    import uvloop

    _new_event_loop = uvloop.new_event_loop

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


async def _serve(listen: str, backends: list[str]) -> None:
    addresses = itertools.cycle([b.split(":") for b in backends])
    host, port = listen.split(":")
    server = await asyncio.start_server(_relay(addresses), host, int(port), backlog=4096)
    async with server:
        await server.serve_forever()


def loop_name() -> str:
    """Which event loop this proxy runs on here, with its version where it has one."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return f"uvloop {metadata.version('uvloop')}"
    return "stock asyncio"


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(_serve(sys.argv[1], sys.argv[2:]))
