"""START HERE: builds the pipeline, runs it, and stops it.

    where objects come from      what should be true    make it so           which, and how bytes move

    sources.api              →   sources.Store      →   reconcile.Proxier →  plane
      a cluster, or              model.Service          portal: where        balancer: which endpoint
    sources.files                model.Endpoint         to listen            datapath: client ↔ backend
      files, followed live

`Server` is the composition root. It and `parts` read `Config`; everything below gets values as
arguments.
"""  # noqa: E501  # a picture

import gc
import time
from asyncio import TaskGroup
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from kproxy import component, config, events, lifecycle, metrics, parts, turns
from kproxy.command import settings as command_settings
from kproxy.gateway import state as gateway_state
from kproxy.ingress import state
from kproxy.ops import health, node_health, surface
from kproxy.ops.prometheus import durations
from kproxy.ops.views import observed, ready_file, status
from kproxy.plane import plane
from kproxy.portal import budget
from kproxy.reconcile import reconciler
from kproxy.system import process

if TYPE_CHECKING:
    from kproxy.command import command

_log = structlog.get_logger(__name__)


class Server:
    """One proxy: a source of objects, a reconciler, a data plane. Lives on the running event loop.

    Raises ConfigError when the configuration cannot work. `run` serves until `stop`.
    `dropped_log_lines` is for the metrics. A `beside` command, which the caller closes, starts when
    everything is served, and the proxy ends with it.
    """

    def __init__(
        self,
        cfg: config.Config,
        dropped_log_lines: Callable[[], int] = lambda: 0,
        beside: "command.Command | None" = None,
    ) -> None:
        self._grace_period = cfg.grace_period
        self._command = beside
        self._namespace = command_settings.namespace_of(cfg.namespaces)
        self.exit_code: int | None = None
        """That of the command; None before it has ended."""
        self.feed = events.Feed()
        """Facts about this proxy, for subscribers."""
        self._source = parts.make_source(cfg)
        self._plane = parts.make_plane(cfg, self.feed)
        self._portal = parts.make_portal(cfg)
        self._syncs = health.SyncRecord()
        self._node_health = node_health.NodeHealth(
            self._plane, lambda: self._syncs.is_ready, self.feed, time.monotonic
        )
        self._reconciler = reconciler.Reconciler(
            self._source,
            self._node_health,
            parts.options(cfg, self._portal, self._plane.protocols),
            self._syncs,
            namespaces=cfg.namespaces,
            room=budget.Budget(self._plane.max_listeners, cfg.max_services_per_namespace),
            before_full_sync=self._bar_own_addresses,
            beside=parts.make_planner(cfg, self._source.store),
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
            ingress=state.IngressState() if cfg.ingress else None,
            gateways=gateway_state.GatewayState() if cfg.gateway else None,
            cluster_domain=cfg.cluster_domain,
            dns=metrics.DnsCounters() if cfg.dns is not None else None,
        )
        """The parts, to read: what metrics, health and status are made of."""
        self._surface = surface.Surface(
            self.observed, healthz=cfg.healthz, metrics=cfg.metrics, control_socket=cfg.control
        )
        self._components = parts.make_components(cfg, self.observed)
        self._announcement = lifecycle.Announcement(
            self.observed,
            self._is_served,
            self.addresses,
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
            for each in self._components:
                each.bind()
            self._bar_own_addresses()
            self._portal.follow(self._reconciler.look_again)
            async with TaskGroup() as group:
                beside = [
                    group.create_task(self._surface.run(), name="ops"),
                    group.create_task(self._node_health.run(), name="health checks"),
                ]
                for each in self._components:
                    serving = self._shutdown.fail_with(each.run())
                    beside.append(group.create_task(serving, name=each.name))
                await self._follow()
                drained = self._shutdown.drain(self._plane, self._components, self._grace_period)
                await self._shutdown.fail_with(drained)
                for task in beside:
                    task.cancel()
            if self._shutdown.failure is not None:
                raise self._shutdown.failure
        finally:
            for each in self._components:
                each.close()
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
            if self._command is not None:
                accompanying = ends_when(self._accompany(self._command))
                tasks.append(group.create_task(accompanying, name="command"))
            await self._shutdown.wait()
            for task in tasks:
                task.cancel()

    async def _accompany(self, beside: "command.Command") -> None:
        """Run the command, then stop."""
        from kproxy.command import alongside  # noqa: PLC0415  # a proxy without a command

        self.exit_code = await alongside.run(
            beside,
            self._announcement.is_made.wait(),
            self.observed,
            self._namespace,
            self._grace_period,
        )
        self.stop()

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
        """Where "control", "healthz", "metrics" and the components are; None for one not there."""
        return {**self._surface.addresses(), **component.addresses(self._components)}

    async def service_views(self) -> list[dict[str, object]]:
        """As `kproxy get services -o json` shows them."""
        shared = turns.Turns()
        await self._plane.refresh(plane.Part.PORTS, shared)
        plans = await shared.result(status.in_order(status.select(self.observed)))
        return [view for view in status.service_views(self.observed, plans) if view is not None]

    async def _is_served(self) -> None:
        """Return once everything of the first sync is served, or has failed."""
        await self._reconciler.is_served.wait()
        for each in self._components:
            await each.ready()

    def _bar_own_addresses(self) -> None:
        surface.bar(self._plane, self._surface.addresses())
        surface.bar(self._plane, component.barred(self._components))


async def serve(
    cfg: config.Config,
    dropped_log_lines: Callable[[], int] = lambda: 0,
    beside: "command.Command | None" = None,
) -> int:
    """Run a Server until a signal or the end of its command; the exit code.

    Which signal does what: see `process.Signals`. While the command runs, signals are the
    command's. Raises ConfigError before anything is opened, KproxyError when serving is impossible.
    """
    process.prepare()
    server = Server(cfg, dropped_log_lines, beside)
    relay = None if beside is None else beside.relay
    try:
        with process.signals.handling(
            stop=server.stop, kill=server.kill, reload=server.reload, relay=relay
        ):
            await server.run()
    finally:
        gc.enable()
    if beside is None:
        return 0
    return process.signals.exit_code if server.exit_code is None else server.exit_code
