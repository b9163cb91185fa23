"""The configuration of one kproxy process: a frozen value, checked before anything starts."""

import socket
from dataclasses import dataclass
from pathlib import Path

from kproxy import errors
from kproxy.model import services


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `kproxy run` was asked to do. Times are in seconds.

    `node` is who "this node" is for Local policies, in lower case as kube-proxy compares it.
    """

    manifests: tuple[Path, ...]
    namespaces: frozenset[str] = frozenset()
    """Empty: all of them."""
    strategy: services.Strategy = services.Strategy.ROUND_ROBIN
    node: str = ""
    allow_loopback_endpoints: bool = False
    ready_file: Path | None = None
    grace_period: float = 30.0
    half_closed_timeout: float = 300.0
    idle_timeout: float | None = None
    max_connections: int | None = None
    max_affinity_clients: int = 65536

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        if not self.manifests:
            raise errors.ConfigError(
                "nothing says which Services to serve: give a file or directory with --manifests"
            )
        if self.ready_file is not None and not self.ready_file.parent.is_dir():
            raise errors.ConfigError(
                f"--ready-file {self.ready_file}: its directory does not exist, create it first"
            )


def node_name(override: str | None) -> str:
    """This node's name: the override or the hostname, trimmed and in lower case.

    The rule of kube-proxy's `--hostname-override`. Raises ConfigError when nothing is left of
    an override.
    """
    if override is None:
        return socket.gethostname().strip().lower()
    name = override.strip().lower()
    if not name:
        raise errors.ConfigError("--hostname-override is empty: name this node, or leave it out")
    return name
