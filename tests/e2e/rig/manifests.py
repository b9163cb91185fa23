"""Manifests for the tests: written from a few facts, or copies of examples moved into 127/8."""

import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import isolation

EXAMPLES = Path(__file__).parent.parent.parent / "fixtures" / "manifests"

Address = tuple[str, int]

PORT = isolation.port()
"""What Services of tests listen on, unless a test is about a certain port."""

_thirds = itertools.count(1)


def fresh_ip(first: int = 10) -> str:
    """An address of no one else on this machine: 10.N.x.y, or 127.N.x.y for `first` 127."""
    number = next(_thirds)
    return f"{first}.{isolation.octet()}.{number // 250}.{number % 250 + 1}"


def bound(cluster_ip: str) -> str:
    """Where the loopback portal puts an address."""
    return "127." + cluster_ip.split(".", 1)[1]


def free_port(address: str) -> int:
    """A port that nothing has at `address`, over TCP and UDP. Each call gives another one."""
    return isolation.fresh_port(address)


def free_address() -> Address:
    """An address of no one else on this machine, with a port that nothing listens on."""
    ip = fresh_ip(127)
    return ip, free_port(ip)


def service(name: str, cluster_ip: str, port: int, **spec: Any) -> dict[str, Any]:
    """A v1 Service with one unnamed port; `spec` is added to its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": cluster_ip, "ports": [{"port": port}], **spec},
    }


def endpoints(name: str, backends: Iterable[Address]) -> dict[str, Any]:
    """A v1 Endpoints of one unnamed port, each backend on a port of its own."""
    subsets = [
        {"addresses": [{"ip": address}], "ports": [{"port": port}]} for address, port in backends
    ]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name},
        "subsets": subsets,
    }


def write(path: Path, *documents: object) -> Path:
    """Put these documents, and nothing else, into a file, as an editor that renames does."""
    return write_text(path, yaml.safe_dump_all(documents))


def write_text(path: Path, text: str) -> Path:
    """`write` of a text. No reader sees a part of it, or the empty file before it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    scratch.replace(path)
    return path


def example(name: str) -> list[Any]:
    """The documents of an example, with its pods' addresses (10.244/16) moved into 127/8."""
    documents = list(yaml.safe_load_all((EXAMPLES / name).read_text()))
    moved: list[Any] = _moved(documents)
    return moved


def _moved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each) for each in value]
    if isinstance(value, str) and value.startswith("10.244."):
        return bound(str(ipaddress.ip_address(value)))
    return value


def pick(documents: Sequence[Any], kind: str, name: str) -> dict[str, Any]:
    """The document of that kind and name."""
    found: dict[str, Any] = next(
        each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found
