"""One of four endpoints dead in the worst way: it swallows connection attempts without a word.

All peers are loaded at the same time, each at a fixed rate with its arrivals between those of the
others: 50 connections/s are far too few to disturb anybody, and a round takes 20 s instead of
100. First with four healthy endpoints, then, with fresh proxies, with one black hole.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import figures, processes
from benchmarks.figures import Figures
from benchmarks.peers import Peer, Proxy
from benchmarks.processes import Address, BenchmarkError
from benchmarks.scenarios import Rig

_PATIENCE = 10.0
_FILLERS = 8
_CHECK_S = 0.3
_HEAD_START = 2.0  # all generators start together, on few cores
_PERCENTILES = (50, 90, 99)


@contextlib.contextmanager
def black_hole() -> Iterator[Address]:
    """An address whose SYNs the kernel drops: a listener with a full accept queue (Linux).

    Needs no root. The sockets that fill the queue are held, and closed at the end. Raises
    BenchmarkError when a further connection is answered all the same.
    """
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = Address(*listener.getsockname())
        for _ in range(_FILLERS):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        time.sleep(0.05)  # the handshakes of those that fit in the queue
        with socket.socket() as probe:
            probe.settimeout(_CHECK_S)
            with contextlib.suppress(TimeoutError):
                probe.connect(address)
                raise BenchmarkError("a full accept queue does not swallow SYNs on this kernel.")
        yield address


def measure(
    peers: Sequence[Peer], rig: Rig
) -> tuple[dict[str, Figures], dict[str, BenchmarkError]]:
    """Figures by peer name, and why a peer has none. Times are ms from connect to first byte."""
    failed: dict[str, BenchmarkError] = {}
    healthy = _load_all(peers, rig.http, rig, failed)
    with black_hole() as hole:
        holed = _load_all(peers, (rig.http[0], hole, *rig.http[2:]), rig, failed)
    measured = {
        name: {**_prefixed("healthy_", healthy[name]), **holed[name]}
        for name in holed
        if name in healthy
    }
    return measured, failed


def _load_all(
    peers: Sequence[Peer],
    backends: Sequence[Address],
    rig: Rig,
    failed: dict[str, BenchmarkError],
) -> dict[str, Figures]:
    with contextlib.ExitStack() as started:
        proxies: dict[str, Proxy] = {}
        for peer in peers:
            try:
                proxies[peer.name] = started.enter_context(peer.start(backends, rig.folder))
            except BenchmarkError as error:
                failed[peer.name] = error
        return _generate(proxies, rig, failed)


def _generate(
    proxies: Mapping[str, Proxy], rig: Rig, failed: dict[str, BenchmarkError]
) -> dict[str, Figures]:
    size = rig.size
    first = time.monotonic() + _HEAD_START
    measured: dict[str, Figures] = {}
    with contextlib.ExitStack() as started:
        generators = {}
        for number, (name, proxy) in enumerate(proxies.items()):
            begin = first + number / len(proxies) / size.open_loop_rate
            argv = [sys.executable, "-m", "benchmarks.load", "open-loop", str(proxy.address)]
            argv += ["--begin", str(begin), "--rate", str(size.open_loop_rate)]
            argv += ["--seconds", str(size.open_loop_s), "--patience", str(_PATIENCE)]
            generators[name] = started.enter_context(
                processes.start(f"open loop to {name}", argv, rig.folder, interactive=True)
            )
        for name, generator in generators.items():
            try:
                result = processes.read_json(generator, size.open_loop_s + _PATIENCE + 20)
                measured[name] = _figures(**result)
            except BenchmarkError as error:
                failed[name] = error
    return measured


def _figures(times_ms: Sequence[float], failures: Sequence[str], late_ms: float) -> Figures:
    """Percentiles of the connections that were answered; those that were not are `failed`."""
    measured: Figures = {
        "failed": float(len(failures)),
        "connections": float(len(times_ms) + len(failures)),
        "generator_late_ms": late_ms,
    }
    if times_ms:
        for percent in _PERCENTILES:
            measured[f"p{percent}_ms"] = figures.percentile(times_ms, percent)
        measured["max_ms"] = max(times_ms)
    return measured


def _prefixed(prefix: str, measured: Figures) -> Figures:
    return {prefix + name: value for name, value in measured.items()}
