"""What a process meets in life: no SIGPIPE protection, a pause, a log that is not read.

Cases: P11, P13, X13 of docs/faults.md.
"""

import contextlib
import os
import resource
import socket
import sys
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, programs, sockets
from tests.relay import netns

_BLOCKS = 200
_IDLE_SECONDS = 4
"""Of a connection that must not look idle while this process waits for a processor."""
_WITH_DEFAULT_SIGPIPE = """
import os, signal, sys
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def web(folder: Path, *backends: daemon.Address) -> Path:
    """A manifest with a Service called web over these backends."""
    return manifests.write(
        folder / "web.yaml",
        manifests.service("web", manifests.fresh_ip(), manifests.PORT),
        manifests.endpoints("web", backends),
    )


def test_storms_of_resets_do_not_kill_a_proxy_whose_parent_left_sigpipe_deadly(
    tmp_path: Path, run: conftest.Run
) -> None:
    wrapper = [sys.executable, "-c", _WITH_DEFAULT_SIGPIPE]
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        proxy = run(web(tmp_path, pod.getsockname()), wrapper=wrapper)
        address = proxy.address("web")
        for _ in range(20):
            with sockets.stream(address, pod) as through:
                sending = sockets.sends(through.server, 16)
                sockets.read_exactly(through.client, 65536)
                sockets.reset(through.client)
                with contextlib.suppress(OSError):
                    sockets.read_all(through.server)
                sending.abandon()

        assert proxy.process.poll() is None
        with sockets.stream(address, pod) as through:
            through.check()
    assert proxy.stop() == 0


def test_a_pause_in_the_middle_of_a_transfer_costs_no_byte(
    tmp_path: Path, run: conftest.Run
) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        proxy = run(web(tmp_path, pod.getsockname()), "--idle-timeout", f"{_IDLE_SECONDS}s")
        with sockets.stream(proxy.address("web"), pod) as through:
            sending = sockets.sends(through.server, _BLOCKS)
            received = sockets.read_exactly(through.client, 1 << 20)

            with proxy.paused():
                received += drained(through)

            received += sockets.read_all(through.client)
            assert sockets.sha256(received) == sending.finish()
    assert len(received) == _BLOCKS * 65536


@pytest.mark.netns
@netns.needs_root
def test_clients_that_come_during_a_pause_are_served_after_it_and_dropped_ones_are_counted(
    tmp_path: Path, run: conftest.Run
) -> None:
    """X08. With a short queue the kernel drops most of the SYNs, and no client may get a reset."""
    programs.need("ip")
    queue = 8
    with netns.namespace() as place, netns.inside(place), contextlib.ExitStack() as held:
        pod = held.enter_context(sockets.backend("127.0.0.1"))
        Path("/proc/sys/net/core/somaxconn").write_text(str(queue))
        proxy = run(web(tmp_path, pod.getsockname()), "--metrics-bind-address", "127.0.0.1:0")
        with proxy.paused():
            clients = [held.enter_context(socket.socket()) for _ in range(40)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(proxy.address("web"))
            fewest = len(clients) - queue - 1
            daemon.wait_until(lambda: dropped() >= fewest, "the others are dropped")

        for client in clients:
            client.settimeout(sockets.SECONDS)
            client.sendall(b"?")
        for _ in clients:
            assert sockets.read_exactly(held.enter_context(sockets.accept(pod)), 1) == b"?"

        (drops,) = proxy.samples("kproxy_listen_drops_total")
        assert drops >= fewest


def dropped() -> int:
    """How many handshakes the kernel has left out in this thread's network namespace."""
    names, counts = (
        line.split()
        for line in Path("/proc/thread-self/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    )
    return int(counts[names.index("ListenDrops")])


def drained(through: sockets.Stream) -> bytes:
    """What the client gets until nothing has come for longer than the proxy's idle timeout."""
    received = bytearray()
    through.client.settimeout(_IDLE_SECONDS + 0.5)
    with contextlib.suppress(TimeoutError):
        while some := through.client.recv(65536):
            received += some
    through.client.settimeout(sockets.SECONDS)
    return bytes(received)


def test_traffic_flows_and_the_end_is_clean_while_the_log_is_not_read(
    tmp_path: Path, run: conftest.Run
) -> None:
    reader, writer = os.pipe()
    try:
        fill(writer)
        with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
            proxy = run(web(tmp_path, pod.address), "--log-level", "debug", stderr=writer)

            answers = {sockets.ask(proxy.address("web")) for _ in range(50)}

            assert answers == {"pod"}
            assert proxy.stop() == 0
    finally:
        os.close(reader)
        os.close(writer)


def fill(pipe: int) -> None:
    """Write to a pipe until it takes no more, and leave it blocking, as the child expects it."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)


def test_a_log_whose_reader_has_gone_stops_nothing(tmp_path: Path, run: conftest.Run) -> None:
    reader, writer = os.pipe()
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = web(tmp_path, pod.address)
        os.close(reader)
        try:
            proxy = run(path, stderr=writer)
        finally:
            os.close(writer)

        assert sockets.ask(proxy.address("web")) == "pod"
        assert proxy.stop() == 0


def test_room_for_descriptors_is_there_from_the_start(tmp_path: Path, run: conftest.Run) -> None:
    """A table that grows under way holds every relay up, for milliseconds each time."""
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        proxy = run(web(tmp_path, pod.getsockname()))
        pid = proxy.process.pid
        allowed, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        assert int(fields["FDSize"]) >= min(allowed, 65536)
    assert proxy.stop() == 0
