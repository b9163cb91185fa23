"""Storms of signals, of silent clients, of connections, and backends that never end.

Fault cases P12, S14, S15 and S23.
"""

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

_BLOCKS = 400


def web(folder: Path, *backends: daemon.Address) -> Path:
    """A manifest with a Service called web over these backends."""
    return manifests.write(
        folder / "web.yaml",
        manifests.service("web", manifests.fresh_ip(), 8080),
        manifests.endpoints("web", backends),
    )


@contextlib.contextmanager
def repeating(action: Callable[[], object]) -> Iterator[None]:
    """Do something over and over, in a thread, for as long as the block lasts."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.001):
            action()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_p12_a_thousand_signals_a_second_cost_no_byte(tmp_path: Path, run: conftest.Run) -> None:
    numbers = itertools.cycle(
        (
            signal.SIGCHLD,
            signal.SIGWINCH,
            signal.SIGURG,
            signal.SIGCONT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGALRM,
            signal.SIGPIPE,
        )
    )
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        proxy = run(web(tmp_path, pod.getsockname()))
        with (
            sockets.stream(proxy.address("web"), pod) as through,
            repeating(lambda: proxy.signal(next(numbers))),
        ):
            up = sockets.sends(through.client, _BLOCKS)
            received = sockets.read_all(through.server)
            assert sockets.sha256(received) == up.finish()
            down = sockets.sends(through.server, _BLOCKS)
            received = sockets.read_all(through.client)
            assert sockets.sha256(received) == down.finish()
        assert proxy.stop() == 0
        assert "Traceback" not in proxy.log()


@pytest.mark.parametrize(
    "silent", [pytest.param(150, id="150"), pytest.param(5000, id="5000", marks=pytest.mark.long)]
)
def test_s14_clients_that_send_nothing_end_at_the_idle_timeout_and_others_are_served(
    tmp_path: Path, run: conftest.Run, silent: int
) -> None:
    """They fill the connection limit; clients that wait are served as they end."""
    with (
        sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,),
        sockets.backend(manifests.fresh_ip(127)) as mute,
        contextlib.ExitStack() as held,
    ):
        limit = silent // 2
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("mute", manifests.fresh_ip(), 8080),
            manifests.endpoints("mute", [mute.getsockname()]),
            manifests.service("web", manifests.fresh_ip(), 8080),
            manifests.endpoints("web", [pod.address]),
        )
        proxy = run(path, "--idle-timeout", "1", "--max-connections", str(limit))
        address = proxy.address("mute")
        for _ in range(silent):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)

        assert sockets.ask(proxy.address("web"), 60) == "pod"
        assert proxy.stop() == 0  # the log is complete then
        assert len(proxy.log_lines("connection limit reached")) == 1


@pytest.mark.parametrize(
    "flood",
    [pytest.param(2000, id="2000"), pytest.param(60000, id="60000", marks=pytest.mark.long)],
)
def test_s15_a_flood_of_connections_keeps_no_relay_waiting(
    tmp_path: Path, run: conftest.Run, flood: int
) -> None:
    with (
        sockets.backend(manifests.fresh_ip(127)) as pod,
        sockets.namers((manifests.fresh_ip(127), "flooded")) as (flooded,),
    ):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("quiet", manifests.fresh_ip(), 8080),
            manifests.endpoints("quiet", [pod.getsockname()]),
            manifests.service("web", manifests.fresh_ip(), 8080),
            manifests.endpoints("web", [flooded.address]),
        )
        proxy = run(path)
        left = iter(range(flood))
        done = threading.Event()
        asked = 0

        def connect() -> None:
            nonlocal asked
            if next(left, None) is None:
                done.set()
                return
            with contextlib.suppress(OSError):
                sockets.ask(proxy.address("web"))
                asked += 1

        with sockets.stream(proxy.address("quiet"), pod) as through, contextlib.ExitStack() as on:
            for _ in range(4):
                on.enter_context(repeating(connect))
            rounds = 0
            while not done.is_set():
                through.check()
                rounds += 1
        # The relay had its turn between the accepts: each exchange crosses the proxy twice.
        assert asked > flood * 0.99
        assert rounds > asked / 16, "relays wait for more than a batch of accepts"


def test_s23_backends_that_send_without_end_take_no_memory(
    tmp_path: Path, run: conftest.Run
) -> None:
    with (
        sockets.backend(manifests.fresh_ip(127)) as endless,
        sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,),
        contextlib.ExitStack() as held,
    ):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("endless", manifests.fresh_ip(), 8080),
            manifests.endpoints("endless", [endless.getsockname()]),
            manifests.service("web", manifests.fresh_ip(), 8080),
            manifests.endpoints("web", [pod.address]),
        )
        proxy = run(path)
        before = resident(proxy.pid)
        for number in range(20):
            through = held.enter_context(sockets.stream(proxy.address("endless"), endless))
            if number % 2:  # the tiniest window that the kernel gives
                through.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            through.server.setblocking(False)
            fill(through.server)

        assert resident(proxy.pid) - before < 20 << 20
        assert sockets.ask(proxy.address("web")) == "pod"


def fill(sock: socket.socket) -> None:
    """Send until neither the proxy nor the kernels in between take any more."""
    refused = 0
    while refused < 20:
        try:
            sock.send(bytes(1 << 20))
            refused = 0
        except BlockingIOError:
            refused += 1
            threading.Event().wait(0.01)


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
