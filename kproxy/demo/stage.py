"""What the demonstration needs: its own addresses, and the proxy as a process."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from kproxy import errors
from kproxy.model import forwarding
from kproxy.simulator import ranges

PORTS = (8080, 8000, 8888, 18080, 28080, 38080)
"""Ports for pods and Services, each on an address of its own: the first free one is used."""

CONTROL = "kproxy.sock"
"""The proxy's control socket, in the folder of its files."""

_START_SECONDS = 20.0
_PROBED = "127.224.0.1"
"""An address that no demonstration uses."""
_LONGEST_SOCKET_PATH = 108


@contextlib.contextmanager
def claimed_ranges() -> Iterator[ranges.Ranges]:
    """A part of 127/8 that no other demonstration uses at the moment. Raises KproxyError."""
    candidates = random.sample(ranges.DEMONSTRATIONS, len(ranges.DEMONSTRATIONS))
    with ranges.claimed(candidates) as claimed:
        yield claimed


def free_port() -> int:
    """The first of `PORTS` that no server has on all addresses. Raises KproxyError without one."""
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((_PROBED, port))
            return port
    raise errors.KproxyError(
        f"the demonstration needs one of the ports {', '.join(map(str, PORTS))}, but servers have "
        "all of them on every address; stop one of these servers and try again"
    )


def folder(stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> Path:
    """A folder for the demonstration's files, removed with `stack`.

    It is in /tmp if a socket in the usual place would have too long a path (unix(7), 108 bytes).
    """
    usual = Path(tempfile.gettempdir()) / "kproxy-demo-12345678" / CONTROL
    made = tempfile.TemporaryDirectory(
        prefix="kproxy-demo-",
        dir=None if len(os.fsencode(usual)) < _LONGEST_SOCKET_PATH else "/tmp",  # noqa: S108
        ignore_cleanup_errors=True,
    )
    return Path(stack.enter_context(made))


@contextlib.asynccontextmanager
async def proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[None]:
    """`kproxy run` beside a cluster, in a process of its own, as a user would start it.

    Ready when this is entered, stopped at the end, and also if this process is killed. Its files
    are put into `folder`. Raises KproxyError when it does not start, or cannot serve all.
    """
    ready_file, log = folder / "ready.json", folder / "proxy.log"
    command = [
        *(sys.executable, "-m", "kproxy.demo.child", str(os.getpid())),
        *("run", "--kubeconfig", str(kubeconfig), "--allow-loopback-endpoints"),
        *("--ready-file", str(ready_file), "--control", str(folder / CONTROL)),
        *("--healthz-bind-address", "", "--metrics-bind-address", ""),
        *("--log-level", "error", "--grace-period", "1"),
    ]
    with log.open("wb") as stderr:
        try:
            process = await asyncio.create_subprocess_exec(*command, stderr=stderr)
        except OSError as error:
            raise errors.KproxyError(
                f"the proxy cannot be started with {sys.executable}: {errors.reason(error)}; "
                "an installation in a checkout is mended by: make demo"
            ) from error
    try:
        async with asyncio.timeout(_START_SECONDS):
            while (ready := _read(ready_file)) is None:
                if process.returncode is not None:
                    said = log.read_text().splitlines() or ["it printed nothing"]
                    raise errors.KproxyError(f"the proxy did not start: {said[-1]}")
                await asyncio.sleep(0.02)
        _check_all_bound(ready)
        yield
    except TimeoutError:
        raise errors.KproxyError(
            f"the proxy was not ready after {_START_SECONDS:g} s; is this machine very busy?"
        ) from None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _read(path: Path) -> dict[str, Any] | None:
    """The ready file's content; None while there is no file."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def _check_all_bound(ready: dict[str, Any]) -> None:
    """Raise KproxyError when an address is taken: the tour would show the answers of its holder."""
    for service in ready["services"]:
        for frontend in service["frontends"]:
            if frontend["state"] == forwarding.FrontendState.UNAVAILABLE:
                where = f"{frontend['bound_address']}:{frontend['bound_port']}"
                raise errors.KproxyError(
                    f"the demonstration needs {where}, but {frontend['detail']}; "
                    "stop what is listening there and try again"
                )
