"""The proxies compared. A peer turns a list of backends into an address that leads to them.

Every peer runs as its own default would run, in one thread or worker, with the same connect
timeout (1 s) where it has one, balancing round robin.
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

import kproxy
from benchmarks import naive_proxy, processes
from benchmarks.processes import Address, BenchmarkError, Process

CONNECT, REQUEST, BULK, LATENCY, IDLE, BLACKHOLE = SCENARIOS = (
    "connect",
    "request",
    "bulk",
    "latency",
    "idle",
    "blackhole",
)

KPROXY_RUN = (sys.executable, "-m", "kproxy", "run")
_CLUSTER_IP = "127.96.0.10"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A started peer: where to connect, and the process to weigh (None: nothing in between)."""

    address: Address
    process: Process | None


class Peer(Protocol):
    """One column of the result."""

    @property
    def name(self) -> str: ...

    def measures(self, scenario: str) -> bool:
        """Whether the scenario says something about this peer."""

    def start(
        self, backends: Sequence[Address], folder: Path
    ) -> contextlib.AbstractContextManager[Proxy]:
        """Run a fresh proxy to `backends`; it and its children are gone when the context ends.

        Raises BenchmarkError when it does not come up.
        """

    def version(self) -> str:
        """The program and its version; BenchmarkError when it is not installed."""


@contextlib.contextmanager
def _listening(name: str, argv: Sequence[str], address: Address, folder: Path) -> Iterator[Proxy]:
    with processes.start(name, argv, folder) as process:
        processes.wait_listening(process, address)
        yield Proxy(address, process)


def program(name: str, package: str) -> str:
    """The full path of a program; BenchmarkError names the Debian package that has it."""
    for path in (None, "/usr/sbin:/usr/local/sbin"):
        if found := shutil.which(name, path=path):
            return found
    raise BenchmarkError(f"{name} is not installed; install the Debian package {package}.")


def first_line(*argv: str) -> str:
    """The first line a program prints about itself, on stdout or stderr."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return "unknown"
    return (done.stdout + done.stderr).strip().partition("\n")[0].strip()


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy: the client connects to the backend."""

    name: str = "direct"

    def measures(self, scenario: str) -> bool:
        return scenario not in {IDLE, BLACKHOLE}

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:  # noqa: ARG002 (the Peer protocol)
        yield Proxy(backends[0], None)

    def version(self) -> str:
        return "no proxy"


@dataclass(frozen=True, slots=True)
class HAProxy:
    """HAProxy, mode tcp, one thread. `checks` turns active health checks on, `splice` splicing."""

    name: str = "haproxy"
    checks: bool = False
    splice: bool = False

    def measures(self, scenario: str) -> bool:
        return scenario == BLACKHOLE if self.checks else True

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:
        address = processes.free_address()
        config = folder / f"{self.name}-{address.port}.cfg"
        config.write_text(self._config(address, backends))
        argv = [program("haproxy", "haproxy"), "-db", "-f", str(config)]
        with _listening(self.name, argv, address, folder) as proxy:
            yield proxy

    def version(self) -> str:
        return first_line(program("haproxy", "haproxy"), "-v")

    def _config(self, address: Address, backends: Sequence[Address]) -> str:
        check = " check inter 1s fall 2 rise 2" if self.checks else ""
        servers = [f"    server s{i} {b}{check}" for i, b in enumerate(backends)]
        return "\n".join(
            [
                "global",
                "    nbthread 1",
                "    maxconn 9000",
                "    maxpipes 256" if self.splice else "",
                "defaults",
                "    mode tcp",
                "    timeout connect 1s",
                "    timeout client 1h",
                "    timeout server 1h",
                "    retries 3",
                "    option redispatch 1",
                "    option splice-auto" if self.splice else "",
                "listen bench",
                f"    bind {address}",
                "    balance roundrobin",
                *servers,
                "",
            ]
        )


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx's stream module, one worker."""

    name: str = "nginx"

    def measures(self, scenario: str) -> bool:  # noqa: ARG002 (the Peer protocol)
        return True

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:
        address = processes.free_address()
        servers = "\n".join(f"        server {b};" for b in backends)
        config = nginx_config(
            folder,
            address.port,
            f"""stream {{
    proxy_connect_timeout 1s;
    proxy_timeout 1h;
    upstream backends {{
{servers}
    }}
    server {{
        listen {address} backlog=4096;
        proxy_pass backends;
    }}
}}
""",
        )
        with _listening(self.name, nginx_command(config), address, folder) as proxy:
            yield proxy

    def version(self) -> str:
        return first_line(program("nginx", "nginx"), "-v")


def nginx_command(config: Path) -> list[str]:
    """How to run nginx in the foreground with this configuration."""
    folder = str(config.parent)
    return [program("nginx", "nginx"), "-p", folder, "-e", "stderr", "-c", str(config)]


def nginx_config(folder: Path, unique: int, body: str) -> Path:
    """Write a one-worker configuration around `body` (a `stream` or `http` block)."""
    config = folder / f"nginx-{unique}.conf"
    built = subprocess.run(
        [program("nginx", "nginx"), "-V"], capture_output=True, text=True, timeout=10, check=False
    ).stderr
    modules = re.search(r"--modules-path=(\S+)", built)
    stream = Path(modules[1] if modules else ".") / "ngx_stream_module.so"
    if body.startswith("stream") and "--with-stream=dynamic" in built:
        if not stream.exists():
            raise BenchmarkError(
                "nginx has no stream module; install the Debian package libnginx-mod-stream."
            )
        body = f"load_module {stream};\n{_NGINX_MAIN}{body}"
    else:
        body = f"{_NGINX_MAIN}{body}"
    config.write_text(f"pid {folder}/nginx-{unique}.pid;\n{body}")
    return config


_NGINX_MAIN = """daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr crit;
events { worker_connections 16000; }
"""


@dataclass(frozen=True, slots=True)
class Naive:
    """Plain asyncio streams (`benchmarks.naive_proxy`): a naive reference."""

    name: str = "asyncio"

    def measures(self, scenario: str) -> bool:  # noqa: ARG002 (the Peer protocol)
        return True

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:
        address = processes.free_address()
        module = [sys.executable, "-m", "benchmarks.naive_proxy"]
        argv = [*module, str(address), *map(str, backends)]
        with _listening(self.name, argv, address, folder) as proxy:
            yield proxy

    def version(self) -> str:
        return f"asyncio streams on {naive_proxy.loop_name()} (naive reference)"


@dataclass(frozen=True, slots=True)
class Kproxy:
    """kproxy as a user starts it: `kproxy run` on a manifest, everything at its default.

    `command` replaces the leading `python -m kproxy run`; the flags are appended to it.
    """

    command: tuple[str, ...] = KPROXY_RUN
    name: str = "kproxy"

    def measures(self, scenario: str) -> bool:  # noqa: ARG002 (the Peer protocol)
        return True

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:
        port = processes.free_address(_CLUSTER_IP).port
        manifest, ready = folder / f"bench-{port}.yaml", folder / f"ready-{port}.json"
        manifest.write_text(yaml.safe_dump_all(_manifest(port, backends), sort_keys=False))
        argv = [*self.command, "--manifests", str(manifest), "--ready-file", str(ready)]
        argv.append("--allow-loopback-endpoints")
        # Its control socket must not meet that of a kproxy the user runs beside the benchmark.
        environment = {"XDG_RUNTIME_DIR": str(folder)}
        with processes.start(self.name, argv, folder, environment=environment) as process:
            address = _bound_address(processes.wait_for_file(process, ready))
            yield Proxy(address, process)

    def version(self) -> str:
        commit = first_line("git", "-C", str(processes.ROOT), "describe", "--always", "--dirty")
        python = ".".join(map(str, sys.version_info[:3]))
        return f"kproxy {kproxy.__version__} ({commit}) on Python {python}"


def _manifest(port: int, backends: Sequence[Address]) -> list[dict[str, object]]:
    meta = {"name": "bench", "namespace": "default"}
    subsets = [
        {"addresses": [{"ip": b.host}], "ports": [{"name": "tcp", "port": b.port}]}
        for b in backends
    ]
    spec = {"clusterIP": _CLUSTER_IP, "ports": [{"name": "tcp", "port": port}]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets},
    ]


def _bound_address(ready: bytes) -> Address:
    """Where the only Service is bound, from the ready file (design section 7)."""
    try:
        [service] = json.loads(ready)["services"]
        [frontend] = service["frontends"]
        return Address(frontend["bound_address"], int(frontend["bound_port"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(f"kproxy's ready file lacks the bound address ({error!r}).") from error


@dataclass(frozen=True, slots=True)
class Custom:
    """Any command: `{listen}` and `{backend}` (or `{backends}`, by commas) become HOST:PORT."""

    name: str
    command: str

    def measures(self, scenario: str) -> bool:
        return scenario != BLACKHOLE or "{backends}" in self.command

    @contextlib.contextmanager
    def start(self, backends: Sequence[Address], folder: Path) -> Iterator[Proxy]:
        address = processes.free_address()
        values = {
            "{listen}": str(address),
            "{backend}": str(backends[0]),
            "{backends}": ",".join(map(str, backends)),
        }
        command = self.command
        for placeholder, value in values.items():
            command = command.replace(placeholder, value)
        with _listening(self.name, shlex.split(command), address, folder) as proxy:
            yield proxy

    def version(self) -> str:
        return self.command


KNOWN: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Direct(),
        HAProxy(),
        HAProxy("haproxy-splice", splice=True),
        HAProxy("haproxy-checks", checks=True),
        Nginx(),
        Naive(),
    )
}
DEFAULT = ("direct", "haproxy", "haproxy-checks", "nginx", "asyncio")


def parse(text: str) -> list[Peer]:
    """The peers of one `--peers` value: names by commas, or one `NAME=COMMAND`.

    Raises ValueError, with a sentence, for an unknown name or a command without `{listen}`.
    """
    name, equals, command = text.partition("=")
    if equals and "," not in name:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"{name!r} is no name for a peer; use letters, digits, dots, hyphens")
        if "{listen}" not in command or "{backend" not in command:
            raise ValueError(f"the command of {name!r} needs {{listen}} and {{backend}} in it")
        return [Custom(name, command)]
    names = [part.strip() for part in text.split(",") if part.strip()]
    for part in names:
        if part not in KNOWN:
            raise ValueError(f"unknown peer {part!r}; known are {', '.join(KNOWN)}, NAME=COMMAND")
    return [KNOWN[part] for part in names]
