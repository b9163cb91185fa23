"""START HERE: builds the pipeline, runs it, and stops it.

    where objects come from      what should be true    make it so           which, and how bytes move

    sources.api              →   sources.Store      →   reconcile.Proxier →  plane
      a cluster, or              model.Service          portal: where        balancer: which endpoint
    sources.files                model.Endpoint         to listen            datapath: client ↔ backend
      files, followed live

`Server` is the composition root. Nothing below it reads `Config`: values arrive as arguments.
"""  # noqa: E501  # a picture

import gc
import time
from asyncio import TaskGroup
from collections.abc import Callable

import structlog

from kproxy import config, events, lifecycle, process, ready_file, turns
from kproxy.datapath import data_path
from kproxy.model import names
from kproxy.ops import health, node_health, surface
from kproxy.ops.prometheus import durations
from kproxy.ops.views import observed, status
from kproxy.plane import in_process, plane
from kproxy.portal import budget, portal, registry
from kproxy.reconcile import reconciler, report, rules
from kproxy.sources import source

_log = structlog.get_logger(__name__)


class Server:
    """One proxy: a source of objects, a reconciler, a data plane. Lives on the running event loop.

    Raises ConfigError when the configuration cannot work. `run` serves until `stop`.
    `dropped_log_lines` is for the metrics.
    """

    def __init__(
        self, cfg: config.Config, dropped_log_lines: Callable[[], int] = lambda: 0
    ) -> None:
        self._grace_period = cfg.grace_period
        self.feed = events.Feed()
        """Facts about this proxy, for subscribers."""
        self._source = make_source(cfg)
        self._plane = make_plane(cfg, self.feed)
        self._portal = make_portal(cfg)
        self._syncs = health.SyncRecord()
        self._node_health = node_health.NodeHealth(
            self._plane, lambda: self._syncs.is_ready, self.feed, time.monotonic
        )
        self._reconciler = reconciler.Reconciler(
            self._source,
            self._node_health,
            options(cfg, self._portal, self._plane.protocols),
            self._syncs,
            namespaces=cfg.namespaces,
            room=budget.Budget(self._plane.max_listeners, cfg.max_services_per_namespace),
            before_full_sync=self._bar_own_addresses,
        )
        self.observed = observed.Observed(
            source=self._source,
            proxier=self._reconciler.proxier,
            plane=self._plane,
            reporter=self._reconciler.reporter,
            runner=self._reconciler.runner,
            syncs=self._syncs,
            lag=durations.Histogram(durations.LAG_BUCKETS),
            feed=self.feed,
            dropped_log_lines=dropped_log_lines,
        )
        """The parts, to read: what metrics, health and status are made of."""
        self._surface = surface.Surface(
            self.observed, healthz=cfg.healthz, metrics=cfg.metrics, control_socket=cfg.control
        )
        self._announcement = lifecycle.Announcement(
            self.observed,
            self._reconciler.is_served,
            self._surface.addresses,
            ready_file.ReadyFile(cfg.ready_file) if cfg.ready_file else None,
        )
        self._shutdown = lifecycle.Shutdown(self._syncs)

    async def run(self) -> None:
        """Serve until `stop`, then let connections finish, and leave nothing behind.

        Raises KproxyError when an address of the ops servers cannot be had, and, after connections
        have finished, when the ready file could not be written or the data plane has ended.
        """
        try:
            self._announcement.remove_stale()
            self._portal.recover()
            for name, descriptor in self._portal.listeners.items():
                self._plane.share(name, descriptor)
            self._surface.bind()
            self._bar_own_addresses()
            self._portal.follow(self._reconciler.look_again)
            async with TaskGroup() as group:
                watched = group.create_task(self._surface.run(), name="ops")
                asked = group.create_task(self._node_health.run(), name="health checks")
                await self._follow()
                drained = self._shutdown.drain(self._plane, self._grace_period)
                await self._shutdown.fail_with(drained)
                watched.cancel()
                asked.cancel()
            if self._shutdown.failure is not None:
                raise self._shutdown.failure
        finally:
            self._surface.close()
            self._node_health.close()
            self._plane.close()
            self._portal.close()
            self._announcement.close()

    async def _follow(self) -> None:
        """Make true what the source says, until the shutdown."""
        ends_when = self._shutdown.fail_with
        async with TaskGroup() as group:
            tasks = [
                group.create_task(self._source.run(), name="source"),
                group.create_task(self._reconciler.run(), name="runner"),
                group.create_task(ends_when(self._announcement.run()), name="ready"),
                group.create_task(ends_when(self._plane.wait_ended()), name="plane"),
            ]
            await self._shutdown.wait()
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        """First call: stop accepting, let connections finish. Second call: end at once."""
        self._shutdown.stop()

    def kill(self) -> None:
        """Stop, and end at once: connections are reset."""
        self._shutdown.kill()

    def reload(self) -> None:
        """Read manifests or credentials again, and look at every frontend once more."""
        _log.info("reloading", source=self._source.describe())
        self._source.reload()
        self._reconciler.look_again()

    def addresses(self) -> dict[str, str | None]:
        """Where "control", "healthz" and "metrics" are, None for one that is not there (yet)."""
        return self._surface.addresses()

    async def service_views(self) -> list[dict[str, object]]:
        """As `kproxy get services -o json` shows them."""
        shared = turns.Turns()
        await self._plane.refresh(plane.Part.PORTS, shared)
        plans = await shared.result(status.in_order(self.observed.proxier.known()))
        return [view for view in status.service_views(self.observed, plans) if view is not None]

    def _bar_own_addresses(self) -> None:
        self._surface.bar_from(self._plane)


async def serve(cfg: config.Config, dropped_log_lines: Callable[[], int] = lambda: 0) -> None:
    """Run a Server until a signal ends it; see `process.Signals`.

    Raises ConfigError before anything is opened, KproxyError when serving is impossible.
    """
    process.prepare()
    server = Server(cfg, dropped_log_lines)
    try:
        with process.signals.handling(stop=server.stop, kill=server.kill, reload=server.reload):
            await server.run()
    finally:
        gc.enable()


def make_source(cfg: config.Config) -> source.Source:
    """The source of a Server: a cluster, or files."""
    # The client of API servers takes as long to load as everything else: files need none of it.
    if cfg.cluster is not None:
        from kproxy.sources.api import api_bounds, informer  # noqa: PLC0415

        return informer.InformerSource(
            cfg.cluster,
            on_problem=report.log_problem,
            namespaces=cfg.namespaces,
            allow_loopback=cfg.allow_loopback_endpoints,
            limits=api_bounds.Bounds(cfg.max_list_objects, cfg.max_list_pages, cfg.max_list_bytes),
        )
    from kproxy.sources.files import manifests  # noqa: PLC0415

    return manifests.ManifestSource(
        cfg.manifests, on_problem=report.log_problem, allow_loopback=cfg.allow_loopback_endpoints
    )


def make_plane(cfg: config.Config, feed: events.Feed) -> plane.DataPlane:
    """The data plane of a Server, which closes it. Raises ConfigError as `InProcessPlane` does."""
    return in_process.InProcessPlane(
        limits(cfg), max_affinity_clients=cfg.max_affinity_clients, feed=feed
    )


def limits(cfg: config.Config) -> data_path.Limits:
    """The bounds of the data path."""
    return data_path.Limits(
        half_closed_timeout=cfg.half_closed_timeout,
        idle_timeout=cfg.idle_timeout,
        keepalive_idle=cfg.keepalive_idle,
        proxy_protocol_from=tuple(map(str, cfg.proxy_protocol_from)),
        max_connections=cfg.max_connections,
        max_listeners=cfg.max_listeners,
        max_flows=cfg.max_udp_flows,
        udp_timeout=cfg.udp_timeout,
    )


def make_portal(cfg: config.Config) -> portal.Portal:
    """The portal of a Server, which closes it. It never takes the API server's own address."""
    api_server = cfg.cluster.address if cfg.cluster else None
    settings = portal.Settings(
        external_ips=cfg.external_ip_cidrs,
        node_ports=cfg.nodeport_addresses,
        cluster=cfg.cluster_cidr,
        reserved=frozenset([api_server] if api_server else ()),
        allow_loopback=cfg.allow_loopback_endpoints,
        service_networks=cfg.service_cluster_ip_range,
        may_use_bpf=cfg.bpf,
    )
    return registry.make(cfg.portal, settings)


def options(
    cfg: config.Config,
    through: portal.Portal,
    protocols: frozenset[names.Protocol] = in_process.PROTOCOLS,
) -> rules.Options:
    """How Services become rules, for a data plane of these `protocols`."""
    bounds = rules.Bounds(ports=cfg.max_ports_per_service, endpoints=cfg.max_endpoints_per_service)
    return rules.Options(
        portal=through,
        protocols=protocols,
        node=cfg.node,
        zone=cfg.node_zone,
        default_strategy=cfg.strategy,
        bounds=bounds,
    )
