"""The configuration of one kproxy process: a frozen value, checked before anything starts."""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from kproxy import errors
from kproxy.cluster import rest_config
from kproxy.model import services
from kproxy.ops import places


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What `kproxy run` was asked to do. Times are in seconds.

    `node` is who "this node" is for Local policies, in lower case as kube-proxy compares it.
    """

    manifests: tuple[Path, ...] = ()
    """Files and directories that objects are read from; or else:"""
    cluster: rest_config.ClusterAccess | None = None
    """The cluster that they are read from."""
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
    healthz: places.TcpPlace | None = None
    metrics: places.TcpPlace | None = None
    control: places.UnixPlace | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        if not self.manifests and self.cluster is None:
            raise errors.ConfigError(
                "nothing says which Services to serve: give a file or directory with --manifests, "
                "or a cluster with --kubeconfig"
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


def cluster_access(
    kubeconfig: str | None, context: str | None, *, has_manifests: bool
) -> rest_config.ClusterAccess | None:
    """The cluster to follow; None when manifests are followed, or nothing leads to a cluster.

    Without flags: the kubeconfig that kubectl would use, else the service account of the pod
    this runs in. Raises ConfigError.
    """
    is_asked_for = kubeconfig is not None or context is not None
    if has_manifests:
        if is_asked_for:
            raise errors.ConfigError(
                "--manifests and a cluster (--kubeconfig, --context) exclude each other: give one"
            )
        return None
    if is_asked_for or rest_config.is_available():
        return rest_config.load(kubeconfig, context)
    return None


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


DEFAULT_HEALTHZ = "0.0.0.0:10256"  # kube-proxy's, and its rule that it may be asked from afar
DEFAULT_METRICS = "127.0.0.1:10249"


def bind_address(flag: str, given: str | None, default: str) -> places.TcpPlace | None:
    """The place that `flag` names, as kube-proxy reads it; None for "", which means none.

    `IP:PORT`, or an IP address alone, which gets the default's port; IPv6 may be in brackets,
    and must be before a port. A place that was not `given` is not required. Raises ConfigError.
    """
    if given == "":
        return None
    text = default if given is None else given
    default_port = default.rpartition(":")[2]
    found = re.fullmatch(r"\[(?P<v6>[^]]*)\](:(?P<p6>\d+))?|(?P<v4>[^:]*)(:(?P<p4>\d+))?", text)
    host = (found["v6"] or found["v4"]) if found else text
    port = int((found and (found["p6"] or found["p4"])) or default_port)
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        raise errors.ConfigError(
            f"{flag} {text}: not an address to listen on, give IP:PORT, for instance {default}"
        ) from None
    if port > 65535:
        raise errors.ConfigError(f"{flag} {text}: port {port} is not between 0 and 65535")
    return places.TcpPlace(str(address), port, flag, is_required=given is not None)


def control_socket(given: str | None) -> places.UnixPlace | None:
    """Where --control puts the control socket; None for "", which means none."""
    if given == "":
        return None
    if given is None:
        path = places.default_control_path(os.environ, os.geteuid())
        return places.UnixPlace(path, is_required=False, is_private=True)
    return places.UnixPlace(Path(given))
