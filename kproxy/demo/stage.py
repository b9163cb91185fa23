"""What the demonstrations need: their own addresses, and proxies as processes."""

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib import resources as package_files
from pathlib import Path
from typing import Any

import yaml

from kproxy import errors
from kproxy.model import forwarding
from kproxy.simulator import cluster, ranges
from kproxy.simulator.store import registry
from kproxy.simulator.store.storage import Object
from kproxy.sources.documents import reading

PORTS = (8080, 8000, 8888, 18080, 28080, 38080)
"""Ports for pods and Services, each on an address of its own: the first free one is used."""

CONTROL = "kproxy.sock"
"""The proxy's control socket, in the folder of its files."""
KUBECONFIG = "kubeconfig"
"""The cluster's kubeconfig, in the folder of the demonstration's files."""

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_START_SECONDS = 60.0
_WAIT_SECONDS = 30.0
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


class Proxy:
    """`kproxy run` beside a cluster, in a process of its own, as a user would start it.

    The process ends if this one is killed. Its files are in `folder`: `CONTROL`, and a log that
    begins anew at each start. `stop` or `kill` it at last.
    """

    def __init__(self, kubeconfig: Path, folder: Path, flags: Sequence[str] = ()) -> None:
        self.folder = folder
        self._ready_file, self._log = folder / "ready.json", folder / "proxy.log"
        self._command = [
            *(sys.executable, "-m", "kproxy.demo.child", str(os.getpid())),
            *("run", "--kubeconfig", str(kubeconfig), "--allow-loopback-endpoints"),
            *("--ready-file", str(self._ready_file), "--control", str(folder / CONTROL)),
            *("--healthz-bind-address", "", "--metrics-bind-address", ""),
            *("--log-level", "error", "--grace-period", "1", *flags),
        ]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; return when it is ready.

        Raises KproxyError when it does not start, or cannot serve all.
        """
        self._ready_file.unlink(missing_ok=True)  # it was killed, perhaps
        with self._log.open("wb") as stderr:
            try:
                process = await asyncio.create_subprocess_exec(*self._command, stderr=stderr)
            except OSError as error:
                raise errors.KproxyError(
                    f"the proxy cannot be started with {sys.executable}: {errors.reason(error)}; "
                    "an installation in a checkout is mended by: make demo"
                ) from error
        self._process = process
        try:
            async with asyncio.timeout(_START_SECONDS):
                while (ready := _read(self._ready_file)) is None:
                    if process.returncode is not None:
                        said = self._log.read_text().splitlines() or ["it printed nothing"]
                        raise errors.KproxyError(f"the proxy did not start: {said[-1]}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise errors.KproxyError(
                f"the proxy was not ready after {_START_SECONDS:g} s; is this machine very busy?"
            ) from None
        _check_all_bound(ready)

    async def stop(self) -> None:
        """Ask it to end, and return when it has. A proxy that does not run is none to stop."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill it: it can do nothing more."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                self._process.send_signal(number)
            await self._process.wait()


@contextlib.asynccontextmanager
async def proxy(kubeconfig: Path, folder: Path) -> AsyncIterator[None]:
    """A proxy that is ready when this is entered, and stopped at the end. Raises KproxyError."""
    started = Proxy(kubeconfig, folder)
    try:
        await started.start()
        yield
    finally:
        await started.stop()


@contextlib.asynccontextmanager
async def ended_by_signals() -> AsyncIterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does, so that everything is cleaned up."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in _ENDING:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if not received:
            raise
        raise errors.KproxyError(
            f"the demonstration was ended by {received[0].name}, before its end"
        ) from None
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def patience(what: str) -> AsyncIterator[None]:
    """Raise KproxyError when the body, which waits for `what`, takes too long."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            yield
    except TimeoutError:
        raise errors.KproxyError(
            f"the demonstration waited {_WAIT_SECONDS:g} s for {what}, which did not come; "
            "is this machine very busy?"
        ) from None


async def until(objects: registry.Registry, condition: Callable[[], object], what: str) -> None:
    """Return when `condition` holds; it is checked again after each change in the cluster.

    Raises KproxyError when it takes too long.
    """
    changed = asyncio.Event()
    unsubscribe = objects.storage.subscribe(lambda _: changed.set())
    try:
        async with patience(what):
            while not condition():
                changed.clear()
                await changed.wait()
    finally:
        unsubscribe()


def write_kubeconfig(simulated: cluster.Cluster, folder: Path) -> Path:
    """Write the kubeconfig of a cluster into the folder, for this user only; where it is."""
    path = folder / KUBECONFIG
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(simulated.kubeconfig))
    return path


def manifests(package: str, name: str, port: int) -> list[Object]:
    """The objects of a file of a package, with `port` in place of 8080."""
    text = package_files.files(package).joinpath(name).read_bytes()
    text = text.replace(b"8080", str(port).encode())
    return [document.value for document in reading.read_yaml(text)]


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
