"""What the demonstration plays on: addresses of its own, and the proxy as a process."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kproxy import errors

PORT = 8080
"""What pods and Services listen on, each on an address of its own."""

CONTROL = "kproxy.sock"
"""The proxy's control socket, in the folder of its files."""

_START_SECONDS = 20.0
_SECOND_OCTETS = range(128, 224)


class Ranges(NamedTuple):
    """Where Services, pods and load balancers of one demonstration have their addresses."""

    services: str
    pods: str
    load_balancers: str


@contextlib.contextmanager
def claimed_ranges() -> Iterator[Ranges]:
    """A part of 127/8 that no other demonstration on this machine uses at the moment.

    Claimed by listening on its last address. Raises KproxyError when there is none, which is so
    when something listens on the port on every address.
    """
    reason = ""
    for octet in random.sample(_SECOND_OCTETS, len(_SECOND_OCTETS)):
        with contextlib.ExitStack() as stack:
            claim = stack.enter_context(socket.socket())
            try:
                claim.bind((f"127.{octet}.255.254", PORT))
                claim.listen(1)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                continue
            yield Ranges(f"127.{octet}.0.0/18", f"127.{octet}.64.0/18", f"127.{octet}.128.0/24")
            return
    raise errors.KproxyError(
        f"the demonstration needs port {PORT} on addresses of 127.0.0.0/8, but {reason}; "
        "stop what listens there and try again"
    )


@contextlib.asynccontextmanager
async def proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[None]:
    """`kproxy run` beside a cluster, in a process of its own, as a user would start it.

    Ready when this is entered, stopped at the end, and gone too if this process is killed. Its
    files are put into `folder`. Raises KproxyError when it does not start, or cannot serve all.
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
        process = await asyncio.create_subprocess_exec(*command, stderr=stderr)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while (ready := _read(ready_file)) is None:
                if process.returncode is not None:
                    said = log.read_text().splitlines() or ["it said nothing"]
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
    """The ready file's content; None as long as there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def _check_all_bound(ready: dict[str, Any]) -> None:
    """Raise KproxyError when an address is taken: its holder would be shown in our place."""
    for service in ready["services"]:
        for frontend in service["frontends"]:
            if frontend["state"] == "unavailable":
                where = f"{frontend['bound_address']}:{frontend['bound_port']}"
                raise errors.KproxyError(
                    f"the demonstration needs {where}, but {frontend['detail']}; "
                    "stop what is listening there and try again"
                )
