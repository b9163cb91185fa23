"""How long a full garbage collection stops the relays while many connections are open.

    python -m benchmarks.collection [CONNECTIONS]

Connections leave the collector nothing to find, and the server freezes what it made at its start.
This is what a collection costs that comes nevertheless (docs/faults.md P15). CONNECTIONS is 9,000
unless given; each needs two open files here, and two in a child process that has both its ends.
"""

import asyncio
import gc
import multiprocessing
import random
import socket
import statistics
import sys
import time
from multiprocessing.connection import Connection

import uvloop

import kproxy.server  # noqa: F401  # what a real process has loaded is walked too
from kproxy.balancer import balancer, penalty
from kproxy.bench import run
from kproxy.datapath import data_path
from kproxy.datapath.tcp import connection
from kproxy.model import addresses, forwarding, names

_CONNECTIONS = 9_000
_REPEATS = 20


def pause() -> str:
    """How long full collections take, in words."""
    taken = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        gc.collect()
        taken.append((time.perf_counter() - begin) * 1000)
    middle = statistics.median(taken)
    return f"shortest {min(taken):.1f} ms, median {middle:.1f} ms, longest {max(taken):.1f} ms"


def hold(parent: Connection, backend: socket.socket, count: int) -> None:
    """In a child: open `count` connections to the address that `parent` sends, and keep both ends.

    A byte goes through each, so that it is linked.
    """
    frontend = parent.recv()
    ends = []
    for _ in range(count):
        client = socket.create_connection(frontend)
        client.sendall(b"x")
        accepted = backend.accept()[0]
        accepted.recv(1)
        ends += [client, accepted]
    parent.send(len(ends))
    parent.recv()


async def measure(child: Connection, backend: addresses.SocketAddress, count: int) -> list[str]:
    """The lines: without connections, with them, and with them frozen."""
    box = penalty.PenaltyBox()
    path = data_path.DataPath(box, None)
    chooser = balancer.ServicePortBalancer(forwarding.Policy(), box, random.Random(1))
    chooser.update([backend])
    name = names.ServicePortName(names.NamespacedName("default", "held"), "")
    target = connection.Target(name, chooser)
    opened = path.open(addresses.SocketAddress("127.0.0.1", 0), target)
    gc.freeze()
    found = [f"no connections: {pause()}"]
    child.send(tuple(opened.address))
    await asyncio.to_thread(child.recv)
    found.append(f"{path.connections:,} connections: {pause()}")
    gc.freeze()
    found.append(f"{path.connections:,} connections, frozen: {pause()}")
    child.send(None)
    chooser.close()
    path.close()
    if target.counters.accepted != count:
        raise AssertionError(f"{target.counters.accepted} of {count} connections were accepted")
    return found


def main(arguments: list[str]) -> None:
    """Measure and print."""
    count = int(arguments[0]) if arguments else _CONNECTIONS
    run.allow_open_files()
    gc.disable()  # but for the collections that are measured
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as backend:
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=hold, args=(theirs, backend, count)
        )
        child.start()
        try:
            address = addresses.SocketAddress(*backend.getsockname())
            print("\n".join(uvloop.run(measure(ours, address, count))))
        finally:
            child.kill()
            child.join()


if __name__ == "__main__":
    main(sys.argv[1:])
