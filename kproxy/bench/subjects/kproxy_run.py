"""kproxy as a user starts it: `kproxy run` on manifests, but without log and grace period."""

import contextlib
import itertools
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kproxy
from kproxy import errors
from kproxy.bench.lab import network, processes
from kproxy.bench.subjects import subject
from kproxy.model import forwarding

RUN = (sys.executable, "-m", "kproxy", "run")
_FIRST_CLUSTER_IP = (127, 96, 0, 10)
_PORT_NAME = "tcp"


@dataclass(frozen=True, slots=True)
class Kproxy:
    """`strategy` and `affinity` are those of every Service; "" and None mean the default."""

    name: str = "kproxy"
    strategy: str = ""
    affinity: bool = False
    command: tuple[str, ...] = RUN

    def measures(self, scenario: str) -> bool:  # noqa: ARG002 (the protocol)
        """All of them, churn included."""
        return True

    @contextlib.contextmanager
    def start(self, services: subject.Services, place: subject.Place) -> Iterator[subject.Running]:
        """Yields once the first sync is done, as the ready file says."""
        folder = place.folder / f"{self.name}-{network.free_port()}"
        folder.mkdir()
        manifests, ready = folder / "manifests", folder / "ready.json"
        manifests.mkdir()
        port = network.free_port("127.96.0.10")
        objects = [_service(i, port, self.strategy, affinity=self.affinity)
                   for i in range(len(services))]  # fmt: skip
        objects += [_endpoints(i, each) for i, each in enumerate(services[:-1])]
        _write(manifests / "services.json", objects)
        change = _Change(manifests, len(services) - 1)
        change(services[-1])
        argv = [*place.wrapper, *self.command, "--manifests", str(manifests)]
        argv += ["--ready-file", str(ready), "--allow-loopback-endpoints"]
        argv += ["--grace-period", "0", "--log-level", "error"]
        # Its control socket must not be that of a kproxy the user runs beside the benchmark.
        environment = {"XDG_RUNTIME_DIR": str(folder)}
        with processes.start(self.name, argv, folder, environment=environment) as process:
            processes.wait_until(process, ready.exists, "did not report that it is ready")
            frontends = _frontends(ready.read_bytes(), len(services))
            yield subject.Running(frontends, process, change)

    def version(self) -> str:
        """The version of this package."""
        return f"kproxy {kproxy.__version__} on Python {platform.python_version()}"


class _Change:
    """Puts other endpoints behind one Service, by replacing the file that has only them."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number

    def __call__(self, endpoints: Sequence[network.Address]) -> None:
        """Write the file anew, in one step."""
        draft = self._folder / ".draft"
        _write(draft, [_endpoints(self._number, endpoints)])
        draft.replace(self._folder / "changing.json")


def cluster_ip(number: int) -> str:
    """The ClusterIP of Service `number`: from 127.96.0.10 on."""
    first = int.from_bytes(_FIRST_CLUSTER_IP)
    return ".".join(map(str, (first + number).to_bytes(4)))


def _meta(number: int) -> dict[str, Any]:
    return {"name": f"bench-{number}", "namespace": "default"}


def _service(number: int, port: int, strategy: str, *, affinity: bool) -> dict[str, Any]:
    meta = _meta(number)
    if strategy:
        meta["annotations"] = {"kproxy.io/strategy": strategy}
    spec: dict[str, Any] = {
        "clusterIP": cluster_ip(number),
        "ports": [{"name": _PORT_NAME, "port": port}],
    }
    if affinity:
        spec["sessionAffinity"] = "ClientIP"
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def _endpoints(number: int, endpoints: Sequence[network.Address]) -> dict[str, Any]:
    by_port = itertools.groupby(sorted(endpoints, key=lambda e: e.port), lambda e: e.port)
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": _meta(number),
        "subsets": [
            {
                "addresses": [{"ip": each.host} for each in group],
                "ports": [{"name": _PORT_NAME, "port": port}],
            }
            for port, group in by_port
        ],
    }


def _write(path: Path, objects: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _frontends(ready: bytes, count: int) -> tuple[network.Address, ...]:
    """Where the Services are bound, in their order, from the ready file."""
    try:
        bound = {
            service["name"]: frontend
            for service in json.loads(ready)["services"]
            for frontend in service["frontends"]
        }
        frontends = [bound[f"bench-{number}"] for number in range(count)]
        for each in frontends:
            if each["state"] == forwarding.FrontendState.UNAVAILABLE:
                raise errors.KproxyError(f"kproxy cannot serve a benchmark: {each['detail']}")
        return tuple(
            network.Address(each["bound_address"], int(each["bound_port"])) for each in frontends
        )
    except (KeyError, TypeError, ValueError) as error:
        raise errors.KproxyError(f"kproxy's ready file lacks an address ({error!r})") from error
