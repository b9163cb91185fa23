"""How many questions of DNS kproxy answers beside dnsmasq: `python -m benchmarks.dns`.

kproxy has 10,000 Services, dnsmasq the same names and addresses in a hosts file; both are one
process. dnsperf asks each of the names in a random order, of the one and of the other in turns, so
that both meet the same machine. Printed are the answers per second, the CPU time for each, and the
median over the rounds of kproxy's rate divided by dnsmasq's; the goals are 20,000 and 0.5. kproxy
is also measured with nothing kept yet, each name asked once.

While dnsperf asks on, a file with one more Service changes its ClusterIP, again and again: printed
is how long it takes until the new address is answered. The goal is 200 ms.

Then what the name server costs TCP beside it: redis-benchmark asks a Redis through a Service, in
turns through a kproxy without --dns, through one with it, and through one that is asked 1,000
questions a second meanwhile. The goal is that the second has 0.97 of the first's requests.

Debian's packages: dnsperf, dnsmasq-base, redis-server and redis-tools.
"""

import contextlib
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import comparison
from kproxy import errors
from kproxy.bench.lab import network, processes

SERVICES = 10_000
NAMESPACES = 20
REDIS_IP = "10.96.250.1"
REDIS_HOST = "127.96.250.1"
REQUESTS = 60_000
"""Of one measurement."""
NOWHERE = network.Address("127.0.0.1", 0)
"""The address of a name server that is off."""
CHANGING = b"changing.default.svc.cluster.local"
CHANGES = 40
UNDER_LOAD = 5000
"""Questions per second while the Service changes."""
BESIDE = 1000
"""Questions per second that are asked beside TCP."""


def main() -> int:
    """The exit code."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()

    def everything(folder: Path) -> None:
        write_names(folder)
        compare(folder, options.rounds, options.seconds)
        change(folder)
        beside_tcp(folder, options.rounds)

    return comparison.run("dns", everything)


def names() -> Iterator[tuple[str, str, str, str]]:
    """Of each Service: its name, its namespace, its ClusterIP, and where kproxy serves it."""
    for number in range(SERVICES):
        high, low = divmod(number, 250)
        rest = f"{96 + high // 250}.{high % 250}.{low + 1}"
        yield f"svc-{number}", f"ns-{number % NAMESPACES}", f"10.{rest}", f"127.{rest}"


def write_names(folder: Path) -> None:
    """The Services for kproxy, the hosts for dnsmasq, the questions for dnsperf."""
    head = {"apiVersion": "v1", "kind": "Service"}
    listed: list[dict[str, Any]] = []
    hosts, queries = [], []
    for name, namespace, ip, served in names():
        metadata = {"name": name, "namespace": namespace}
        spec = {"clusterIP": ip, "ports": [{"name": "http", "port": 8080}]}
        listed.append({**head, "metadata": metadata, "spec": spec})
        full = f"{name}.{namespace}.svc.cluster.local"
        hosts.append(f"{served} {full}\n")
        queries.append(f"{full} A\n")
    comparison.write_objects(folder / "services.json", listed)
    random.Random(1).shuffle(queries)
    (folder / "hosts").write_text("".join(hosts))
    (folder / "queries").write_text("".join(queries))


def compare(folder: Path, rounds: int, seconds: float) -> None:
    """Ask kproxy and dnsmasq in turns, and print what came of it."""
    with kproxy(folder, "services") as ours, dnsmasq(folder) as theirs:
        first = measured(folder, *ours, "-n", "1")
        print(f"each of {SERVICES:,} names once, nothing kept")
        comparison.show("kproxy", [first], "answers")
        subjects = {"kproxy": ours, "dnsmasq": theirs}
        measured(folder, *theirs, "-n", "1")
        figures = comparison.in_turns(
            subjects, rounds, lambda name: measured(folder, *subjects[name], "-l", str(seconds))
        )
    print(f"{SERVICES:,} names in turn, {rounds} rounds")
    comparison.show_all(figures, "answers", "dnsmasq")


def change(folder: Path) -> None:
    """Change a Service's address under load, and print how soon the answer is another."""
    manifests = folder / "changing"
    manifests.mkdir()
    (manifests / "services.json").write_bytes((folder / "services.json").read_bytes())
    metadata = {"name": "changing", "namespace": "default"}
    taken = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1.0)
        write_service(manifests, metadata, 0)
        with kproxy(folder, "changing/") as (address, _):
            client.connect(address)
            with asked(folder, address, UNDER_LOAD):
                for number in range(1, CHANGES + 1):
                    began = time.monotonic()
                    write_service(manifests, metadata, number)
                    while answer_of(client) != number:
                        time.sleep(0.0005)
                    taken.append(time.monotonic() - began)
                    time.sleep(0.2)
    middle, worst = statistics.median(taken) * 1e3, max(taken) * 1e3
    print(f"a change is answered after {middle:.0f} ms, {worst:.0f} ms at most ({CHANGES} changes)")


def write_service(folder: Path, metadata: dict[str, str], number: int) -> None:
    """The Service with another ClusterIP, put in place of the one before."""
    spec = {"clusterIP": f"10.96.251.{number}", "ports": [{"port": 80}]}
    document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    draft = folder / ".draft"
    draft.write_text(json.dumps(document))
    draft.replace(folder / "changing.json")


def answer_of(client: socket.socket) -> int:
    """The last number of the changing Service's address; -1 without an answer."""
    name = b"".join(bytes((len(each),)) + each for each in CHANGING.split(b".")) + b"\0"
    client.send(b"\0\7\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1")
    try:
        return client.recv(512)[-1]
    except TimeoutError:
        return -1


def measured(
    folder: Path, address: network.Address, process: processes.Process, *how: str
) -> comparison.Figure:
    """Ask for a while. Raises KproxyError."""
    before = process.usage().total
    answered, rate = ask(folder, address, *how)
    return comparison.Figure(rate, (process.usage().total - before) / max(answered, 1))


def ask(folder: Path, address: network.Address, *how: str) -> tuple[int, float]:
    """How many questions were answered, and how many in a second. Raises KproxyError."""
    done = subprocess.run(
        [*asking(folder, address), *how], capture_output=True, text=True, timeout=300, check=False
    )
    answered = re.search(r"Queries completed: +(\d+)", done.stdout)
    rate = re.search(r"Queries per second: +([\d.]+)", done.stdout)
    good = re.search(r"NOERROR (\d+)", done.stdout)
    if not answered or not rate or not good or good[1] != answered[1]:
        raise errors.KproxyError(f"dnsperf got no answers at {address}: {done.stdout[-500:]}")
    return int(answered[1]), float(rate[1])


def asking(folder: Path, address: network.Address) -> list[str]:
    """The command that asks: four clients, 200 questions under way."""
    program = processes.find_program("dnsperf", "dnsperf")
    place = ("-s", address.host, "-p", str(address.port), "-d", str(folder / "queries"))
    return [program, *place, "-c", "4", "-q", "200", "-T", "1"]


@contextlib.contextmanager
def kproxy(
    folder: Path, objects: str, *, has_dns: bool = True
) -> Iterator[tuple[network.Address, processes.Process]]:
    """kproxy as a user starts it; yields where its name server is."""
    source = folder / (objects if objects.endswith("/") else f"{objects}.json")
    flags = ("--dns", "127.0.0.1:0", "--dns-upstream", "none") if has_dns else ()
    with comparison.kproxy(folder, source, *flags) as (ready, process):
        yield network.parse(ready["dns"]) if has_dns else NOWHERE, process


@contextlib.contextmanager
def dnsmasq(folder: Path) -> Iterator[tuple[network.Address, processes.Process]]:
    """dnsmasq with the same names."""
    address = network.Address("127.0.0.1", network.free_port())
    argv = [processes.find_program("dnsmasq", "dnsmasq-base"), "-k", "-p", str(address.port)]
    argv += ["--listen-address", address.host, "--bind-interfaces", "--no-resolv", "--no-hosts"]
    argv += ["--conf-file=/dev/null", "--pid-file=", f"--addn-hosts={folder / 'hosts'}"]
    argv += ["-c", "10000", "--user=", "--group="]
    with processes.start("dnsmasq", argv, folder) as process:
        processes.wait_listening(process, address)
        yield address, process


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[network.Address]:
    """A Redis server that keeps nothing."""
    address = network.Address("127.0.0.1", network.free_port())
    argv = [processes.find_program("redis-server", "redis-server"), "--port", str(address.port)]
    argv += ["--bind", address.host, "--save", "", "--daemonize", "no"]
    with processes.start("redis-server", argv, folder) as process:
        processes.wait_listening(process, address)
        yield address


def write_redis(folder: Path, backend: network.Address, name: str, port: int) -> None:
    """The Services of before, and one more with Redis behind it at `port`."""
    listed = json.loads((folder / "services.json").read_text())
    head = {"apiVersion": "v1", "metadata": {"name": "redis", "namespace": "default"}}
    spec = {"clusterIP": REDIS_IP, "ports": [{"port": port}]}
    subset = {"addresses": [{"ip": backend.host}], "ports": [{"port": backend.port}]}
    listed["items"] += [
        {**head, "kind": "Service", "spec": spec},
        {**head, "kind": "Endpoints", "subsets": [subset]},
    ]
    (folder / f"{name}.json").write_text(json.dumps(listed))


@contextlib.contextmanager
def asked(folder: Path, address: network.Address, rate: int = BESIDE) -> Iterator[None]:
    """Ask so many questions a second meanwhile."""
    argv = [*asking(folder, address), "-Q", str(rate), "-l", "600"]
    with processes.start("dnsperf", argv, folder):
        yield


def requests(front: network.Address) -> float:
    """Redis requests per second, of 20 clients. Raises KproxyError."""
    program = processes.find_program("redis-benchmark", "redis-tools")
    argv = [program, "-h", front.host, "-p", str(front.port), "-c", "20", "-n", str(REQUESTS)]
    done = subprocess.run(
        [*argv, "-t", "get", "--csv"], capture_output=True, text=True, timeout=120, check=False
    )
    found = re.search(r'"GET","([0-9.]+)"', done.stdout)
    if not found:
        raise errors.KproxyError(f"redis-benchmark got no answers at {front}: {done.stderr[-300:]}")
    return float(found[1])


def beside_tcp(folder: Path, rounds: int) -> None:
    """Send Redis requests through kproxies without and with a name server, in turns."""
    fronts = [network.Address(REDIS_HOST, network.free_port(REDIS_HOST)) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(redis(folder))
        for front, name in zip(fronts, ("plain", "named"), strict=True):
            write_redis(folder, backend, name, front.port)
        _, plain = stack.enter_context(kproxy(folder, "plain", has_dns=False))
        place, named = stack.enter_context(kproxy(folder, "named"))

        def figure(name: str) -> comparison.Figure:
            process = plain if name == "without --dns" else named
            with asked(folder, place) if name == "asked" else contextlib.nullcontext():
                before = process.usage().total
                rate = requests(fronts[process is named])
                return comparison.Figure(rate, (process.usage().total - before) / REQUESTS)

        figures = comparison.in_turns(("without --dns", "with --dns", "asked"), rounds, figure)
    print("Redis requests through a Service")
    for name, found in figures.items():
        middle = comparison.medians(found)
        ratios = comparison.Ratios.of(found, figures["without --dns"])
        label = f"{name} {BESIDE:,} times/s" if name == "asked" else name
        print(
            f"  {label:20}{middle.rate:8,.0f} requests/s {middle.cost * 1e6:6.2f} us of CPU each, "
            f"ratio {ratios.rate:.2f}, by CPU time {ratios.cost:.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
