"""`kproxy run`: flags into a Config, and serve."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kproxy import config, errors
from kproxy.cli import event_loop
from kproxy.model import services
from kproxy.ops import log


class PortalName(StrEnum):
    """Values of --portal."""

    LOOPBACK = "loopback"


def run(
    manifests: Annotated[
        list[str] | None,
        typer.Option(
            "--manifests",
            "-f",
            metavar="PATH",
            help="File or directory of Services and endpoints, followed live; repeatable.",
            show_default=False,
        ),
    ] = None,
    kubeconfig: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Follow the cluster that this names. Without it and --manifests: KUBECONFIG, "
            "~/.kube/config, or the pod's service account.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The kubeconfig's context.", show_default="current"),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace", "-n", metavar="NS", help="Serve only this namespace; repeatable."
        ),
    ] = None,
    portal: Annotated[  # noqa: ARG001  # one portal so far
        PortalName, typer.Option(help="How a ClusterIP becomes connectable.")
    ] = PortalName.LOOPBACK,
    strategy: Annotated[
        services.Strategy,
        typer.Option(help="How endpoints are chosen; per Service: annotation kproxy.io/strategy."),
    ] = services.Strategy.ROUND_ROBIN,
    hostname_override: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="This node's name, for Local policies.", show_default="hostname"
        ),
    ] = None,
    allow_loopback_endpoints: Annotated[  # noqa: FBT002  # a flag
        bool,
        typer.Option("--allow-loopback-endpoints", help="Accept endpoints in 127.0.0.0/8 and ::1."),
    ] = False,
    ready_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Written as JSON when the first sync is done, removed at exit."
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help='Unix socket for kproxy get; "" for none.',
            show_default="a path of this user's own",
        ),
    ] = None,
    healthz_bind_address: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            help='Where /healthz and /livez are; "" for nowhere.',
            show_default=config.DEFAULT_HEALTHZ,
        ),
    ] = None,
    metrics_bind_address: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            help='Where /metrics and /proxyMode are; "" for nowhere.',
            show_default=config.DEFAULT_METRICS,
        ),
    ] = None,
    grace_period: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long connections may take to finish at exit."
        ),
    ] = 30.0,
    half_closed_timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="How long a half-closed connection may be silent."
        ),
    ] = 300.0,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="How long an open connection may be silent.",
            show_default="no limit",
        ),
    ] = None,
    keepalive_idle: Annotated[
        int,
        typer.Option(min=1, help="Seconds of silence before TCP keepalive probes a peer."),
    ] = 60,
    max_connections: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Open connections at once.", show_default="from ulimit -n"
        ),
    ] = None,
    max_affinity_clients: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Clients remembered per service port for affinity."),
    ] = 65536,
    log_format: Annotated[log.LogFormat, typer.Option(help="Log lines as text or JSON.")] = (
        log.LogFormat.TEXT
    ),
    log_level: Annotated[log.LogLevel, typer.Option(help="Least level that is logged.")] = (
        log.LogLevel.INFO
    ),
    verbose: Annotated[  # noqa: FBT002  # a flag
        bool, typer.Option("--verbose", "-v", help="Short for --log-level debug.")
    ] = False,
) -> None:
    """Serve the Services of a cluster, or of manifests, on virtual ClusterIPs until stopped.

    Ctrl-C or SIGTERM stops accepting and lets connections finish; a second one ends at once.
    """
    writer = log.configure(log_format, log.LogLevel.DEBUG if verbose else log_level)
    try:
        chosen = config.Config(
            manifests=tuple(_path("--manifests", each) for each in manifests or ()),
            cluster=config.cluster_access(kubeconfig, context, has_manifests=bool(manifests)),
            namespaces=frozenset(namespace or ()),
            strategy=strategy,
            node=config.node_name(hostname_override),
            allow_loopback_endpoints=allow_loopback_endpoints,
            ready_file=None if ready_file is None else _path("--ready-file", ready_file),
            grace_period=grace_period,
            half_closed_timeout=half_closed_timeout,
            idle_timeout=idle_timeout,
            keepalive_idle=keepalive_idle,
            max_connections=max_connections,
            max_affinity_clients=max_affinity_clients,
            healthz=config.bind_address(
                "--healthz-bind-address", healthz_bind_address, config.DEFAULT_HEALTHZ
            ),
            metrics=config.bind_address(
                "--metrics-bind-address", metrics_bind_address, config.DEFAULT_METRICS
            ),
            control=config.control_socket(control),
        )
        # Half a second, for which nobody who mistyped a flag need wait.
        from kproxy import server  # noqa: PLC0415

        event_loop.run(server.serve(chosen, lambda: writer.dropped))
    finally:
        writer.close()


def _path(flag: str, value: str) -> Path:
    """A path as given. Raises ConfigError for an empty one, which would mean this directory."""
    if not value:
        raise errors.ConfigError(f"{flag} is empty: give it a path, for instance ./manifests")
    return Path(value)
