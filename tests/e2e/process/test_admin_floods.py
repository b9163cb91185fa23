"""Large requests to the admin servers of a whole proxy: its memory stays as it was."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.e2e.rig import daemon, manifests

REQUESTS = 150
"""Of each kind, to each server. Kept whole, those of 1 MB would be 900 MB."""
MEGABYTE = b"a" * 1_000_000
PATHS = {"healthz": b"/healthz", "metrics": b"/metrics", "control": b"/v1/services"}


def resident_kib(pid: int) -> int:
    """VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def ask(address: str, request: bytes) -> bytes:
    """The beginning of the answer; nothing where the request was cut off."""
    if address.startswith("/"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address)
    else:
        host, port = address.rsplit(":", 1)
        client = socket.create_connection((host, int(port)))
    with client:
        client.settimeout(daemon.DEADLINE)
        with contextlib.suppress(ConnectionError):
            client.sendall(request)
        with contextlib.suppress(ConnectionError):
            return client.recv(4096)
    return b""


@pytest.mark.parametrize("server", PATHS)
def test_large_requests_to_a_server_do_not_grow_the_proxy(tmp_path: Path, server: str) -> None:
    manifest = manifests.write(
        tmp_path / "web.yaml", manifests.service("web", manifests.fresh_ip(), 8080)
    )
    flags = [
        *("--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0"),
        *("--control", str(tmp_path / "c.sock")),
    ]
    start = b"%s " + PATHS[server] + b" HTTP/1.1\r\nHost: x\r\n"
    requests = [
        (start % b"GET") + b"A: " + MEGABYTE,
        (start % b"POST") + b"Content-Length: 1000000\r\n\r\n" + MEGABYTE,
        (start % b"GET") + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + MEGABYTE,
        b"GET /" + MEGABYTE + b" HTTP/1.1\r\n\r\n",
        (start % b"GET") + b"A: b\r\n" * 10_000 + b"\r\n",
        (start % b"GET") + b"\r\n",
    ]
    with daemon.running(tmp_path / "proxy", manifest, *flags) as proxy:
        address = proxy.ready[server]
        for request in requests:
            ask(address, request)
        before = resident_kib(proxy.pid)

        for request in requests:
            for _ in range(REQUESTS):
                ask(address, request)

        assert ask(address, requests[-1]).startswith(b"HTTP/1.1 200 ")
        assert resident_kib(proxy.pid) - before <= 10 * 1024
