"""A crowd that talks slowly to the admin servers of a proxy at work (docs/faults.md S13)."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.ops.serving import responder as ops_http
from tests.e2e.rig import daemon, manifests, sockets

CROWD = 1000
HALF_A_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def crowd(address: daemon.Address) -> Iterator[list[socket.socket]]:
    """Connections with half a request each."""
    with contextlib.ExitStack() as stack:
        members = []
        for _ in range(CROWD):
            member = stack.enter_context(sockets.connect(address))
            with contextlib.suppress(ConnectionError):  # it may have been cut already
                member.sendall(HALF_A_REQUEST)
            members.append(member)
        yield members


def drip(members: list[socket.socket]) -> int:
    """Send one byte more on each connection; how many are still there."""
    left = 0
    for member in members:
        with contextlib.suppress(OSError):
            member.sendall(b"x")
            left += 1
    return left


def status(address: daemon.Address, path: str) -> int:
    """The answer's status code."""
    connection = http.client.HTTPConnection(*address, timeout=sockets.SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def parsed(address: str) -> daemon.Address:
    host, port = address.rsplit(":", 1)
    return host, int(port)


@pytest.mark.parametrize(
    "server",
    ["healthz", pytest.param("metrics", marks=pytest.mark.extra)],  # the same code
)
def test_a_thousand_half_requests_are_cut_and_relays_and_probes_go_on(
    tmp_path: Path, server: str
) -> None:
    flags = ("--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0")
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        manifest = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", manifests.fresh_ip(), manifests.PORT),
            manifests.endpoints("web", [pod.getsockname()]),
        )
        with (
            daemon.running(tmp_path / "proxy", manifest, *flags) as proxy,
            sockets.stream(proxy.address("web"), pod) as relayed,
        ):
            address = parsed(proxy.ready[server])
            proxy.wait_logged("ready", "listening=")  # the last line of a start
            lines, before = len(proxy.log_lines()), descriptors(proxy.pid)
            with crowd(address) as members:
                for _ in range(10):
                    relayed.check()
                assert status(address, "/healthz") == 200
                daemon.wait_until(lambda: drip(members) <= ops_http.MAX_CONNECTIONS, "a few left")
                assert descriptors(proxy.pid) <= before + ops_http.MAX_CONNECTIONS
                relayed.check()
            daemon.wait_until(lambda: descriptors(proxy.pid) == before, "all of them gone")
            assert len(proxy.log_lines()) == lines
