"""A real nginx with a rendered configuration, and backends that answer who they are."""

import asyncio
import contextlib
import dataclasses
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from kproxy.ingress import certificates, nginx_config, table
from kproxy.model import addresses, names
from tests.e2e.rig import manifests

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx (.ci/run installs it)")


@functools.cache
def version() -> tuple[int, ...]:
    """The version of nginx."""
    assert NGINX
    said = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(map(int, said.rpartition("/")[2].split(".")))


DEADLINE = 20.0
"""Seconds that nginx has for anything, beside whatever else runs here."""

DEFAULT_CERTIFICATE = certificates.self_made()


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, and what the backend says it was asked: {} if no backend was."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked: Mapping[str, Any]

    @property
    def backend(self) -> str:
        """The service port that answered, as `str(ServicePortName)`; "" if none did."""
        return str(self.asked.get("backend", ""))


class Backends:
    """For each service port a server of HTTP/1.1 that answers what it was asked, as JSON."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._open: dict[names.ServicePortName, addresses.SocketAddress] = {}
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.StreamWriter] = set()
        self.connections = 0

    def __call__(self, target: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
        """Where it is: an `Upstream`."""
        if target not in self._open:
            opening = asyncio.run_coroutine_threadsafe(self._serve(target), self._loop)
            self._open[target] = opening.result(DEADLINE)
        return (self._open[target],)

    def hang_up(self) -> None:
        """Close all connections, as a server does with those that have been idle for long."""

        async def close_all() -> None:
            for each in self._clients:
                each.close()

        asyncio.run_coroutine_threadsafe(close_all(), self._loop).result(DEADLINE)

    def close(self) -> None:
        """End all servers."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(DEADLINE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    async def _serve(self, target: names.ServicePortName) -> addresses.SocketAddress:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._clients.add(writer)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    while await self._answer_one(target, reader, writer):
                        pass
            finally:
                self._clients.discard(writer)
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        self._servers.append(server)
        return addresses.SocketAddress(*server.sockets[0].getsockname()[:2])

    async def _answer_one(
        self,
        target: names.ServicePortName,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in rest if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        asked = {
            "backend": str(target),
            "method": method,
            "path": path,
            "headers": headers,
            "length": len(body),
        }
        is_last = headers.get("connection") == "close"
        content = json.dumps(asked).encode()
        closing = b"Connection: close\r\n" if is_last else b""
        size = len(content)
        writer.write(
            b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (closing, size, content)
        )
        await writer.drain()
        return not is_last

    async def _shut(self) -> None:
        for each in self._servers:
            each.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def unused() -> addresses.SocketAddress:
    """An address to listen on: its own, so that no other socket can be given its port."""
    return addresses.SocketAddress(*manifests.free_address())


class Nginx:
    """nginx with a table, from `with` to its end."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._directory = directory
        self.http = unused()
        self.https = unused()
        self.backends = Backends()
        given: dict[str, Any] = {
            "directory": str(directory),
            "control": f"unix:{directory}/control",
            "default_certificate": DEFAULT_CERTIFICATE,
            "http": (self.http,),
            "https": (self.https,),
            "workers": 1,
            "worker_connections": 256,
            "shutdown_timeout": 5,
            "version": version(),
            # As root, nginx would have its workers be nobody, who cannot get into this directory.
            "user": "root" if os.geteuid() == 0 else "",
        }
        self.settings = nginx_config.Settings(**(given | settings))
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE)
            finally:
                self._process.kill()
                self._process.wait()
        self.backends.close()

    def serve(self, made: table.Table, upstream: nginx_config.Upstream | None = None) -> None:
        """Start it with this table, or have it take this one, and wait until it has."""
        rendered = nginx_config.render(made, self.settings, upstream or self.backends)
        config = written(rendered, self._directory)
        assert NGINX
        if self._process is None:
            command = [NGINX, "-c", str(config), "-p", str(self._directory)]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(command, stderr=log)
            self.wait_until(lambda: self._version() == rendered.version, "it is in force")
            return
        checked(config)
        earlier = self._workers()
        self._process.send_signal(signal.SIGHUP)
        # For 100 ms nginx has workers of both configurations.
        self.wait_until(lambda: not earlier & self._workers(), "the earlier workers are gone")
        self.wait_until(lambda: self._version() == rendered.version, "it is in force")

    def get(self, host: str, path: str, **more: Any) -> Answer:
        """Ask by HTTP."""
        connection = http.client.HTTPConnection(*self.http, timeout=DEADLINE)
        return answer(connection, host, path, **more)

    def get_by_tls(self, host: str, path: str, **more: Any) -> Answer:
        """Ask by HTTPS, with the host as SNI; no certificate is checked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        raw = socket.create_connection(self.https, timeout=DEADLINE)
        connection = http.client.HTTPConnection(*self.https, timeout=DEADLINE)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
        return answer(connection, host, path, **more)

    def certificate(self, host: str) -> bytes:
        """The certificate that a client gets who asks for this host, in DER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(self.https, timeout=DEADLINE) as raw,
            context.wrap_socket(raw, server_hostname=host) as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    def wait_until(self, is_done: Callable[[], bool], what: str) -> None:
        """Return once that is so."""
        deadline = time.monotonic() + DEADLINE
        while not is_done():
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, f"not in time: {what}"
            threading.Event().wait(0.01)

    def _workers(self) -> set[str]:
        assert self._process is not None
        number = self._process.pid
        return set(Path(f"/proc/{number}/task/{number}/children").read_text().split())

    def _version(self) -> str:
        connection = http.client.HTTPConnection("control", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(str(self._directory / "control"))
            return answer(connection, "control", nginx_config.VERSION_PATH).body.decode()
        except OSError:
            connection.close()
            return ""


def answer(
    connection: http.client.HTTPConnection,
    host: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Answer:
    """The answer to one request; the path goes out as it is."""
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": host, "Connection": "close"} if host else {"Connection": "close"}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        for name, value in (sent | dict(headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders(body)
    except OSError:
        connection.close()
        raise
    return read(connection)


def read(connection: http.client.HTTPConnection) -> Answer:
    """The answer that a connection has been asked for; closes it."""
    try:
        got = connection.getresponse()
        content = got.read()
    finally:
        connection.close()
    asked = json.loads(content) if content.startswith(b"{") else {}
    return Answer(got.status, dict(got.getheaders()), content, asked)


def written(rendered: nginx_config.Rendered, directory: Path) -> Path:
    """The path of nginx.conf, once it and its files are there."""
    for name, content in rendered.files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    config = directory / "nginx.conf"
    config.write_text(rendered.text)
    return config


def checked(config: Path) -> None:
    """Fail unless nginx takes this configuration."""
    assert NGINX
    command = [NGINX, "-t", "-q", "-c", str(config), "-p", str(config.parent)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert "[warn]" not in found.stderr, found.stderr


@contextlib.contextmanager
def running(directory: Path, made: table.Table, **settings: Any) -> Iterator[Nginx]:
    """nginx with this table."""
    with Nginx(directory, **settings) as nginx:
        nginx.serve(made)
        yield nginx
