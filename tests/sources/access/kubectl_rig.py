"""How kubectl and kproxy reach an API server, given the same kubeconfig and environment.

    python -m tests.sources.access.kubectl_rig KUBECTL < cases.json > verdicts.json

Must run in network and mount namespaces of its own (`unshare --net --mount`): it gives addresses
to the loopback interface there, and names to /etc/hosts. Both clients ask for one page of an API
server that records how it was asked: which way the request came, and as whom.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from kproxy import errors
from kproxy.simulator import certificates
from kproxy.sources.access import rest_config
from kproxy.sources.api import client
from kproxy.sources.api.decisions import progress
from tests.sources.access import tls

NAME = "api.corp.test"
SERVER = "10.9.8.7"
PROXY = "10.9.8.1"
PAGE = "/api"
_HOSTS = f"127.0.0.1 localhost\n{SERVER} {NAME} api2.corp.test other.example\n"
_PROXY_PORT, _SOCKS_PORT, _HTTP_PORT, _HTTPS_PORT = 3128, 1080, 8001, 6443


class _Record:
    """What has been seen since `begin`: the way of the last request, and the request."""

    def __init__(self) -> None:
        self.way = "direct"
        self.request: dict[str, Any] | None = None

    def begin(self) -> None:
        self.way, self.request = "direct", None


_seen = _Record()


class _Api(BaseHTTPRequestHandler):
    """Answers every GET, and notes down who asked."""

    def do_GET(self) -> None:
        shown = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else {}
        named: Any = (shown or {}).get("subject", ())
        subject = dict(pair for each in named for pair in each)
        _seen.request = {
            "scheme": "https" if isinstance(self.connection, ssl.SSLSocket) else "http",
            "authorization": self.headers.get("Authorization", ""),
            "impersonate": sorted(
                [name.lower(), value]
                for name, value in self.headers.items()
                if name.lower().startswith("impersonate-")
            ),
            "certificate": subject.get("commonName", ""),
        }
        if self.path.startswith("http://"):  # as proxies are asked
            _seen.way = "proxy"
        body = b'{"kind":"APIVersions","versions":["v1"]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        _seen.way = "proxy"
        host, _, port = self.path.rpartition(":")
        self.send_response(200)
        self.end_headers()
        _tunnel(self.connection, _dial(host, int(port)))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _dial(host: str, port: int) -> socket.socket:
    known = {NAME: SERVER, "api2.corp.test": SERVER, "other.example": SERVER}
    return socket.create_connection((known.get(host, host), port), 30)


def _tunnel(one: socket.socket, other: socket.socket) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join(30)
    other.close()


def _serve_socks() -> None:
    """SOCKS5 without authentication (RFC 1928), CONNECT only."""
    listening = socket.create_server((PROXY, _SOCKS_PORT))

    def serve(made: socket.socket) -> None:
        with made:
            methods = made.recv(2)[1]
            made.recv(methods)
            made.sendall(b"\x05\x00")
            kind = made.recv(4)[3]
            if kind == 1:
                host = socket.inet_ntoa(made.recv(4))
            else:
                host = made.recv(made.recv(1)[0]).decode()
            (port,) = struct.unpack("!H", made.recv(2))
            _seen.way = "socks"
            made.sendall(b"\x05\x00\x00\x01" + bytes(6))
            _tunnel(made, _dial(host, port))

    def accept() -> None:
        while True:
            made, _ = listening.accept()
            threading.Thread(target=serve, args=(made,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _serve(address: tuple[str, int], context: ssl.SSLContext | None = None) -> None:
    server = ThreadingHTTPServer(address, _Api)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def _prepare(folder: Path) -> dict[str, str]:
    """Addresses, names and servers; the words that cases may put between @ signs."""
    for command in (
        "ip link set lo up",
        f"ip addr add {SERVER}/32 dev lo",
        f"ip addr add {PROXY}/32 dev lo",
    ):
        subprocess.run(command.split(), check=True)
    hosts = folder / "hosts"
    hosts.write_text(_HOSTS)
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    now = dt.datetime.now(dt.UTC)
    own = certificates.self_signed([SERVER, "127.0.0.1"], [NAME, "localhost"], now)
    authority = folder / "ca.crt"
    authority.write_bytes(own.pem)
    jane, jane_key = tls.certificate(folder, "jane")
    context = own.server_context()
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(jane)
    _serve((SERVER, _HTTPS_PORT), context)
    _serve(("127.0.0.1", _HTTPS_PORT), context)
    _serve((SERVER, _HTTP_PORT))
    _serve(("127.0.0.1", _HTTP_PORT))
    _serve((PROXY, _PROXY_PORT))
    _serve_socks()

    def data(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    return {
        "@CA@": str(authority),
        "@CA_DATA@": data(authority),
        "@CRT@": str(jane),
        "@CRT_DATA@": data(jane),
        "@KEY@": str(jane_key),
        "@KEY_DATA@": data(jane_key),
        "@CA_PEM@": authority.read_text(),
        "@CRT_PEM@": jane.read_text(),
        "@KEY_PEM@": jane_key.read_text(),
        "@ENCRYPTED_PEM@": _encrypted(jane_key),
        "@PROXY@": f"{PROXY}:{_PROXY_PORT}",
        "@SOCKS@": f"{PROXY}:{_SOCKS_PORT}",
    }


def _encrypted(key: Path) -> str:
    """The same key behind a passphrase."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"passphrase"),
    ).decode()


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _verdict(ask: Callable[[], str]) -> dict[str, Any]:
    """How a client fared: the request that arrived, or that none did, and what the client said."""
    _seen.begin()
    said = ask()
    if _seen.request is None:
        return {"reached": False, "said": said}
    return {"reached": True, "way": _seen.way, **_seen.request}


def _kubectl(program: str, config: Path, environment: dict[str, str], args: list[str]) -> str:
    command = [program, "--request-timeout=30s", *args, "get", "--raw", PAGE]
    if "KUBECONFIG" not in environment:
        command.insert(1, f"--kubeconfig={config}")
    done = subprocess.run(
        command,
        env={**environment, "PATH": os.environ["PATH"]},
        cwd=config.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr.strip()[-300:]


def _kproxy(config: Path, environment: dict[str, str], args: list[str]) -> str:
    context = args[args.index("--context") + 1] if "--context" in args else None
    given = None if "KUBECONFIG" in environment else str(config)

    async def ask() -> None:
        async with (
            client.Client(access, environment=environment) as asking,
            asking.get(progress.Mode.LIST, PAGE, {}) as answer,
        ):
            await answer.read_all(30.0, 100_000)

    try:
        access = rest_config.load(given, context, environment=environment)
        with _environment(environment):
            asyncio.run(ask())
    except (errors.ConfigError, client.RequestError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    """What credential plugins inherit."""
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Try every case with both clients."""
    kubectl = sys.argv[1]
    verdicts = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = _prepare(folder)
        for number, case in enumerate(json.load(sys.stdin)):
            place = folder / str(number)
            place.mkdir()
            words["@DIR@"] = str(place)
            for path, content in case["files"].items():
                made = place / path
                made.write_text(_filled(content, words))
                made.chmod(0o755)
            environment = {key: _filled(value, words) for key, value in case["environment"].items()}
            environment.setdefault("HOME", str(place))
            config = place / "config"
            args = case["args"]
            verdicts[case["id"]] = {
                "kubectl": _verdict(
                    lambda: _kubectl(kubectl, config, environment, args)  # noqa: B023
                ),
                "kproxy": _verdict(lambda: _kproxy(config, environment, args)),  # noqa: B023
            }
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main()
