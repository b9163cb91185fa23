"""What metrics, health and status look at: the parts of a running proxy, to read."""

from collections.abc import Callable
from dataclasses import dataclass

from kproxy import events, metrics
from kproxy.gateway import state as gateway_state
from kproxy.ingress import state as ingress_state
from kproxy.ops import health
from kproxy.ops.prometheus import durations
from kproxy.plane import plane
from kproxy.reconcile import proxier, report, runner
from kproxy.sources import source


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The parts of one proxy, for reading only.

    `dropped_log_lines` gives how many lines the log has lost so far. Names of Services end in
    `cluster_domain`.
    """

    source: source.Source
    proxier: proxier.Proxier
    plane: plane.Readable
    reporter: report.Reporter
    runner: runner.Runner
    syncs: health.SyncRecord
    lag: durations.Histogram
    feed: events.Feed
    dropped_log_lines: Callable[[], int]
    cluster_domain: str
    ingress: ingress_state.IngressState | None = None
    gateways: gateway_state.GatewayState | None = None
    dns: metrics.DnsCounters | None = None
