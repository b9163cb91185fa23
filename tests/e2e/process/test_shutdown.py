"""Shutdown: no new client is accepted, connections may finish, nothing is left.

Cases: P02 of docs/faults.md.
"""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

_BLOCKS = 400
_BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def pod() -> Iterator[socket.socket]:
    with sockets.backend(manifests.fresh_ip(127)) as listener:
        yield listener


@pytest.fixture
def manifest(tmp_path: Path, pod: socket.socket) -> Path:
    return manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", manifests.fresh_ip(), manifests.PORT),
        manifests.endpoints("web", [pod.getsockname()]),
    )


def is_gone(proxy: daemon.Daemon) -> bool:
    """Whether nothing is left of its process group, nor its ready file."""
    return not daemon.group(proxy.pid) and not proxy.ready_file.exists()


@_BOTH_SIGNALS
def test_without_connections_it_ends_at_once_and_leaves_nothing(
    manifest: Path, run: conftest.Run, number: signal.Signals
) -> None:
    proxy = run(manifest)
    address = proxy.address("web")

    proxy.signal(number)

    assert proxy.wait() == 0
    assert sockets.is_refused(address)
    assert is_gone(proxy)
    assert sorted(each.name for each in proxy.ready_file.parent.iterdir()) == ["stderr.log"]
    assert "Traceback" not in proxy.log()


def test_an_idle_connection_is_waited_for_until_it_ends(
    manifest: Path, pod: socket.socket, run: conftest.Run
) -> None:
    proxy = run(manifest, "--grace-period", "1h")
    with sockets.stream(proxy.address("web"), pod) as through:
        proxy.signal(signal.SIGTERM)
        daemon.wait_until(lambda: proxy.log_lines("stopping", "open_connections=1"), "it stops")
        daemon.wait_until(lambda: not proxy.listening(), "it has stopped listening")
        assert sockets.is_refused(proxy.address("web"))
        through.check()
        assert proxy.process.poll() is None

    assert proxy.wait() == 0
    assert proxy.log_lines("stopped", "connections_reset=0")


def test_a_running_transfer_finishes_and_new_clients_are_refused(
    manifest: Path, pod: socket.socket, run: conftest.Run
) -> None:
    proxy = run(manifest, "--grace-period", "1h")
    with sockets.stream(proxy.address("web"), pod) as through:
        sending = sockets.sends(through.server, _BLOCKS)
        first = sockets.read_exactly(through.client, 65536)
        proxy.signal(signal.SIGTERM)
        daemon.wait_until(lambda: not proxy.listening(), "it has stopped listening")
        assert sockets.is_refused(proxy.address("web"))

        received = first + sockets.read_all(through.client)
        through.client.close()

        assert sockets.sha256(received) == sending.finish()
    assert len(received) == _BLOCKS * 65536
    assert proxy.wait() == 0


def test_a_hundred_transfers_finish_before_it_ends(
    manifest: Path, pod: socket.socket, run: conftest.Run
) -> None:
    """P01. Some are ended by the server, some by the client; none is cut."""
    proxy = run(manifest, "--grace-period", "1h")
    with contextlib.ExitStack() as stack:
        through = [
            stack.enter_context(sockets.stream(proxy.address("web"), pod)) for _ in range(100)
        ]
        bodies = [bytes([number]) * 100_000 for number in range(100)]
        for each, body in zip(through, bodies, strict=True):
            each.server.sendall(body[:1000])
        proxy.signal(signal.SIGTERM)
        daemon.wait_until(lambda: proxy.log_lines("stopping", "open_connections=100"), "it stops")

        for number, (each, body) in enumerate(zip(through, bodies, strict=True)):
            if number % 2:
                each.client.shutdown(socket.SHUT_WR)
                assert each.server.recv(1) == b""
            each.server.sendall(body[1000:])
            each.server.close()
            assert sockets.read_all(each.client) == body
            each.client.close()

    assert proxy.wait() == 0
    assert proxy.log_lines("stopped", "connections_reset=0")


def test_after_the_grace_period_what_is_left_is_reset_on_both_sides(
    manifest: Path, pod: socket.socket, run: conftest.Run
) -> None:
    proxy = run(manifest, "--grace-period", "0.1")
    with sockets.stream(proxy.address("web"), pod) as through:
        proxy.signal(signal.SIGTERM)

        for each in (through.client, through.server):
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    assert proxy.wait() == 0
    assert proxy.log_lines("stopped", "connections_reset=1")
    assert is_gone(proxy)


@_BOTH_SIGNALS
def test_a_second_signal_ends_it_at_once_with_resets(
    manifest: Path, pod: socket.socket, run: conftest.Run, number: signal.Signals
) -> None:
    proxy = run(manifest, "--grace-period", "3600")
    with sockets.stream(proxy.address("web"), pod) as through:
        proxy.signal(number)
        daemon.wait_until(lambda: proxy.log_lines("stopping"), "it stops")
        through.check()

        proxy.signal(number)

        with pytest.raises(ConnectionResetError):
            through.client.recv(1)
    assert proxy.wait() == 0
    assert is_gone(proxy)


def test_the_ready_file_has_the_process_and_the_services(manifest: Path, run: conftest.Run) -> None:
    proxy = run(manifest)

    assert proxy.ready.keys() == {"pid", "control", "healthz", "metrics", "services"}
    assert proxy.ready["pid"] == proxy.pid
    assert [view["name"] for view in proxy.ready["services"]] == ["web"]
