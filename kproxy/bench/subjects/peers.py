"""The peers: no proxy, plain Python, and well-known proxies.

Every peer runs as its own default would run, in one thread or worker, with the same connect
timeout (1 s) where it has one, balancing round robin where it balances.
"""

import contextlib
import json
import platform
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.subjects import subject


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy: the client connects to the (first) endpoint."""

    name: str = "direct"

    def measures(self, scenario: str) -> bool:
        """One endpoint, and many Services: how long a measurement takes without any proxy."""
        return scenario in subject.ONE_ENDPOINT | {"services"}

    @contextlib.contextmanager
    def start(
        self,
        services: subject.Services,
        place: subject.Place,  # noqa: ARG002 (the protocol)
    ) -> Iterator[subject.Running]:
        """Nothing is started: the frontends are the endpoints."""
        yield subject.Running(tuple(endpoints[0] for endpoints in services))

    def version(self) -> str:
        """A sentence for the list of versions."""
        return "no proxy"


@dataclass(frozen=True, slots=True)
class Streams:
    """asyncio's streams, on asyncio's own loop or on uvloop's (`name` says which)."""

    name: str

    def measures(self, scenario: str) -> bool:
        """Everything but the scenarios at sizes for which it is not made."""
        return scenario in subject.ONE_ENDPOINT | {"idle", "faults", "strategies"}

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """`streams_proxy` in a process of its own, with a listener per Service."""
        frontends = place.frontends(len(services))
        argv = [sys.executable, "-m", "kproxy.bench.subjects.streams_proxy", self.name]
        argv += [
            f"{frontend}={','.join(map(str, endpoints))}"
            for frontend, endpoints in zip(frontends, services, strict=True)
        ]
        with subject.listening(self.name, argv, frontends, place) as running:
            yield running

    def version(self) -> str:
        """The version of Python, or of uvloop. Raises KproxyError when that is not installed."""
        if self.name == "asyncio":
            return f"asyncio streams on Python {platform.python_version()}"
        try:
            return f"asyncio streams on uvloop {metadata.version('uvloop')}"
        except metadata.PackageNotFoundError:
            raise errors.KproxyError("uvloop is not installed; pip install uvloop") from None


@dataclass(frozen=True, slots=True)
class HAProxy:
    """HAProxy, mode tcp, one thread. `checks` turns active health checks on, `splice` splicing."""

    name: str = "haproxy"
    checks: bool = False
    splice: bool = False

    def measures(self, scenario: str) -> bool:
        """Everything without ClientIP affinity; with health checks, only faults."""
        if self.checks:
            return scenario == "faults"
        return scenario not in {"affinity", "churn"}

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """One process with a `listen` section per Service."""
        frontends = place.frontends(len(services))
        config = place.folder / f"{self.name}-{frontends[0].port}.cfg"
        config.write_text(self._config(frontends, services))
        argv = [processes.find_program("haproxy", "haproxy"), "-db", "-f", str(config)]
        with subject.listening(self.name, argv, frontends, place) as running:
            yield running

    def version(self) -> str:
        """Raises KproxyError when it is not installed."""
        return processes.first_line(processes.find_program("haproxy", "haproxy"), "-v")

    def _config(self, frontends: tuple[network.Address, ...], services: subject.Services) -> str:
        check = " check inter 1s fall 2 rise 2" if self.checks else ""
        lines = [
            "global",
            "    nbthread 1",
            f"    maxconn {_haproxy_connections(len(services))}",
            "    maxpipes 256" if self.splice else "",
            "defaults",
            "    mode tcp",
            "    timeout connect 1s",
            "    timeout client 1h",
            "    timeout server 1h",
            "    retries 3",
            "    option redispatch 1",
            "    option splice-auto" if self.splice else "",
        ]
        for number, (frontend, endpoints) in enumerate(zip(frontends, services, strict=True)):
            lines += [f"listen bench-{number}", f"    bind {frontend}", "    balance roundrobin"]
            lines += [f"    server s{i} {each}{check}" for i, each in enumerate(endpoints)]
        return "\n".join([*lines, ""])


def _haproxy_connections(listeners: int) -> int:
    """HAProxy does not start unless two files per connection fit beside its listeners."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(100, min(9000, (limit - listeners) // 2 - 100))


_NGINX_MAIN = """daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
error_log stderr crit;
events { worker_connections 19000; }
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """nginx's stream module, one worker."""

    name: str = "nginx"

    def measures(self, scenario: str) -> bool:
        """Everything without ClientIP affinity."""
        return scenario not in {"affinity", "churn"}

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """One worker with a `server` block per Service."""
        frontends = place.frontends(len(services))
        program = processes.find_program("nginx", "nginx")
        folder = place.folder / f"nginx-{frontends[0].port}"
        folder.mkdir()
        config = folder / "nginx.conf"
        main = f"{load_stream_module(program)}pid {folder}/nginx.pid;\n{_NGINX_MAIN}"
        config.write_text(f"{main}stream {{\n{_nginx_stream(frontends, services)}}}\n")
        argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
        with subject.listening(self.name, argv, frontends, place) as running:
            yield running

    def version(self) -> str:
        """Raises KproxyError when nginx, or its stream module, is not installed."""
        program = processes.find_program("nginx", "nginx")
        load_stream_module(program)
        return processes.first_line(program, "-v")


def _nginx_stream(frontends: tuple[network.Address, ...], services: subject.Services) -> str:
    blocks = ["    proxy_connect_timeout 1s;\n    proxy_timeout 1h;\n"]
    for number, (frontend, endpoints) in enumerate(zip(frontends, services, strict=True)):
        servers = " ".join(f"server {each};" for each in endpoints)
        blocks.append(f"    upstream u{number} {{ {servers} }}\n")
        blocks.append(f"    server {{ listen {frontend} backlog=4096; proxy_pass u{number}; }}\n")
    return "".join(blocks)


def load_stream_module(program: str) -> str:
    """The directive that nginx needs first, where its stream module is a file of its own."""
    built = subprocess.run(  # noqa: S603 (nginx, found above)
        [program, "-V"], capture_output=True, text=True, timeout=10, check=False
    ).stderr
    if "--with-stream=dynamic" not in built:
        return ""
    modules = re.search(r"--modules-path=(\S+)", built)
    module = Path(modules[1] if modules else ".") / "ngx_stream_module.so"
    if not module.exists():
        raise errors.KproxyError(
            "nginx has no stream module; install the Debian package libnginx-mod-stream"
        )
    return f"load_module {module};\n"


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy's TCP proxy, one worker thread."""

    name: str = "envoy"

    def measures(self, scenario: str) -> bool:
        """Everything without ClientIP affinity."""
        return scenario not in {"affinity", "churn"}

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """One process with a listener and a static cluster per Service."""
        frontends = place.frontends(len(services))
        config = place.folder / f"envoy-{frontends[0].port}.json"
        config.write_text(json.dumps(envoy_config(frontends, services)))
        argv = [
            processes.find_program("envoy", "envoy"),
            *("--config-path", str(config), "--concurrency", "1", "--log-level", "error"),
            *("--disable-hot-restart", "--drain-time-s", "1"),
        ]
        with subject.listening(self.name, argv, frontends, place) as running:
            yield running

    def version(self) -> str:
        """Raises KproxyError when it is not installed."""
        return processes.first_line(processes.find_program("envoy", "envoy"), "--version")


def envoy_config(
    frontends: Sequence[network.Address], services: subject.Services
) -> dict[str, object]:
    """A static bootstrap configuration: no administration, no limits but what a test needs.

    `max_connect_attempts` 4 is what kproxy's ladder has. Connections are not balanced between
    listeners, since there is one worker.
    """
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": f"bench-{number}",
                    "address": _envoy_address(frontend),
                    "tcp_backlog_size": 4096,
                    "filter_chains": [{"filters": [_envoy_filter(f"bench-{number}")]}],
                }
                for number, frontend in enumerate(frontends)
            ],
            "clusters": [
                {
                    "name": f"bench-{number}",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "lb_policy": "ROUND_ROBIN",
                    "circuit_breakers": {"thresholds": [_ENVOY_LIMITS]},
                    "load_assignment": {
                        "cluster_name": f"bench-{number}",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {"endpoint": {"address": _envoy_address(each)}}
                                    for each in endpoints
                                ]
                            }
                        ],
                    },
                }
                for number, endpoints in enumerate(services)
            ],
        }
    }


_ENVOY_LIMITS = {"max_connections": 20000, "max_pending_requests": 20000, "max_retries": 20000}
"""Its defaults are 1,024, 1,024 and 3: a test of 10,000 idle connections would measure them."""


def _envoy_filter(cluster: str) -> dict[str, object]:
    kind = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"type.googleapis.com/{kind}",
            "stat_prefix": cluster,
            "cluster": cluster,
            "max_connect_attempts": 4,
        },
    }


def _envoy_address(address: network.Address) -> dict[str, object]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


@dataclass(frozen=True, slots=True)
class Socat:
    """socat, which forks for each connection: what a shell script would do."""

    name: str = "socat"

    def measures(self, scenario: str) -> bool:
        """Only scenarios with one endpoint."""
        return scenario in subject.ONE_ENDPOINT

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """A process, and one more for each connection."""
        [frontend] = frontends = place.frontends(1)
        listen = f"TCP4-LISTEN:{frontend.port},bind={frontend.host},fork,reuseaddr,backlog=4096"
        argv = [processes.find_program("socat", "socat"), listen, f"TCP4:{services[0][0]}"]
        with subject.listening(self.name, argv, frontends, place) as running:
            yield running

    def version(self) -> str:
        """Raises KproxyError when it is not installed."""
        program = processes.find_program("socat", "socat")
        printed = subprocess.run(  # noqa: S603 (found above)
            [program, "-V"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
        found = re.search(r"socat version (\S+)", printed)
        return f"socat {found[1] if found else 'of unknown version'}"


@dataclass(frozen=True, slots=True)
class Custom:
    """Any command: `{listen}` and `{backend}` (or `{backends}`, by commas) become HOST:PORT."""

    name: str
    command: str

    def measures(self, scenario: str) -> bool:
        """One endpoint; spread and faults only if the command takes several."""
        balancing = {"faults", "strategies"} if "{backends}" in self.command else frozenset()
        return scenario in subject.ONE_ENDPOINT | balancing

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """A process per Service. The first one is measured: for that there is one Service."""
        frontends = place.frontends(len(services))
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(
                    subject.listening(self.name, self._argv(*each), each[:1], place)
                )
                for each in zip(frontends, services, strict=True)
            ]
            yield subject.Running(frontends, started[0].process)

    def _argv(self, listen: network.Address, backends: Sequence[network.Address]) -> list[str]:
        command = self.command.replace("{listen}", str(listen))
        command = command.replace("{backends}", ",".join(map(str, backends)))
        return shlex.split(command.replace("{backend}", str(backends[0])))

    def version(self) -> str:
        """The command itself, since its version is unknown."""
        return self.command


KNOWN: dict[str, subject.Subject] = {
    each.name: each
    for each in (
        HAProxy(),
        HAProxy("haproxy-splice", splice=True),
        HAProxy("haproxy-checks", checks=True),
        Nginx(),
        Envoy(),
        Socat(),
    )
}
DEFAULT = ("haproxy", "nginx", "envoy")
"""The peers that are compared where they are installed, if the user names no others."""

NOT_MISSED = frozenset({"envoy"})
"""Default peers that may be absent without a warning: few systems have a package of them."""

ALWAYS: tuple[subject.Subject, ...] = (Direct(), Streams("asyncio"), Streams("uvloop"))
"""Compared with in every run: they need nothing but Python."""


def parse(text: str) -> list[subject.Subject]:
    """The peers of one `--peers` value: names by commas, or one `NAME=COMMAND`.

    Raises ConfigError for an unknown name or a command without `{listen}`.
    """
    name, equals, command = text.partition("=")
    if equals and "," not in name:
        if not re.fullmatch(r"[\w.-]+", name):
            raise errors.ConfigError(
                f"--peers: {name!r} is no name for a peer; use letters, digits, dots, hyphens"
            )
        if "{listen}" not in command or "{backend" not in command:
            raise errors.ConfigError(
                f"--peers: the command of {name!r} needs {{listen}} and {{backend}} in it"
            )
        return [Custom(name, command)]
    names = [part.strip() for part in text.split(",") if part.strip()]
    for part in names:
        if part not in KNOWN:
            known = ", ".join(KNOWN)
            raise errors.ConfigError(
                f"--peers: unknown peer {part!r}; known are {known} and NAME=COMMAND"
            )
    return [KNOWN[part] for part in names]
