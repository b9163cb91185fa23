"""What an Ingress costs beside nginx alone: `python -m benchmarks.ingress`.

Two pods answer (nginx, one worker each, from memory), and wrk asks for one host with 32
connections, in turns, so that all meet the same machine:

- `nginx alone`: nginx with a configuration by hand, straight to the pods, as many workers as cores;
- `kproxy`: `kproxy run --ingress`, whose nginx sends requests to kproxy's frontend;
- `endpoints`: the same with `--ingress-upstream endpoints`, so without kproxy on the way.

With `--tls` clients speak HTTPS. Printed are requests per second, CPU time for a request of the
nginx in front and of kproxy together, and the median over the rounds of each rate divided by that
of nginx alone, whose goal is 0.6. Debian's packages: nginx, wrk.
"""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import comparison
from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.ingress import certificates

HOST = "shop.example"
CLUSTER_IP = "10.96.0.80"
WARM_UP = 1.0
CONNECTIONS = 32

POD = """\
daemon off; pid {folder}/nginx.pid; worker_processes 1; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  server {{ listen {address} backlog=4096; location / {{ return 200 "{answer}"; }} }}
}}
"""
FRONT = """\
daemon off; pid {folder}/nginx.pid; worker_processes auto; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  proxy_temp_path {folder}/proxied; client_body_temp_path {folder}/body;
  upstream pods {{ {pods} keepalive 32; keepalive_requests 1000000; }}
  server {{
    listen {address} backlog=4096 {ssl};
    server_name {host};
    {certificate}
    location / {{
      proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Subject:
    """Where to ask, and the CPU seconds that it has used so far."""

    address: network.Address
    used: Callable[[], float]


def main() -> int:
    """The exit code."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--tls", action="store_true", help="ask by HTTPS")
    options = parser.parse_args()
    is_tls = options.tls

    def every_subject(folder: Path) -> None:
        folder.chmod(0o755)
        with contextlib.ExitStack() as stack:
            pods = [stack.enter_context(pod(folder, number)) for number in (1, 2)]
            subjects = {
                "nginx alone": stack.enter_context(alone(folder, pods, tls=is_tls)),
                "kproxy": stack.enter_context(kproxy(folder, pods, tls=is_tls)),
                "endpoints": stack.enter_context(
                    kproxy(folder, pods, "--ingress-upstream", "endpoints", tls=is_tls)
                ),
            }
            measure(subjects, options.rounds, options.seconds, tls=is_tls)

    return comparison.run("ingress", every_subject)


def measure(subjects: dict[str, Subject], rounds: int, seconds: int, *, tls: bool) -> None:
    """Ask all of them in turns, and print what came of it."""
    for each in subjects.values():
        ask(each.address, 1, tls=tls)

    def figure(name: str) -> comparison.Figure:
        subject = subjects[name]
        before = subject.used()
        requests, rate = ask(subject.address, seconds, tls=tls)
        return comparison.Figure(rate, (subject.used() - before) / max(requests, 1))

    figures = comparison.in_turns(subjects, rounds, figure)
    print("HTTPS" if tls else "HTTP")
    for name, found in figures.items():
        middle = comparison.medians(found)
        ratios = comparison.Ratios.of(found, figures["nginx alone"])
        print(
            f"  {name:12}{middle.rate:10,.0f} requests/s {middle.cost * 1e6:8.1f} us of CPU each, "
            f"ratio {ratios.rate:.2f} {ratios.spread}"
        )


def ask(address: network.Address, seconds: int, *, tls: bool) -> tuple[int, float]:
    """How many requests were answered, and how many in a second. Raises KproxyError."""
    program = processes.find_program("wrk", "wrk")
    url = f"{'https' if tls else 'http'}://{address}/"
    done = subprocess.run(
        [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", f"Host: {HOST}", url],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    answered = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    failed = re.search(r"Non-2xx.*|Socket errors:.*", done.stdout)
    if not answered or not rate or failed:
        raise errors.KproxyError(f"wrk met errors at {address}: {done.stdout[-500:]}{done.stderr}")
    return int(answered[1]), float(rate[1])


@contextlib.contextmanager
def pod(folder: Path, number: int) -> Iterator[network.Address]:
    """A pod that answers from memory."""
    address = network.Address(f"127.244.0.{number}", network.free_port())
    with nginx(folder, address, POD, answer="pod\\n"):
        yield address


@contextlib.contextmanager
def alone(folder: Path, pods: list[network.Address], *, tls: bool) -> Iterator[Subject]:
    """nginx in front of the pods, as its manual says."""
    address = network.Address("127.0.0.1", network.free_port())
    files = certificate_files(folder)
    certificate = "ssl_certificate {}; ssl_certificate_key {};".format(*files) if tls else ""
    servers = " ".join(f"server {each};" for each in pods)
    with nginx(
        folder,
        address,
        FRONT,
        pods=servers,
        host=HOST,
        ssl="ssl" if tls else "",
        certificate=certificate,
    ) as process:
        yield Subject(address, lambda: process.usage().total)


def certificate_files(folder: Path) -> tuple[Path, Path]:
    """A certificate and its key, as files."""
    made = certificates.self_made()
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.certificate)
    paths[1].write_bytes(made.private_key)
    return paths


@contextlib.contextmanager
def nginx(
    folder: Path, address: network.Address, text: str, **more: object
) -> Iterator[processes.Process]:
    """An nginx with this configuration."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(text.format(folder=folder, address=address, **more))
    program = processes.find_program("nginx", "nginx")
    argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with processes.start("nginx", argv, folder) as process:
        processes.wait_listening(process, address)
        yield process


@contextlib.contextmanager
def kproxy(folder: Path, pods: list[network.Address], *flags: str, tls: bool) -> Iterator[Subject]:
    """kproxy as a user starts it."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    manifest = folder / "shop.json"
    comparison.write_objects(manifest, objects(pods))
    places = "--ingress-http", "127.0.0.1:0", "--ingress-https", "127.0.0.1:0"
    with comparison.kproxy(folder, manifest, "--ingress", *places, *flags) as (ready, process):
        address = network.parse(ready["ingress_https" if tls else "ingress_http"])
        yield Subject(address, lambda: process.usage().total + nginx_seconds(process.popen.pid))


def nginx_seconds(parent: int) -> float:
    """The CPU seconds of kproxy's nginx, which has a session of its own."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            is_master = int(fields[1]) == parent
            is_worker = int(fields[2]) != int(entry.name) and _parent(int(fields[1])) == parent
            if is_master or is_worker:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def objects(pods: list[network.Address]) -> list[dict[str, Any]]:
    """A Service of the pods, and an Ingress to it."""
    head = {"apiVersion": "v1", "metadata": {"name": "shop"}}
    subsets = [
        {"addresses": [{"ip": each.host}], "ports": [{"name": "http", "port": each.port}]}
        for each in pods
    ]
    port = {"name": "http", "port": network.free_port(f"127.{CLUSTER_IP.partition('.')[2]}")}
    backend = {"service": {"name": "shop", "port": {"name": "http"}}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": backend}]
    return [
        {**head, "kind": "Service", "spec": {"clusterIP": CLUSTER_IP, "ports": [port]}},
        {**head, "kind": "Endpoints", "subsets": subsets},
        {
            **head,
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "spec": {
                "ingressClassName": "kproxy",
                "rules": [{"host": HOST, "http": {"paths": paths}}],
            },
        },
    ]


if __name__ == "__main__":
    sys.exit(main())
