"""Puts the proxy under test behind the fixture `proxied`."""

import collections.abc
import os

import pytest

from tests.relay import forwarder, rig

HALF_CLOSE_TIMEOUT = 1.0
"""Seconds; what `start_proxy` configures and R27 judges."""

DEAD_PEER_LIMIT = 8.0
"""Seconds within which the proxy, as `start_proxy` configures its keepalive and user timeout, must
have given up a peer that vanished; R25 and R26 judge it."""

AClose = collections.abc.Callable[[], collections.abc.Awaitable[None]]


async def start_proxy(backend: rig.Address, host: str = "127.0.0.1") -> tuple[rig.Address, AClose]:
    """Start a proxy on a free port of `host` that forwards to `backend`, in this namespace.

    The caller awaits what is returned to end it.
    """
    proxy = forwarder.Forwarder(backend, HALF_CLOSE_TIMEOUT, host=host)
    return proxy.address, proxy.aclose


def proxy_pid() -> int | None:
    """Return the process `start_proxy` put the proxy in: this one. None: memory is not judged."""
    return os.getpid()


@pytest.fixture
async def proxied() -> collections.abc.AsyncIterator[rig.Target]:
    """Yield a fresh proxy in front of a fresh backend listener."""
    with rig.listen(("127.0.0.1", 0)) as listener:
        address, aclose = await start_proxy(listener.getsockname())
        try:
            yield rig.Target(address, listener, proxy_pid(), HALF_CLOSE_TIMEOUT)
        finally:
            await aclose()
