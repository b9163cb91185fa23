"""A process with little: few descriptors, little memory. It serves as many as it can, and lives.

Behaviour: row 51 of docs/behaviour.md.
"""

import collections
import contextlib
import resource
import socket
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets
from tests.e2e.traffic.test_hardships import web

NO_SURFACES = ("--healthz-bind-address", "", "--metrics-bind-address", "")


def client(address: daemon.Address, ends: contextlib.ExitStack) -> socket.socket:
    """A client that has sent a byte. The kernel lets it in; the proxy may accept it later."""
    made = ends.enter_context(contextlib.closing(sockets.connect(address)))
    made.send(b"x")
    return made


def server(pod: socket.socket, ends: contextlib.ExitStack) -> socket.socket:
    """The proxy's next connection to the pod, which brings its client's byte."""
    accepted = ends.enter_context(contextlib.closing(sockets.accept(pod)))
    assert accepted.recv(1) == b"x"
    return accepted


def rss(proxy: daemon.Daemon) -> int:
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def test_x01_at_256_descriptors_400_clients_are_served_as_others_finish(
    tmp_path: Path, run: conftest.Run
) -> None:
    """No accept ever meets EMFILE, and the log has one line for it."""
    with sockets.backend(manifests.fresh_ip(127)) as pod, contextlib.ExitStack() as ends:
        proxy = run(
            web(tmp_path, pod.getsockname()), *NO_SURFACES, wrapper=("prlimit", "--nofile=256")
        )
        (ready,) = proxy.wait_logged("max_connections=")
        limit = int(ready.split("max_connections=")[1].split()[0])
        assert 50 < limit < 128
        clients = []
        for number in range(400):
            near = ends.enter_context(contextlib.closing(sockets.connect(proxy.address("web"))))
            near.send(number.to_bytes(2))
            clients.append(near)
        servers = collections.deque(
            ends.enter_context(contextlib.closing(sockets.accept(pod))) for _ in range(limit)
        )
        for _ in range(400 - limit):
            far = servers.popleft()  # the order may differ: a delayed ACK delays a handshake
            clients[int.from_bytes(sockets.read_exactly(far, 2))].close()
            far.close()
            servers.append(ends.enter_context(contextlib.closing(sockets.accept(pod))))
        assert proxy.process.poll() is None
        assert len(proxy.wait_logged("connection limit reached")) == 1
        assert not proxy.log_lines("cannot accept")


def test_x11_at_its_cap_it_stays_below_a_memory_limit(tmp_path: Path, run: conftest.Run) -> None:
    """64 MB above what an idle proxy has, and 1,500 connections: those beyond the cap wait."""
    cap = 1500
    with sockets.backend(manifests.fresh_ip(127)) as pod, contextlib.ExitStack() as ends:
        proxy = run(web(tmp_path, pod.getsockname()), *NO_SURFACES, "--max-connections", str(cap))
        address = proxy.address("web")
        status = Path(f"/proc/{proxy.pid}/status").read_text()
        bound = (int(status.split("VmSize:")[1].split()[0]) << 10) + (64 << 20)
        resource.prlimit(proxy.pid, resource.RLIMIT_AS, (bound, bound))
        pairs = [(client(address, ends), server(pod, ends)) for _ in range(cap)]
        late = [client(address, ends) for _ in range(200)]
        for near, far in pairs[::50]:
            far.sendall(bytes(100_000))
            assert len(sockets.read_exactly(near, 100_000)) == 100_000
        pod.setblocking(False)
        with pytest.raises(BlockingIOError):
            pod.accept()
        pod.settimeout(sockets.SECONDS)
        for near, far in pairs[: len(late)]:
            near.close()
            far.close()
        for _ in late:
            server(pod, ends)
        assert proxy.process.poll() is None
        assert not proxy.log_lines("bug")


@pytest.mark.long
def test_x10_idle_connections_cost_little_and_give_their_memory_back(
    tmp_path: Path, run: conftest.Run
) -> None:
    count = 9000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * count + 500:
        pytest.skip(f"{hard} open files are too few")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with sockets.backend(manifests.fresh_ip(127)) as pod:
            proxy = run(web(tmp_path, pod.getsockname()), *NO_SURFACES)
            with sockets.stream(proxy.address("web"), pod) as through:
                through.check()
            before = rss(proxy)
            with contextlib.ExitStack() as ends:
                for _ in range(count):
                    client(proxy.address("web"), ends)
                    server(pod, ends)
                each = (rss(proxy) - before) / count
                assert each < 4096, f"{each:.0f} bytes of user memory a connection"
            bound = 1.2 * before
            daemon.wait_until(lambda: rss(proxy) < bound, "the memory is given back", 30)
            with sockets.stream(proxy.address("web"), pod) as through:
                through.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
