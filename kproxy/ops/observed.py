"""What metrics, health and status look at: the parts of a running proxy, to read."""

from collections.abc import Callable
from dataclasses import dataclass

from kproxy import events
from kproxy.cluster import source
from kproxy.datapath import worker
from kproxy.ops import durations, health
from kproxy.reconcile import dataplane, proxier, report, runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One proxy. Nobody changes anything through this.

    `dropped_log_lines` gives how many lines the log has lost so far.
    """

    source: source.Source
    proxier: proxier.Proxier
    plane: dataplane.WorkerDataPlane
    worker: worker.Worker
    reporter: report.Reporter
    runner: runner.Runner
    syncs: health.SyncRecord
    lag: durations.Histogram
    feed: events.Feed
    dropped_log_lines: Callable[[], int]
