"""Health as kube-proxy reports it: /healthz and /livez (`pkg/proxy/healthcheck/proxy_health.go`).

The proxy is unhealthy when a change has waited 60 s without a successful sync. The *oldest*
pending change counts, so a steady stream of changes cannot hide a sync that hangs or fails.
/livez reports just that, for liveness probes. /healthz is for load balancers: it also fails before
the first sync, when nothing is served yet (kube-proxy says 200 then), and from the moment the
proxy is asked to stop, while connections finish and /livez stays well (docs/faults.md K01, P01),
and while the Node is about to be deleted (KEP-3836).
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from kproxy.ops.prometheus import durations
from kproxy.ops.serving import answers, heads, responder

TIMEOUT = 60.0
"""Seconds a change may be pending: twice the period of full syncs."""
SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
"""kube-proxy's, for `kubeproxy_sync_proxy_rules_duration_seconds`."""

_NEVER = "0001-01-01 00:00:00 +0000 UTC"


class SyncRecord:
    """When syncs were asked for, and when they were done. Written by the reconciler.

    `last_queued` and `last_done` are Unix times for metrics, None before the first. `clock` is
    monotonic, in seconds; `wall` is Unix time in nanoseconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._born = clock()
        self._waiting_since: float | None = None
        self._working_since: float | None = None
        self._done_at = _NEVER
        self._is_stopping = False
        self._is_leaving = False
        self.durations = durations.Histogram(SYNC_BUCKETS)
        self.last_queued: float | None = None
        self.last_done: float | None = None

    def queue(self) -> None:
        """Something has changed, and a sync is to follow."""
        self.last_queued = self._wall() / 1e9
        if self._waiting_since is None:
            self._waiting_since = self._clock()

    @contextlib.contextmanager
    def sync(self) -> Iterator[None]:
        """A sync. If it raises, what it was to do stays pending.

        A change that is queued while it runs is for the next one.
        """
        started = self._clock()
        if self._working_since is None:
            self._working_since = started if self._waiting_since is None else self._waiting_since
        self._waiting_since = None
        yield
        self._working_since = None
        self.durations.observe(self._clock() - started)
        self.last_done = self._wall() / 1e9
        self._done_at = self.now()

    def stop(self) -> None:
        """The proxy is stopping: /healthz fails from now on."""
        self._is_stopping = True

    def note_leaving(self, *, is_leaving: bool) -> None:
        """Whether the node is about to be deleted: /healthz fails then, and /livez does not."""
        self._is_leaving = is_leaving

    @property
    def is_eligible(self) -> bool:
        """Whether a load balancer should choose this node (docs/behaviour.md row 49)."""
        return self.is_ready and not self._is_leaving

    @property
    def is_alive(self) -> bool:
        """Whether no change has been pending for too long."""
        pending = self._working_since if self._working_since is not None else self._waiting_since
        return pending is None or self._clock() - pending < TIMEOUT

    @property
    def is_ready(self) -> bool:
        """Whether a load balancer should send traffic here."""
        return self.is_alive and self.last_done is not None and not self._is_stopping

    def now(self) -> str:
        """The time as Go prints it."""
        return go_time(self._wall(), self._clock() - self._born)

    def report(self, *, is_well: bool) -> str:
        """kube-proxy's body, to the byte. While the proxy is well, lastUpdated is now."""
        now = self.now()
        return f'{{"lastUpdated": "{now if is_well else self._done_at}","currentTime": "{now}"}}'


def go_time(wall: int, since_start: float) -> str:
    """What Go's `Time.String` gives: nanoseconds without trailing zeros, and the monotonic clock.

    `wall` is Unix time in nanoseconds, `since_start` the seconds this process has lived.
    """
    seconds, nanoseconds = divmod(wall, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC)
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC m={since_start:+.9f}"


def make_site(syncs: SyncRecord) -> responder.Site:
    """What is served on port 10256."""

    def answer(*, is_well: bool) -> answers.Answer:
        return answers.Answer(200 if is_well else 503, syncs.report(is_well=is_well).encode())

    async def healthz(_request: heads.Request) -> answers.Answer:
        return answer(is_well=syncs.is_eligible)

    async def livez(_request: heads.Request) -> answers.Answer:
        return answer(is_well=syncs.is_alive)

    return responder.Site({"/healthz": healthz, "/livez": livez})
