"""`kproxy demo`: start pods and the proxy, ask the Services, and show who answers."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kproxy import errors

_PODS = {"pod-1": "127.244.0.11", "pod-2": "127.244.0.12", "pod-3": "127.244.0.13"}
_PORT = 8080
_START_SECONDS = 20.0
_REQUEST_SECONDS = 5.0

Frontends = dict[str, tuple[str, int]]
Ready = dict[str, list[dict[str, object]]]


async def show(console: Console) -> None:
    """Run the whole demonstration; ends by itself, and leaves nothing behind.

    Raises KproxyError when a port it needs is taken, and after a SIGTERM.
    """
    async with _ended_by_sigterm(), AsyncExitStack() as stack:
        pods = {name: await stack.enter_async_context(_pod(name)) for name in _PODS}
        folder = Path(tempfile.mkdtemp(prefix="kproxy-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        manifest = folder / "sample.yaml"
        manifest.write_text(resources.files("kproxy.demo").joinpath("sample.yaml").read_text())
        frontends = await stack.enter_async_context(_proxy(manifest, folder / "ready.json"))
        _print_frontends(console, frontends)
        await _lessons(console, frontends, pods, manifest)


@asynccontextmanager
async def _ended_by_sigterm() -> AsyncIterator[None]:
    """A SIGTERM unwinds like Ctrl-C does: the proxy is a process that would live on."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    received = asyncio.Event()

    def end() -> None:
        received.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if not received.is_set():
            raise
        raise errors.KproxyError("the demonstration was ended by SIGTERM, before its end") from None
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _lessons(
    console: Console, frontends: Frontends, pods: dict[str, asyncio.Server], manifest: Path
) -> None:
    web, sticky = frontends["web"], frontends["sticky"]
    console.print("\n[bold]1. A Service rotates over its endpoints.[/] 9 connections to web:")
    _print_answers(console, [await _ask(web) for _ in range(9)])

    console.print("\n[bold]2. ClientIP affinity.[/] 6 connections to sticky, from one client:")
    _print_answers(console, [await _ask(sticky) for _ in range(6)])

    console.print("\n[bold]3. No endpoints.[/] A connection to empty:")
    console.print(f"   {await _ask(frontends['empty'])}")

    console.print("\n[bold]4. A pod dies.[/] pod-2 stops listening; 9 more connections to web:")
    pods["pod-2"].close()
    _print_answers(console, [await _ask(web) for _ in range(9)])
    console.print("   Nobody met the dead pod for long: a failed dial moves on to the next one.")

    console.print("\n[bold]5. The manifest is edited.[/] pod-2 and pod-3 leave web:")
    _edit(manifest, ", {ip: 127.244.0.12}, {ip: 127.244.0.13}", "")
    answers = await _ask_until_only(web, "pod-1")
    _print_answers(console, answers)


@asynccontextmanager
async def _pod(name: str) -> AsyncIterator[asyncio.Server]:
    """A pod: answers each connection with its name. Closed on exit."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()
        await writer.wait_closed()

    try:
        server = await asyncio.start_server(answer, _PODS[name], _PORT)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise errors.KproxyError(_taken(_PODS[name], _PORT, reason)) from error
    async with server:
        yield server


def _taken(address: str, port: int, reason: str) -> str:
    return (
        f"the demonstration needs {address}:{port}, but {reason[:1].lower()}{reason[1:]}; "
        "stop what is listening there and try again"
    )


@asynccontextmanager
async def _proxy(manifest: Path, ready_file: Path) -> AsyncIterator[Frontends]:
    """`kproxy run` in a process of its own, as a user would start it. Stopped on exit."""
    command = [
        *(sys.executable, "-m", "kproxy", "run", "--manifests", str(manifest)),
        *("--allow-loopback-endpoints", "--ready-file", str(ready_file)),
        *("--log-level", "error", "--grace-period", "1"),
    ]
    log = ready_file.with_name("proxy.log")
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(*command, stderr=stderr)
    try:
        async with asyncio.timeout(_START_SECONDS):
            while (ready := _read_ready(ready_file)) is None:
                if process.returncode is not None:
                    said = log.read_text().splitlines() or ["it said nothing"]
                    raise errors.KproxyError(f"the proxy did not start: {said[-1]}")
                await asyncio.sleep(0.02)
        yield _frontends(ready)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def _edit(manifest: Path, old: str, new: str) -> None:
    """Replace a piece of the file, as an editor would."""
    manifest.write_text(manifest.read_text().replace(old, new))


def _read_ready(path: Path) -> Ready | None:
    """The ready file's content; None as long as there is none."""
    try:
        content: Ready = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def _frontends(ready: Ready) -> Frontends:
    """Where each Service's ClusterIP is bound, from the ready file.

    Raises KproxyError when one could not be: whoever has its port would be shown in its place.
    """
    found: Frontends = {}
    for service in ready["services"]:
        frontends = service["frontends"]
        assert isinstance(frontends, list)
        address, port = str(frontends[0]["bound_address"]), int(frontends[0]["bound_port"])
        if frontends[0]["state"] == "unavailable":
            raise errors.KproxyError(_taken(address, port, str(frontends[0]["detail"])))
        found[str(service["name"])] = address, port
    return found


async def _ask(address: tuple[str, int]) -> str:
    """One connection; who answered, or why nobody did."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            reader, writer = await asyncio.open_connection(*address)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
    except ConnectionRefusedError:
        return "connection refused"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return f"failed: {error.strerror}"
    return answer.decode() or "closed without an answer"


async def _ask_until_only(address: tuple[str, int], name: str) -> list[str]:
    """Answers once the edit is in force: six in a row from `name`, or what came instead."""
    answers: list[str] = []
    for _ in range(200):
        answers.append(await _ask(address))
        if len(answers) >= 6 and set(answers[-6:]) == {name}:
            break
        await asyncio.sleep(0.02)
    return answers[-6:]


def _print_frontends(console: Console, frontends: Frontends) -> None:
    table = Table("Service", "ClusterIP", "is bound to", box=None, pad_edge=False)
    for name, (address, port) in frontends.items():
        virtual = address.replace("127.", "10.", 1)
        table.add_row(name, f"{virtual}:{_PORT}", f"{address}:{port}")
    console.print("The proxy is up; 3 pods listen in 127.244.0.0/24.\n")
    console.print(table)


def _print_answers(console: Console, answers: list[str]) -> None:
    console.print("   " + " ".join(answers))
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(Counter(answers).items()))
    console.print(f"   [dim]{counts}[/]")
