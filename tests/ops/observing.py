"""The parts of a proxy without a source that runs: what they show is in the test's hands."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from kproxy import config, events, metrics, parts, turns
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import service_kind, services
from kproxy.ops import health
from kproxy.ops.prometheus import durations
from kproxy.ops.views import observed
from kproxy.plane import in_process, plane, port_state
from kproxy.portal import loopback
from kproxy.reconcile import proxier, report, runner
from kproxy.reconcile.planning import rules
from kproxy.sources import source, store


class StillSource:
    """A source whose Store is written by the test. Satisfies `source.Source`."""

    def __init__(self, reflectors: Sequence[metrics.ReflectorCounters]) -> None:
        self.store = store.Store()
        self.has_synced = True
        self._reflectors = tuple(reflectors)
        self.found: tuple[source.Problem, ...] = ()

    def counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """What the test gave."""
        return self._reflectors

    def all_counters(self) -> tuple[metrics.ReflectorCounters, ...]:
        """What the test gave."""
        return self._reflectors

    def problems(self) -> tuple[source.Problem, ...]:
        """What the test gave."""
        return self.found

    def describe(self) -> str:
        """A word."""
        return "still"

    async def run(self) -> None:
        """Nothing."""

    def reload(self) -> None:
        """Nothing."""


class AnyPort(loopback.LoopbackPortal):
    """Lets the kernel choose the port of every frontend."""

    def locate(self, _frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        return forwarding.PortalAddress("127.0.0.1", 0)


class Proxy:
    """The parts of a proxy; nothing is really bound. `seen` is what is observed of them."""

    def __init__(
        self,
        data_plane: plane.DataPlane,
        feed: events.Feed,
        reflectors: Sequence[metrics.ReflectorCounters] = (),
    ) -> None:
        self.source = StillSource(reflectors)
        self.plane = data_plane
        self.feed = feed
        self.proxier = proxier.Proxier(
            self.source.store,
            self.plane,
            rules.Options(portal=AnyPort(1)),
        )
        self.reporter = report.Reporter(self.proxier.frontends)
        self.syncs = health.SyncRecord()
        self.seen = observed.Observed(
            source=self.source,
            proxier=self.proxier,
            plane=self.plane,
            reporter=self.reporter,
            runner=runner.Runner(tuple, tuple, lambda: False),
            syncs=self.syncs,
            lag=durations.Histogram(durations.LAG_BUCKETS),
            feed=self.feed,
            dropped_log_lines=lambda: 7,
            cluster_domain="cluster.local",
        )

    def serve(
        self,
        *service_names: str,
        affinity: int | None = None,
        labels: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        """Make these Services of namespace `default`, each with one port "http", all there is.

        `labels` are those of Services by name.
        """
        made = {
            names.NamespacedName("default", name): services.Service(
                names.NamespacedName("default", name),
                services.ServiceType.CLUSTER_IP,
                f"10.0.{number // 250}.{number % 250 + 1}",
                (services.ServicePort("http", names.Protocol.TCP, 80),),
                affinity_seconds=affinity,
                labels=tuple(sorted(labels.get(name, {}).items())),
            )
            for number, name in enumerate(service_names)
        }
        self.proxier.mark(self.source.store.replace(service_kind.KIND.name, made))
        with self.syncs.sync():
            self.proxier.sync()

    async def refresh(self) -> None:
        """Return once everything that was sent is carried out and can be read."""
        for part in plane.Part:
            await self.plane.refresh(part, turns.Turns())


class OpenProxy(Proxy):
    """A Proxy whose data plane is in this process, so that a test can reach into it."""

    def __init__(self, data_plane: in_process.InProcessPlane, feed: events.Feed) -> None:
        super().__init__(data_plane, feed)
        self._in_process = data_plane
        self.box = data_plane.box

    def port(self, name: str) -> port_state.ServicePortState:
        """What the data plane holds of a Service's port."""
        service = names.NamespacedName("default", name)
        state = self._in_process.port(names.ServicePortName(service, "http"))
        assert state is not None
        return state

    def give(self, name: str, *backends: addresses.SocketAddress) -> None:
        """Set the backends that a Service is balanced over."""
        for scope in forwarding.Scope:
            self.port(name).balancer(scope, addresses.Family.IPV4).update(backends)


@contextlib.contextmanager
def proxy(reflectors: Sequence[metrics.ReflectorCounters] = ()) -> Iterator[Proxy]:
    """A Proxy on the running event loop, with the data plane under test (`pytest --plane`)."""
    feed = events.Feed()
    data_plane = parts.make_plane(config.Config(manifests=(Path("none"),)), feed)
    with contextlib.closing(data_plane):
        yield Proxy(data_plane, feed, reflectors)


@contextlib.contextmanager
def open_proxy() -> Iterator[OpenProxy]:
    """An OpenProxy on the running event loop."""
    feed = events.Feed()
    with contextlib.closing(in_process.InProcessPlane(feed=feed)) as data_plane:
        yield OpenProxy(data_plane, feed)
