"""What kproxy's UDP costs beside nginx's stream module: `python -m benchmarks.udp`.

A DNS server (nsd) answers from memory, and dnsperf asks it through kproxy and through nginx with
one worker, in turns, so that both meet the same machine. Two ways of asking:

- `flows`: eight clients that keep their ports, a hundred queries under way;
- `new flow per query`: 200 clients in turn, against tables that have forgotten each of them before
  it asks again. nginx is told to end a session with its first answer (`proxy_responses 1`), kproxy
  has room for 128 flows.

Printed are the queries per second of each, the CPU time of the proxy for a query, and the median
over the rounds of kproxy's figure divided by nginx's. 1.0 and more is the goal; on a machine that
does other things too, CPU time says more. Debian's packages: dnsperf, nsd, nginx and
libnginx-mod-stream.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import comparison, nsd
from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.subjects import peers

CLUSTER_IP = "10.96.0.53"
HOST = "127.96.0.53"
WARM_UP = 1.0
RECORDS = "www IN A 192.0.2.2"
NGINX = """\
{module}pid {folder}/nginx.pid;
daemon off;
worker_processes 1;
error_log stderr error;
events {{ worker_connections 8192; }}
stream {{
  server {{ listen {address} udp; proxy_pass {backend}; proxy_timeout 30s; {more} }}
}}
"""


@dataclass(frozen=True)
class Way:
    """How to ask, and what the proxies are told."""

    name: str
    asking: tuple[str, ...]
    kproxy: tuple[str, ...] = ()
    nginx: str = ""


WAYS = (
    Way("flows", ("-c", "8", "-q", "100")),
    Way(
        "new flow per query",
        ("-c", "200", "-q", "100"),
        ("--max-udp-flows", "128"),
        "proxy_responses 1;",
    ),
)


def main() -> int:
    """The exit code."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options = parser.parse_args()

    def each_way(folder: Path) -> None:
        with name_server(folder) as backend:
            for way in WAYS:
                measure(way, folder, backend, options.rounds, options.seconds)

    return comparison.run("udp", each_way)


def measure(way: Way, folder: Path, backend: network.Address, rounds: int, seconds: float) -> None:
    """Ask through both proxies in turns, and print what came of it."""
    with kproxy(folder, backend, way) as ours, nginx(folder, backend, way) as theirs:
        subjects = {"kproxy": ours, "nginx": theirs}
        for address, _ in subjects.values():
            ask(way, folder, address, WARM_UP)

        def figure(name: str) -> comparison.Figure:
            address, process = subjects[name]
            before = process.usage().total
            queries, rate = ask(way, folder, address, seconds)
            return comparison.Figure(rate, (process.usage().total - before) / max(queries, 1))

        figures = comparison.in_turns(subjects, rounds, figure)
    print(way.name)
    comparison.show_all(figures, "queries", "nginx")


def ask(way: Way, folder: Path, address: network.Address, seconds: float) -> tuple[int, float]:
    """How many queries were answered, and how many in a second. Raises KproxyError."""
    program = processes.find_program("dnsperf", "dnsperf")
    place = ("-s", address.host, "-p", str(address.port), "-d", str(folder / "queries"))
    done = subprocess.run(
        [program, *place, *way.asking, "-l", str(seconds), "-t", "1"],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    answered = re.search(r"Queries completed: +(\d+)", done.stdout)
    rate = re.search(r"Queries per second: +([\d.]+)", done.stdout)
    if not answered or not rate or not float(rate[1]):
        raise errors.KproxyError(f"dnsperf got no answer at {address}: {done.stdout[-500:]}")
    return int(answered[1]), float(rate[1])


@contextlib.contextmanager
def name_server(folder: Path) -> Iterator[network.Address]:
    """nsd with one zone; yields its address."""
    address = network.Address("127.0.0.1", network.free_port())
    (folder / "queries").write_text(f"www.{nsd.ZONE} A\n")
    program = processes.find_program("nsd", "nsd")
    argv = [program, *nsd.arguments(folder, address.host, address.port, RECORDS)]
    with processes.start("nsd", argv, folder) as process:
        processes.wait_listening(process, address)  # it serves TCP as well
        yield address


@contextlib.contextmanager
def kproxy(
    folder: Path, backend: network.Address, way: Way
) -> Iterator[tuple[network.Address, processes.Process]]:
    """kproxy as a user starts it."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    address = network.Address(HOST, network.free_port(HOST))
    port = {"name": "dns", "port": address.port, "protocol": "UDP"}
    head = {"apiVersion": "v1", "metadata": {"name": "dns", "namespace": "default"}}
    subsets = [
        {
            "addresses": [{"ip": backend.host}],
            "ports": [{"name": "dns", "port": backend.port, "protocol": "UDP"}],
        }
    ]
    service = {**head, "kind": "Service", "spec": {"clusterIP": CLUSTER_IP, "ports": [port]}}
    listed: list[dict[str, Any]] = [service, {**head, "kind": "Endpoints", "subsets": subsets}]
    manifest = folder / "dns.json"
    comparison.write_objects(manifest, listed)
    with comparison.kproxy(folder, manifest, *way.kproxy) as (_, process):
        yield address, process


@contextlib.contextmanager
def nginx(
    folder: Path, backend: network.Address, way: Way
) -> Iterator[tuple[network.Address, processes.Process]]:
    """nginx's stream module with one worker."""
    program = processes.find_program("nginx", "nginx")
    folder = Path(tempfile.mkdtemp(dir=folder))
    address = network.Address("127.0.0.1", network.free_port())
    config = folder / "nginx.conf"
    config.write_text(
        NGINX.format(
            module=peers.load_stream_module(program),
            folder=folder,
            address=address,
            backend=backend,
            more=way.nginx,
        )
    )
    argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with processes.start("nginx", argv, folder) as process:
        processes.wait_until(process, (folder / "nginx.pid").exists, "does not start")
        yield address, process


if __name__ == "__main__":
    sys.exit(main())
