"""The configuration of one kproxy process: a frozen value, checked before anything starts.

The fields of `Config` are the table of settings; see `settings`. To add a setting, add a field:
the flag of `kproxy run`, the environment variable, help, checks and the reference follow from it.
"""

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kproxy import errors, settings
from kproxy.command import settings as command_settings
from kproxy.dns import settings as dns_settings
from kproxy.gateway import settings as gateway_settings
from kproxy.ingress import settings as ingress_settings
from kproxy.model.kinds import services
from kproxy.ops import log
from kproxy.ops.serving import places
from kproxy.ops.views import ready_file
from kproxy.portal import portal_settings
from kproxy.portal.portal import PortalName

if TYPE_CHECKING:
    from kproxy.sources.access.kubeconfig import ClusterAccess

DEFAULT_HEALTHZ = "0.0.0.0:10256"
"""kube-proxy's. Other hosts may ask for it, as load balancers do."""
DEFAULT_METRICS = "127.0.0.1:10249"

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_DAY = 86400.0
_YEAR = 365 * _DAY
_MOST_KEEPALIVE = 32767
"""Linux takes no more for TCP_KEEPIDLE (MAX_TCP_KEEPIDLE, include/net/tcp.h)."""
_MOST_CONNECTIONS = 536_870_908
"""Half of the files that Linux lets one process open at most (fs.nr_open)."""


@dataclass(frozen=True, slots=True)
class _BindAddress:
    """Where an HTTP server listens; "" and "none" mean nowhere."""

    flag: str
    default: str
    metavar: str = "IP:PORT"
    name: str = "address"
    bounds: str = 'an IP address with or without a port; "" or none for nowhere'

    def parse(self, text: str) -> places.TcpPlace | None:
        return bind_address(self.flag, "" if text == "none" else text, self.default)

    def show(self, value: Any) -> str:
        if value is None:
            return "none"
        return f"[{value.host}]:{value.port}" if ":" in value.host else f"{value.host}:{value.port}"

    def absent(self) -> places.TcpPlace | None:
        return bind_address(self.flag, None, self.default)


@dataclass(frozen=True, slots=True)
class _ControlSocket:
    """Where the control socket is; "" and "none" mean nowhere."""

    metavar: str = "PATH"
    name: str = "path"
    bounds: str = '"" or none for nowhere'

    def parse(self, text: str) -> places.UnixPlace | None:
        return control_socket("" if text == "none" else text)

    def show(self, value: Any) -> str:
        return "none" if value is None else str(value.path)


_HEALTHZ = _BindAddress("--healthz-bind-address", DEFAULT_HEALTHZ)
_METRICS = _BindAddress("--metrics-bind-address", DEFAULT_METRICS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(
    portal_settings.PortalSettings,
    command_settings.CommandSettings,
    dns_settings.DnsSettings,
    gateway_settings.GatewaySettings,
    ingress_settings.IngressSettings,
):
    """What `kproxy run` was asked to do. Times are in seconds.

    A value that comes without the command line, as tests make it, has the defaults that stand
    here, and no servers for health, metrics and control.
    """

    manifests: tuple[Path, ...] = settings.setting(
        (),
        settings.Each(settings.File("./manifests")),
        "File or directory of Services and endpoints, followed live; repeatable.",
        short="-f",
    )
    kubeconfig: str | None = settings.setting(
        None,
        settings.Text("PATH", "~/.kube/config", name="path"),
        "Follow the cluster that this names. Without it and --manifests: KUBECONFIG, "
        "~/.kube/config, or the pod's service account.",
    )
    context: str | None = settings.setting(
        None,
        settings.Text("NAME", "kind-kind"),
        "The kubeconfig's context.",
        shown_default="current",
    )
    cluster: "ClusterAccess | None" = None
    """The cluster that `kubeconfig` and `context` lead to; None when manifests are followed."""
    namespaces: frozenset[str] = settings.setting(
        frozenset(),
        settings.Each(settings.Text("NS", "default"), frozenset),
        "Serve only this namespace; repeatable.",
        flag="--namespace",
        short="-n",
        shown_default="all of them",
    )
    portal: PortalName = settings.setting(
        PortalName.LOOPBACK, settings.OneOf(PortalName), "How a ClusterIP becomes connectable."
    )
    strategy: services.Strategy = settings.setting(
        services.Strategy.ROUND_ROBIN,
        settings.OneOf(services.Strategy),
        "How endpoints are chosen; per Service: annotation kproxy.io/strategy.",
    )
    node: str = settings.setting(
        "",
        settings.Text("NAME", "node-1"),
        "This node's name, for Local policies.",
        flag="--hostname-override",
        shown_default="hostname",
    )
    """In lower case, as kube-proxy compares it."""
    node_zone: str = settings.setting(
        "",
        settings.Text("ZONE", "eu-1a"),
        "The zone this node is in, for hints at endpoints.",
        shown_default="the Node's label topology.kubernetes.io/zone",
    )
    allow_loopback_endpoints: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Accept endpoints in 127.0.0.0/8 and ::1, and load balancers' addresses in 127.0.0.0/8.",
    )
    ready_file: Path | None = settings.setting(
        None,
        settings.File("/run/kproxy/ready.json"),
        "Written as JSON when the first sync is done, removed at exit.",
    )
    control: places.UnixPlace | None = settings.setting(
        None,
        _ControlSocket(),
        'Unix socket for kproxy get; "" for none.',
        shown_default="a path of this user's own",
        absent=lambda: control_socket(None),
    )
    healthz: places.TcpPlace | None = settings.setting(
        None,
        _HEALTHZ,
        'Where /healthz and /livez are; "" for nowhere.',
        flag=_HEALTHZ.flag,
        shown_default=DEFAULT_HEALTHZ,
        absent=_HEALTHZ.absent,
    )
    metrics: places.TcpPlace | None = settings.setting(
        None,
        _METRICS,
        'Where /metrics and /proxyMode are; "" for nowhere.',
        flag=_METRICS.flag,
        shown_default=DEFAULT_METRICS,
        absent=_METRICS.absent,
    )
    grace_period: float = settings.setting(
        30.0, settings.Duration(0, _DAY), "How long connections may take to finish at exit."
    )
    half_closed_timeout: float = settings.setting(
        300.0, settings.Duration(0.1, _YEAR), "How long a half-closed connection may be silent."
    )
    idle_timeout: float | None = settings.setting(
        None,
        settings.Duration(0.1, _YEAR),
        "How long an open connection may be silent.",
        shown_default="no limit",
    )
    keepalive_idle: int = settings.setting(
        60,
        settings.WholeSeconds(1, _MOST_KEEPALIVE),
        "How long a peer may be silent before TCP keepalive probes it.",
    )
    max_connections: int | None = settings.setting(
        None,
        settings.Whole(1, _MOST_CONNECTIONS, "connections"),
        "Open connections at once.",
        shown_default="from ulimit -n",
    )
    udp_timeout: float | None = settings.setting(
        None,
        settings.Duration(0.01, _YEAR),
        "How long no datagram may move between a client of UDP and its endpoint, before the flow "
        "ends and the client's next datagram may go to another one.",
        shown_default="30s, and 10s before the first answer",
    )
    max_udp_flows: int | None = settings.setting(
        None,
        settings.Whole(1, 2 * _MOST_CONNECTIONS, "flows"),
        "Clients of UDP, counted by address and port, that are remembered at once.",
        shown_default="from ulimit -n",
    )
    max_affinity_clients: int = settings.setting(
        65536,
        settings.Whole(1, 16_777_216, "clients"),
        "Clients remembered per service port for affinity.",
    )
    max_listeners: int | None = settings.setting(
        None,
        settings.Whole(1, 2 * _MOST_CONNECTIONS, "listeners"),
        "Addresses listened on at once, shared fairly among namespaces and Services.",
        shown_default="from ulimit -n",
    )
    max_ports_per_service: int = settings.setting(
        4096,
        settings.Whole(1, 1_048_576, "ports"),
        "Ports that one Service may have, counted at each of its addresses.",
    )
    max_endpoints_per_service: int = settings.setting(
        100_000,
        settings.Whole(1, 16_777_216, "endpoints"),
        "Endpoints of one Service that get connections, counted at each port.",
    )
    max_services_per_namespace: int = settings.setting(
        20_000,
        settings.Whole(1, 16_777_216, "Services"),
        "Services of one namespace that are served.",
    )
    max_list_objects: int = settings.setting(
        250_000,
        settings.Whole(1, 16_777_216, "objects"),
        "Services, and EndpointSlices, taken from an API server in one namespace or in all.",
    )
    max_list_pages: int = settings.setting(
        10_000,
        settings.Whole(1, 16_777_216, "pages"),
        "Pages of one list taken from an API server.",
    )
    max_list_bytes: int = settings.setting(
        2 * 1024**3,
        settings.Whole(1024, 1024**4, "bytes"),
        "Bytes of one list taken from an API server.",
    )
    proxy_protocol_from: tuple[_Network, ...] = settings.setting(
        (),
        portal_settings.NETWORKS,
        "Require, and believe, a PROXY header of TCP connections from CIDR; repeatable.",
        shown_default="of none",
    )
    oom_score_adj: int | None = settings.setting(
        None,
        settings.Whole(-1000, 1000),
        "How readily the kernel ends this process when memory is short; lowering needs root.",
        shown_default="inherited",
    )
    log_format: log.LogFormat = settings.setting(
        log.LogFormat.TEXT, settings.OneOf(log.LogFormat), "Log lines as text or JSON."
    )
    log_level: log.LogLevel = settings.setting(
        log.LogLevel.INFO, settings.OneOf(log.LogLevel), "Least level that is logged."
    )
    verbose: bool = settings.setting(
        False,  # noqa: FBT003  # a default
        settings.Switch(),
        "Short for --log-level debug.",
        short="-v",
    )

    @property
    def least_level(self) -> log.LogLevel:
        """The least level that is logged, by `log_level` and `verbose`."""
        return log.LogLevel.DEBUG if self.verbose else self.log_level

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        if not self.manifests and self.cluster is None:
            raise errors.ConfigError(
                "no Services to serve: give a file or directory with --manifests, "
                "or a cluster with --kubeconfig"
            )
        self.check_dns(has_cluster=self.cluster is not None, namespaces=self.namespaces)
        if "" in self.namespaces:
            raise errors.ConfigError(
                "--namespace is empty: name a namespace, or leave it out to serve all of them"
            )
        for path in self.manifests:
            if str(path) != "-":
                _check_readable(path)
        if self.ready_file is not None:
            ready_file.check(self.ready_file, self.manifests)


def _check_readable(path: Path) -> None:
    """Refuse a path that exists and may not be read. The source reports one that does not exist.

    Raises ConfigError.
    """
    if not os.access(path, os.F_OK):
        return
    wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, wanted):
        raise errors.ConfigError(
            f"cannot read manifests from {path}: permission denied; allow this user to read it"
        )


def load(flags: Mapping[str, settings.Given], environment: Mapping[str, str]) -> Config:
    """The configuration that a command line and an environment give. Raises ConfigError."""
    given = settings.read(settings.table(Config), flags, environment)
    values = {each.setting.attribute: each.value for each in given}
    values["node"] = node_name(values["node"] or None)
    cluster = cluster_access(
        values["kubeconfig"], values["context"], has_manifests=bool(values["manifests"])
    )
    return Config(cluster=cluster, **values)


def files(cfg: Config, environment: Mapping[str, str]) -> list[Path]:
    """The files that this configuration has read; there may be none at a path."""
    if cfg.cluster is None:
        return list(cfg.manifests)
    from kproxy.sources.access import kubeconfig  # noqa: PLC0415  # files need none of it

    found = kubeconfig.paths(cfg.kubeconfig, environment)
    parts = (cfg.cluster, cfg.cluster.user)
    values = [getattr(each, field.name) for each in parts for field in dataclasses.fields(each)]
    return [*found, *(each for each in values if isinstance(each, Path))]


def cluster_access(
    kubeconfig: str | None, context: str | None, *, has_manifests: bool
) -> "ClusterAccess | None":
    """The cluster to follow; None when manifests are followed, or no cluster is configured.

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
    from kproxy.sources.access import rest_config  # noqa: PLC0415  # files need none of it

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


def bind_address(flag: str, given: str | None, default: str) -> places.TcpPlace | None:
    """The place that `flag` names, as kube-proxy reads it; None for "", which means none.

    `IP:PORT`, or an IP address alone, which gets the default's port; IPv6 may be in brackets,
    and must be before a port. A place that was not `given` is not required. Raises ConfigError.
    """
    if given == "":
        return None
    text = default if given is None else given
    host, _, port = default.rpartition(":")
    try:
        place = settings.ListenAddress(settings.Listen(host, int(port))).parse(text)
    except ValueError as error:
        raise errors.ConfigError(f"{flag} {text}: {error}") from None
    if place is None:
        return None
    return places.TcpPlace(*place, flag, is_required=given is not None)


def control_socket(given: str | None) -> places.UnixPlace | None:
    """Where --control puts the control socket; None for "", which means none."""
    if given == "":
        return None
    if given is None:
        path = places.default_control_path(os.environ, os.geteuid())
        return places.UnixPlace(path, is_required=False, is_private=True)
    return places.UnixPlace(Path(given))
