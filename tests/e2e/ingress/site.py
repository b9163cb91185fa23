"""A web site behind Ingresses: its manifests, its servers, and clients that count failures."""

import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kproxy.simulator import certificates
from kproxy.simulator.kinds.configuration import secret_rules
from tests.e2e.rig import daemon, manifests, programs

HOST = "shop.example"

FLAGS = ("--ingress", "--ingress-http", "127.0.0.1:0", "--ingress-https", "127.0.0.1:0")

SECONDS = 30.0
"""No request of a test waits longer; a bound, not an expectation."""

_ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Pod(http.server.ThreadingHTTPServer):
    """A server that says its name, speaks of what it is asked, and echoes WebSocket bytes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str) -> None:
        self.name = name
        self.ip = manifests.fresh_ip(127)
        super().__init__((self.ip, 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> daemon.Address:
        """Where it listens."""
        return self.ip, self.server_address[1]

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that reset their connections."""

    def close(self) -> None:
        """Stop; connections that are open end with their handlers."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._upgrade()
        else:
            self._say()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _say(self) -> None:
        assert isinstance(self.server, Pod)
        said = {"pod": self.server.name, "path": self.path, "headers": dict(self.headers)}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _upgrade(self) -> None:
        key = self.headers["Sec-WebSocket-Key"].encode()
        digest = hashlib.sha1(key + _ACCEPT, usedforsecurity=False).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(digest).decode())
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while received := self.connection.recv(4096):
                self.connection.sendall(received)


def ingress(
    name: str, host: str = HOST, service: str = "web", secret: str = "", **annotations: str
) -> dict[str, Any]:
    """An Ingress of one rule: all paths of `host` go to `service`."""
    backend = {"service": {"name": service, "port": {"number": manifests.PORT}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    tls = [{"hosts": [host], "secretName": secret}] if secret else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "annotations": {f"kproxy.io/{k.replace('_', '-')}": v for k, v in annotations.items()},
        },
        "spec": {
            "ingressClassName": "kproxy",
            "rules": [{"host": host, "http": {"paths": paths}}],
            "tls": tls,
        },
    }


def secret(name: str, host: str = HOST) -> dict[str, Any]:
    """A Secret with a certificate for `host` that no other Secret has."""
    made = certificates.self_signed([], [host], datetime.now(UTC))
    return secret_rules.tls_secret(name, made.pem, made.key)


def fingerprint(found: dict[str, Any]) -> str:
    """What identifies the certificate of a Secret, as `served_certificate` gives it."""
    pem = base64.b64decode(found["data"]["tls.crt"]).decode()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


class Site:
    """Manifests in a folder: a Service `web` of these pods, and what tests put beside it."""

    def __init__(self, folder: Path, pods: Sequence[Pod]) -> None:
        self.folder = folder
        folder.mkdir()
        self.cluster_ip = manifests.fresh_ip()
        self.put("service", manifests.service("web", self.cluster_ip, manifests.PORT))
        self.give(*pods)

    def put(self, name: str, *documents: dict[str, Any]) -> None:
        """Put these documents, and no others, into the file of that name."""
        manifests.write(self.folder / f"{name}.yaml", *documents)

    def give(self, *pods: Pod) -> None:
        """Let these pods be the endpoints."""
        self.put("endpoints", manifests.endpoints("web", [each.address for each in pods]))


@contextlib.contextmanager
def pods(*names: str) -> Iterator[list[Pod]]:
    """Pods of these names, until the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Pod(each))) for each in names]


def place(proxy: daemon.Daemon, name: str = "ingress_http") -> daemon.Address:
    """Where a proxy's nginx listens."""
    return proxy.place(name)


def ask(
    proxy: daemon.Daemon, path: str = "/", host: str = HOST, **headers: str
) -> tuple[int, dict[str, Any]]:
    """The status and the pod's words, by plain HTTP on a connection of its own."""
    return ask_at(place(proxy), path, host, **headers)


def ask_at(
    address: daemon.Address, path: str = "/", host: str = HOST, **headers: str
) -> tuple[int, dict[str, Any]]:
    """`ask` at an address."""
    connection = http.client.HTTPConnection(*address, timeout=SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        body = answer.read()
    is_pods = answer.headers.get_content_type() != "text/html" and body.startswith(b"{")
    return answer.status, json.loads(body) if is_pods else {}


def served_certificate(proxy: daemon.Daemon, host: str) -> str:
    """The SHA-256 of the certificate that a client gets who asks for `host`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(place(proxy, "ingress_https"), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()


def nginx_of(proxy: daemon.Daemon) -> list[int]:
    """The master processes of a proxy's nginx: one, but for moments."""
    return [each for each in daemon.children(proxy.pid) if _is_nginx(each)]


def _is_nginx(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"nginx: master" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


class Load:
    """Clients that ask again and again until `stop`.

    Each request has a connection of its own; or, of clients that keep theirs, the one before, as
    long as the proxy has not asked to close it. None is sent twice.
    """

    def __init__(
        self, address: daemon.Address, clients: int = 4, host: str = HOST, *, keeps: bool = False
    ) -> None:
        self._address = address
        self._host = host
        self._keeps = keeps
        self._is_over = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Stop asking, and wait for what was asked."""
        self._is_over.set()
        for each in self._threads:
            each.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=SECONDS)
        while not self._is_over.is_set():
            try:
                connection.request("GET", "/", headers={"Host": self._host})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            self.answered += 1
            if answer.status != 200:
                self.failures.append(str(answer.status))
            if not self._keeps or "close" in (answer.headers.get_all("Connection") or ()):
                connection.close()
        connection.close()


@contextlib.contextmanager
def load(
    address: daemon.Address, clients: int = 4, host: str = HOST, *, keeps: bool = False
) -> Iterator[Load]:
    """A load for the time of the block."""
    made = Load(address, clients, host, keeps=keeps)
    try:
        yield made
    finally:
        made.stop()


def openssl(proxy: daemon.Daemon, host: str) -> str:
    """What `openssl s_client` says when it connects and asks for `host`."""
    address = ":".join(map(str, place(proxy, "ingress_https")))
    command = [programs.need("openssl"), "s_client", "-connect", address, "-servername", host]
    done = subprocess.run(
        command, input="", capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr
