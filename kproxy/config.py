"""The configuration of one kproxy process: a frozen value, checked before anything starts."""

import os
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
    keepalive_idle: int = 60
    max_connections: int | None = None
    max_affinity_clients: int = 65536

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        if not self.manifests:
            raise errors.ConfigError(
                "nothing says which Services to serve: give a file or directory with --manifests"
            )
        if "" in self.namespaces:
            raise errors.ConfigError(
                "--namespace is empty: name a namespace, or leave it out to serve all of them"
            )
        for path in self.manifests:
            _check_readable(path)
        if self.ready_file is not None:
            _check_ready_file(self.ready_file, self.manifests)


def _check_readable(path: Path) -> None:
    """Refuse what exists and may not be read; that it exists is for the source of objects to say.

    Raises ConfigError.
    """
    if not os.access(path, os.F_OK):
        return
    wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, wanted):
        raise errors.ConfigError(
            f"cannot read manifests from {path}: permission denied; allow this user to read it"
        )


def _check_ready_file(path: Path, manifests: tuple[Path, ...]) -> None:
    """Refuse a place that the ready file cannot have, or must not take. Raises ConfigError."""
    if not path.parent.is_dir():
        raise errors.ConfigError(
            f"--ready-file {path}: its directory does not exist, create it first"
        )
    # It is put in place by a rename and removed at exit: a device would be lost to everyone.
    if os.path.lexists(path) and not path.is_file():
        raise errors.ConfigError(
            f"--ready-file {path}: something other than a regular file is there, name another path"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise errors.ConfigError(
            f"--ready-file {path}: this user may not write to its directory, name another path"
        )
    taken = {each.resolve() for each in manifests}
    if path.resolve() in taken or path.parent.resolve() in taken:
        raise errors.ConfigError(
            f"--ready-file {path}: manifests are read from there, name a path elsewhere"
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
