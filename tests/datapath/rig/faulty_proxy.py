"""A proxy on a faulty kernel: python -m tests.datapath.rig.faulty_proxy LISTEN BACKEND --seed N.

Made for `python -m tests.relay LISTEN BACKEND`. Says "ready HOST:PORT" once it listens; on
SIGTERM it resets what is left, prints its counters as JSON, and ends. Each connection is checked
after each of its events; `inconsistent` counts what does not hold.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence

import uvloop

from kproxy import metrics
from kproxy.balancer import penalty
from kproxy.datapath import data_path, syscalls
from kproxy.datapath.tcp import connection, halfclose
from kproxy.model import addresses, names
from tests.datapath.rig import consistency, faulty

_KERNELS: dict[str, Callable[[int], syscalls.Kernel]] = {
    "real": lambda _: syscalls.Kernel(),
    "honest": lambda seed: faulty.FaultyKernel(faulty.Rates(), seed),
    "rough": lambda seed: faulty.FaultyKernel(faulty.ROUGH, seed),
}
"""The kernel itself; the fake that tells no lies; the fake that does."""


SUITE = names.ServicePortName(names.NamespacedName("test", "suite"))


class OnlyChoice:
    """A picker with one backend."""

    def __init__(self, backend: addresses.SocketAddress) -> None:
        self._backend = backend

    def pick(self, client: str, now: float) -> addresses.SocketAddress:
        return self._backend

    def repick(
        self, client: str, tried: Sequence[addresses.SocketAddress], now: float
    ) -> addresses.SocketAddress:
        return self._backend

    def has_alternative(self, _client: str, tried: Sequence[addresses.SocketAddress]) -> bool:
        return False


def _address(text: str) -> addresses.SocketAddress:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write HOST:PORT")
    return addresses.SocketAddress(host, int(port))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.datapath.rig.faulty_proxy")
    parser.add_argument("listen", metavar="LISTEN", type=_address, help="HOST:PORT; port 0: any")
    parser.add_argument("backend", metavar="BACKEND", type=_address)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kernel", choices=sorted(_KERNELS), default="rough")
    parser.add_argument("--asyncio", action="store_true", help="the stock loop, not uvloop")
    parser.add_argument("--half-close-timeout", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--keepalive-idle", type=int, default=60, metavar="SECONDS")
    return parser.parse_args(arguments)


async def _serve(options: argparse.Namespace) -> dict[str, int]:
    """Run until SIGTERM; returns the counters at the end."""
    service = metrics.ServicePortCounters(halfclose.REASONS)
    path = data_path.DataPath(
        penalty.PenaltyBox(),
        data_path.Limits(
            half_closed_timeout=options.half_close_timeout,
            keepalive_idle=options.keepalive_idle,
        ),
        _KERNELS[options.kernel](options.seed),
    )
    try:
        target = connection.Target(SUITE, OnlyChoice(options.backend), service)
        listener = path.open(options.listen, target)
        asked_to_end = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_end.set)
        print(f"ready {listener.address}", flush=True)
        await asked_to_end.wait()
        left = path.connections
    finally:
        path.close()
    counters = path.counters
    return {
        "bugs": counters.bugs,
        "connections": path.connections,
        "left_at_end": left,
        "lent_pipes": path._pipes.lent,
        "served": service.accepted,
        "splice_fallbacks": counters.splice_fallbacks,
        "splices": counters.splices,
        "stale_events": counters.stale_events,
        "stalls_recovered": counters.stalls_recovered,
        "accept_errors": counters.accept_errors,
        **{reason: count for reason, count in service.ended.items() if count},
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse, serve, print."""
    options = _options(arguments)
    run = asyncio.run if options.asyncio else uvloop.run
    with consistency.watch() as violations:
        counters = run(_serve(options))
    for each in violations[:3]:
        print(f"inconsistent: {each}", file=sys.stderr)
    print(json.dumps(counters | {"inconsistent": len(violations)}), flush=True)


if __name__ == "__main__":
    main()
