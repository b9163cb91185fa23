"""A headless Chromium, spoken to by the DevTools protocol: https://chromedevtools.github.io."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1100,1000",
)
_PATIENCE = 180.0


class Page:
    """One tab, and what it did: requests it made, errors it told the console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self._loaded: set[str] = set()
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def open(self, address: str, colours: str = "light") -> None:
        """Load a page and wait for its load event. `colours` is the preferred scheme."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.setLifecycleEventsEnabled", enabled=True)
        await self.media(colours)
        # A page that was there before, such as about:blank, may load at any moment.
        loader = (await self.call("Page.navigate", url=address))["loaderId"]
        while loader not in self._loaded:
            self._note(await self._socket.receive_json())

    async def media(self, colours: str, medium: str = "") -> None:
        """Prefer a colour scheme, and be a screen or a printer."""
        feature = {"name": "prefers-color-scheme", "value": colours}
        await self.call("Emulation.setEmulatedMedia", media=medium, features=[feature])

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._calls:
                assert "result" in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Page.lifecycleEvent" and parameters["name"] == "load":
            self._loaded.add(parameters["loaderId"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            self.errors.append(parameters["entry"]["text"])
        elif method in {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"}:
            self.errors.append(str(parameters))


@contextlib.asynccontextmanager
async def page(directory: Path) -> AsyncIterator[Page]:
    """A fresh browser with an empty profile under `directory`; skips where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    profile = directory / "profile"
    # Killed, it leaves behind what it puts there: a socket, for which the path must be short.
    scratch = tempfile.mkdtemp(prefix="chromium-")
    process = await asyncio.create_subprocess_exec(
        program,
        *_FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        env={**os.environ, "TMPDIR": scratch},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_PATIENCE), aiohttp.ClientSession() as session:
            port = await _port(profile / "DevToolsActivePort")
            address = await _tab(session, f"http://127.0.0.1:{port}/json/list")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


async def _tab(session: aiohttp.ClientSession, listing: str) -> str:
    """Where the only tab is spoken to; it may be opened later than the browser listens."""
    while True:
        async with session.get(listing) as answer:
            tabs = await answer.json()
        for tab in tabs:
            if tab["type"] == "page":
                return str(tab["webSocketDebuggerUrl"])
        await asyncio.sleep(0.02)


async def _port(written: Path) -> int:
    """The port that the browser chose; it writes it to a file when it listens."""
    while True:
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            return int(written.read_text().splitlines()[0])  # noqa: ASYNC240  # one short line
        await asyncio.sleep(0.02)
