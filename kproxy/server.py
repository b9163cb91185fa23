"""START HERE: builds the pipeline, runs it, and stops it.

    where objects come from      what should be true    make it so           which, and how bytes move

    sources.api              →   sources.Store      →   reconcile.Proxier →  plane
      a cluster, or              model.Service          portal: where        balancer: which endpoint
    sources.files                model.Endpoint         to listen            datapath: client ↔ backend
      files, followed live

`Server` is the composition root. Nothing below it reads `Config`: values arrive as arguments.
"""  # noqa: E501  # a picture

import asyncio
import gc
import operator
import os
from collections.abc import Callable, Iterator
from urllib import parse

import structlog

from kproxy import config, errors, events, process, ready_file, turns
from kproxy.datapath import data_path
from kproxy.model import addresses, forwarding
from kproxy.ops import event_log, health, surface
from kproxy.ops.prometheus import durations
from kproxy.ops.views import observed, status
from kproxy.plane import in_process, plane
from kproxy.portal import budget, portal, registry
from kproxy.reconcile import reconciler, report, rules
from kproxy.sources import source

_log = structlog.get_logger(__name__)


class Server:
    """One proxy: a source of objects, a proxier, a data plane. Lives on the running event loop.

    Raises ConfigError when the configuration cannot work. `run` serves until `stop`.
    `dropped_log_lines` is for the metrics.
    """

    def __init__(
        self, cfg: config.Config, dropped_log_lines: Callable[[], int] = lambda: 0
    ) -> None:
        self._config = cfg
        self._source = self._make_source(cfg)
        self.feed = events.Feed()
        """Facts about this proxy, for subscribers."""
        self._plane = make_plane(cfg, self.feed)
        api = _api_server(cfg)
        self._portal = registry.make(
            cfg.portal,
            portal.Settings(
                external_ips=tuple(cfg.external_ip_cidrs),
                reserved=frozenset([api] if api else ()),
                allow_loopback=cfg.allow_loopback_endpoints,
            ),
        )
        self._syncs = health.SyncRecord()
        self._reconciler = reconciler.Reconciler(
            self._source,
            self._plane,
            _options(cfg, self._portal),
            self._syncs,
            namespaces=cfg.namespaces,
            room=budget.Budget(self._plane.max_listeners, cfg.max_services_per_namespace),
            before_full_sync=self._bar_own_places,
        )
        self._proxier = self._reconciler.proxier
        self.observed = observed.Observed(
            source=self._source,
            proxier=self._proxier,
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
        self._ready_file = ready_file.ReadyFile(cfg.ready_file) if cfg.ready_file else None
        self._failure: errors.KproxyError | None = None
        self._stop_requests = 0
        self._stopping = asyncio.Event()
        self._killed = asyncio.Event()

    def _make_source(self, cfg: config.Config) -> source.Source:
        # The client of API servers takes as long to load as everything else: files need none of it.
        if cfg.cluster is not None:
            from kproxy.sources.api import api_bounds, informer  # noqa: PLC0415

            return informer.InformerSource(
                cfg.cluster,
                on_problem=report.log_problem,
                namespaces=cfg.namespaces,
                allow_loopback=cfg.allow_loopback_endpoints,
                limits=api_bounds.Bounds(
                    cfg.max_list_objects, cfg.max_list_pages, cfg.max_list_bytes
                ),
            )
        from kproxy.sources.files import manifests  # noqa: PLC0415

        return manifests.ManifestSource(
            cfg.manifests,
            on_problem=report.log_problem,
            allow_loopback=cfg.allow_loopback_endpoints,
        )

    async def run(self) -> None:
        """Serve until `stop`, then let connections finish, and leave nothing behind.

        Raises KproxyError when an address for the outside view cannot be had, and, after all
        that, when the ready file could not be written.
        """
        try:
            if self._ready_file is not None:
                self._ready_file.remove_stale()
            self._portal.recover()
            self._surface.bind()
            self._bar_own_places()
            async with asyncio.TaskGroup() as seen:
                watching = seen.create_task(self._surface.run(), name="ops")
                telling = seen.create_task(self._tell(), name="events")
                await self._follow()
                await self._drain()
                watching.cancel()
                telling.cancel()
            if self._failure is not None:
                raise self._failure
        finally:
            self._surface.close()
            self._plane.close()
            self._portal.close()
            if self._ready_file is not None:
                self._ready_file.remove()

    async def _follow(self) -> None:
        """Make true what the source says, until `stop`."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._source.run(), name="source"),
                group.create_task(self._reconciler.run(), name="runner"),
                group.create_task(self._announce(), name="ready"),
            ]
            await self._stopping.wait()
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        """First call: stop accepting, let connections finish. Second call: end at once."""
        self._syncs.stop()
        self._stop_requests += 1
        self._stopping.set()
        if self._stop_requests > 1:
            self._killed.set()

    def kill(self) -> None:
        """Stop, and end at once: connections are reset."""
        self.stop()
        self._killed.set()

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
        await self._plane.refresh(plane.Part.PORTS, turns.Turns())
        return list(self._service_views())

    def _service_views(self) -> Iterator[dict[str, object]]:
        plans = sorted(self._proxier.known(), key=operator.attrgetter("rule.name"))
        return status.service_views(self.observed, plans)

    async def _tell(self) -> None:
        """Publish what is known only by looking, and let the log show the facts if it is to."""
        async with asyncio.TaskGroup() as group:
            group.create_task(event_log.watch_watches(self.feed, self._source.counters))
            if event_log.is_wanted():
                group.create_task(event_log.write(self.feed))

    def _bar_own_places(self) -> None:
        """Bar the addresses of health, metrics and control as endpoints, once they are bound."""
        for name, address in self.addresses().items():
            if address is not None and (place := _socket_address(address)) is not None:
                self._plane.send(forwarding.Bar(place, f"kproxy's {name}"))

    async def _announce(self) -> None:
        """Once what the first sync opened is open: write the ready file and a line in the log."""
        await self._reconciler.is_served.wait()
        shared = turns.Turns()
        await self._plane.refresh(plane.Part.PORTS, shared)
        try:
            async for _ in shared.batches(self._write_ready_file()):
                pass
        except errors.KproxyError as error:
            # A program that waits for the file would wait for ever: end, and say why.
            self._failure = error
            self.stop()
            return
        _log.info(
            "ready",
            source=self._source.describe(),
            listening=self._proxier.listening,
            max_connections=self._plane.totals().max_connections,
            **{name: address for name, address in self.addresses().items() if address},
        )

    def _write_ready_file(self) -> Iterator[None]:
        if self._ready_file is not None:
            head = {"pid": os.getpid(), **self.addresses()}
            content = ready_file.document(head, "services", self._service_views())
            yield from self._ready_file.write(content)

    async def _drain(self) -> None:
        await self._plane.refresh(plane.Part.TOTALS, turns.Turns())
        open_now = self._plane.totals().connections
        grace = self._config.grace_period
        _log.info("stopping", open_connections=open_now, grace_seconds=grace)
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(self._plane.drain(grace))
            killed = group.create_task(self._killed.wait())
            await asyncio.wait({draining, killed}, return_when=asyncio.FIRST_COMPLETED)
            left = draining.result() if draining.done() else await self._plane.abort()
            draining.cancel()
            killed.cancel()
        _log.info("stopped", connections_reset=left)


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
        max_connections=cfg.max_connections,
        max_listeners=cfg.max_listeners,
    )


def _socket_address(text: str) -> addresses.SocketAddress | None:
    """The address and port of `text`; None for the path of a unix socket."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        return None
    return addresses.SocketAddress(address.strip("[]"), int(port))


def _options(cfg: config.Config, through: portal.Portal) -> rules.Options:
    bounds = rules.Bounds(ports=cfg.max_ports_per_service, endpoints=cfg.max_endpoints_per_service)
    return rules.Options(
        portal=through, node=cfg.node, default_strategy=cfg.strategy, bounds=bounds
    )


def _api_server(cfg: config.Config) -> addresses.SocketAddress | None:
    """Where the API server is, if it is known by its IPv4 address."""
    url = parse.urlsplit(cfg.cluster.server) if cfg.cluster else None
    address = addresses.parse(url.hostname or "") if url else None
    if url is None or address is None:
        return None
    return addresses.SocketAddress(address.text, url.port or (80 if url.scheme == "http" else 443))
