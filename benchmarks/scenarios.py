"""The loads, and what each one measures. Every measurement runs against a fresh proxy process.

A fresh process per measurement makes rounds independent of each other, and memory figures
comparable. Before the clock starts it relays one small batch, so that nobody is charged for the
first connection of a process.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load, peers, processes
from benchmarks.figures import Figures
from benchmarks.peers import Peer, Proxy
from benchmarks.processes import Address, BenchmarkError, Usage

CONNECTIONS_AT_ONCE = 64
_WARM_UP = 64
_HTTP_BACKENDS = 4
_GB = 1e9
_SETTLE_S = 0.3  # for what a proxy gives back once a connection is quiet

# wrk's summary as one JSON line; only `done` is defined, so that wrk runs no Lua per request.
_WRK_SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "errors": %d, "p50_us": %f, "p99_us": %f}\\n',
    summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: the difference between a full run and a quick one."""

    wrk_s: int = 3
    bulk_bytes: int = 2 << 30
    ping_s: float = 2.0
    idle_connections: int = 4000
    open_loop_rate: float = 50.0
    open_loop_s: float = 10.0


FULL = Size()
QUICK = Size(wrk_s=1, bulk_bytes=1 << 29, ping_s=0.5, open_loop_s=4.0)


@dataclass(frozen=True, slots=True)
class Rig:
    """The running backends, and what the scenarios share. Made by `rig`."""

    folder: Path
    size: Size
    http: tuple[Address, ...]
    source: Address
    echo: Address


@contextlib.contextmanager
def rig(folder: Path, size: Size) -> Iterator[Rig]:
    """Start the backends (nginx, one worker; the bulk source and the echo) for the whole run."""
    http = tuple(_distinct_addresses(_HTTP_BACKENDS + 2))
    source, echo = http[_HTTP_BACKENDS:]
    http = http[:_HTTP_BACKENDS]
    (folder / "report.lua").write_text(_WRK_SCRIPT)
    config = peers.nginx_config(folder, http[0].port, _http_block(folder, http))
    roles = ["serve", "--source", str(source), "--echo", str(echo)]
    with (
        processes.start("the nginx backend", peers.nginx_command(config), folder) as nginx,
        processes.start("the bulk backend", _load(*roles), folder) as bulk,
    ):
        processes.wait_listening(nginx, http[-1])
        processes.wait_listening(bulk, source)
        processes.wait_listening(bulk, echo)
        yield Rig(folder, size, http, source, echo)


def _distinct_addresses(count: int) -> set[Address]:
    chosen: set[Address] = set()
    while len(chosen) < count:
        chosen.add(processes.free_address())
    return chosen


def _http_block(folder: Path, addresses: tuple[Address, ...]) -> str:
    listens = "\n".join(f"        listen {address} backlog=4096;" for address in addresses)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temps = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""http {{
{temps}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
{listens}
        location / {{ return 200 "ok\\n"; }}
    }}
}}
"""


def _load(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.load", *arguments]


def _warm_up(address: Address, connections: int = _WARM_UP) -> None:
    try:
        for client in asyncio.run(load.connections(address, connections)):
            client.close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise BenchmarkError(f"{address} does not answer: {reason}.") from error


def _usage(proxy: Proxy) -> Usage:
    return proxy.process.usage() if proxy.process else Usage(0, 0.0, 0.0)


def _cpu(proxy: Proxy, used: Usage, count: float, suffix: str) -> Figures:
    """CPU µs per thing counted: all of it, and the user and system parts."""
    if proxy.process is None:
        return {}
    return {
        f"cpu_us_per_{suffix}": used.cpu_ns / 1000 / count,
        f"user_us_per_{suffix}": used.user_s * 1e6 / count,
        f"system_us_per_{suffix}": used.system_s * 1e6 / count,
    }


def _wrk(rig: Rig, proxy: Proxy, *arguments: str) -> tuple[Mapping[str, float], Usage]:
    """One wrk run, and what the proxy spent on it."""
    argv = [
        peers.program("wrk", "wrk"),
        *("-t", "1", "-c", str(CONNECTIONS_AT_ONCE), "-d", f"{rig.size.wrk_s}s"),
        *("-s", str(rig.folder / "report.lua"), *arguments),
        f"http://{proxy.address}/",
    ]
    before = _usage(proxy)
    result = processes.run_json("wrk", argv, rig.folder, timeout=rig.size.wrk_s + 20)
    used = _usage(proxy) - before
    if not result["requests"]:
        raise BenchmarkError(f"no request to {proxy.address} was answered.")
    return result, used


def try_out(peer: Peer, rig: Rig) -> None:
    """Start the peer and have a request answered; BenchmarkError says why it cannot."""
    with peer.start(rig.http[:1], rig.folder) as proxy:
        _warm_up(proxy.address, 1)


def connect(peer: Peer, rig: Rig) -> Figures:
    """Short connections, 64 at once, one request each."""
    with peer.start(rig.http[:1], rig.folder) as proxy:
        _warm_up(proxy.address)
        result, used = _wrk(rig, proxy, "-H", "Connection: close")
        return {
            "connections_per_s": result["requests"] / result["seconds"],
            "p99_us": result["p99_us"],
            "errors": result["errors"],
            **_cpu(proxy, used, result["requests"], "connection"),
        }


def request(peer: Peer, rig: Rig) -> Figures:
    """Requests over 64 keep-alive connections."""
    with peer.start(rig.http[:1], rig.folder) as proxy:
        _warm_up(proxy.address)
        result, used = _wrk(rig, proxy)
        return {
            "requests_per_s": result["requests"] / result["seconds"],
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "errors": result["errors"],
            **_cpu(proxy, used, result["requests"], "request"),
        }


def bulk(peer: Peer, rig: Rig) -> Figures:
    """A fixed number of bytes from the backend to the client, over one stream and over eight."""
    measured: Figures = {}
    with peer.start([rig.source], rig.folder) as proxy:
        for streams, prefix in ((1, "one_stream"), (8, "eight_streams")):
            size = ["--bytes", str(rig.size.bulk_bytes), "--streams", str(streams)]
            argv = _load("sink", str(proxy.address), *size)
            before = _usage(proxy)
            result = processes.run_json("the bulk sink", argv, rig.folder, timeout=120)
            used = _usage(proxy) - before
            measured[f"{prefix}_gbit_per_s"] = result["bytes"] * 8 / result["seconds"] / 1e9
            if proxy.process is not None:
                gigabytes = result["bytes"] / _GB
                measured[f"{prefix}_cpu_s_per_gb"] = used.cpu_ns / 1e9 / gigabytes
    return measured


def latency(peer: Peer, rig: Rig) -> Figures:
    """64 bytes there and back, one connection, one message in flight."""
    with peer.start([rig.echo], rig.folder) as proxy:
        argv = _load("ping", str(proxy.address), "--seconds", str(rig.size.ping_s))
        result = processes.run_json("ping", argv, rig.folder, timeout=rig.size.ping_s + 20)
        return {"p50_us": result["p50_us"], "p99_us": result["p99_us"]}


def idle(peer: Peer, rig: Rig) -> Figures:
    """Resident memory per connection, each idle after one answered request.

    Memory of the kernel's sockets is not in it; it is the same for every proxy.
    """
    count = rig.size.idle_connections
    with peer.start(rig.http[:1], rig.folder) as proxy:
        if proxy.process is None:
            return {}
        _warm_up(proxy.address)
        before = proxy.process.rss_bytes()
        argv = _load("hold", str(proxy.address), "--connections", str(count))
        with processes.start("hold", argv, rig.folder, interactive=True) as client:
            assert client.popen.stdout is not None
            line = client.popen.stdout.readline()
            if not line or json.loads(line)["open"] != count:
                client.popen.wait(5)
                client.check()
            time.sleep(_SETTLE_S)
            after = proxy.process.rss_bytes()
    return {"rss_bytes_per_connection": (after - before) / count}


MEASURE: dict[str, Callable[[Peer, Rig], Figures]] = {
    peers.CONNECT: connect,
    peers.REQUEST: request,
    peers.BULK: bulk,
    peers.LATENCY: latency,
    peers.IDLE: idle,
}
"""The scenarios that take one peer at a time; `benchmarks.blackhole` takes all at once."""
