"""A Prometheus collector over the plain counters; what its metrics mean is in docs/operations.md.

Nothing is counted here: at each scrape the counters are read as they stand, so the hot path pays
nothing, and the series of a Service that is gone are gone too (docs/faults.md S19).

At 10,000 Services a page has some hundred thousand samples, and the thread that makes it relays
bytes as well. So a family comes in parts: several `Metric`s of one name, one right after the
other, for `scrape` to join. Each takes about a millisecond.
"""

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client import registry
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

import kproxy
from kproxy import metrics
from kproxy.gateway import state as gateway_state
from kproxy.ingress import state
from kproxy.model import forwarding, names
from kproxy.ops.prometheus import durations
from kproxy.ops.views import observed
from kproxy.plane import snapshots

PART = 16
"""Service ports in one part of a family."""

_Labels: TypeAlias = dict[str, str]
_Rows: TypeAlias = Iterable[tuple[_Labels, float]]
_Names: TypeAlias = Sequence[names.ServicePortName]
_Read: TypeAlias = Callable[[snapshots.ServicePort], _Rows]

_DATA_PATH = {
    "accept_errors": "accept(2) calls that failed.",
    "accept_pauses": "Pauses in accepting because descriptors or memory were short.",
    "bugs": "Errors in the code that handles one connection; the connection was reset.",
    "datagrams": "Datagrams taken from clients and from endpoints.",
    "datagrams_lost": "Datagrams taken that could not be passed on: no endpoint, refused, no room.",
    "shared_listen_drops": "Requests dropped at full queues of listeners that frontends share.",
    "splices": "Directions of connections that were handed to splice(2).",
    "splice_fallbacks": "Directions that were copied because no pipe was free.",
    "small_pipes": "Directions spliced through a pipe that the kernel made smaller than asked for.",
    "stale_events": "Events for a connection that had just ended.",
    "stalls_recovered": "Connections whose lost wake-up the watchdog made good.",
}


class ProxyCollector(registry.Collector):
    """All kproxy_* and kubeproxy_* metrics of one proxy; `process_metrics` has `process_*`."""

    def __init__(
        self, seen: observed.Observed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seen = seen
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """All metrics. Large families come in parts, so that a caller can let relays run."""
        names_of_ports = tuple(rule.name for rule in self._seen.proxier.in_force())
        yield from self._about_connections(names_of_ports)
        yield from self._about_balancing(names_of_ports)
        yield from self._about_frontends()
        yield from self._about_syncs()
        yield from self._about_watches()
        if self._seen.ingress is not None:
            yield from _about_ingresses(self._seen.ingress)
        if self._seen.gateways is not None:
            yield from _about_gateways(self._seen.gateways)
        yield from self._about_the_process()
        if self._seen.dns is not None:
            yield from _about_names(self._seen.dns)

    def _by_port(
        self, kind: str, name: str, text: str, served: _Names, read: _Read
    ) -> Iterator[Metric]:
        """A family of service ports, `PART` of them to a part.

        Their counters are read only now: the data plane may have forgotten some since.
        """
        for start in range(0, max(len(served), 1), PART):
            ports = served[start : start + PART]
            held = ((port, self._seen.plane.service_port(port)) for port in ports)
            yield _metric(
                kind,
                name,
                text,
                (
                    ({**_labels(port), **more}, value)
                    for port, counted in held
                    if counted is not None
                    for more, value in read(counted)
                ),
            )

    def _about_connections(self, served: _Names) -> Iterator[Metric]:
        totals = self._seen.plane.totals()
        yield from self._by_port(
            "counter",
            "kproxy_connections",
            "Connections that have ended, by end reason.",
            served,
            lambda counted: _that_happened("result", counted.ended),
        )
        yield from self._by_port(
            "gauge",
            "kproxy_connections_active",
            "Connections open now.",
            served,
            lambda counted: [({}, counted.active)],
        )
        text = "Payload bytes relayed, those of open connections included."
        yield from self._by_port("counter", "kproxy_bytes", text, served, _bytes)
        yield from self._by_port(
            "counter",
            "kproxy_dial_failures",
            "Connects to endpoints that failed, by errno.",
            served,
            lambda counted: _that_happened("reason", counted.dial_failures),
        )
        yield from self._by_port(
            "counter",
            "kproxy_listen_drops",
            "Connection requests that the kernel dropped because a frontend's queue was full.",
            served,
            lambda counted: [({}, counted.listen_drops)] if counted.listen_drops else [],
        )
        yield _single("gauge", "kproxy_open_connections", "All open ones.", totals.connections)
        yield _single(
            "gauge",
            "kproxy_max_connections",
            "How many connections may be open at once.",
            totals.max_connections,
        )
        yield _single("gauge", "kproxy_udp_flows", "Flows of UDP there are now.", totals.flows)
        yield _single(
            "gauge",
            "kproxy_max_udp_flows",
            "How many flows of UDP there may be at once.",
            totals.max_flows,
        )
        for field, text in _DATA_PATH.items():
            yield _single("counter", f"kproxy_{field}", text, totals.counters[field])

    def _about_frontends(self) -> Iterator[Metric]:
        proxier, reporter = self._seen.proxier, self._seen.reporter
        yield _metric(
            "gauge",
            "kproxy_frontends",
            "Frontends by state.",
            (
                ({"state": state.value}, reporter.states[state])
                for state in forwarding.FrontendState
            ),
        )
        yield _single("gauge", "kproxy_listeners", "Frontends that listen.", proxier.listening)
        if proxier.budget.limit is not None:
            yield _single(
                "gauge",
                "kproxy_max_listeners",
                "How many frontends may listen at once.",
                proxier.budget.limit,
            )
        yield _single(
            "gauge",
            "kproxy_over_budget",
            "Frontends that are not served because of a bound.",
            reporter.states[forwarding.FrontendState.OVER_BUDGET],
        )
        yield _single(
            "counter",
            "kproxy_over_budget_services",
            "How often a Service has begun to have frontends over a bound.",
            reporter.shortages,
        )

    def _about_balancing(self, served: _Names) -> Iterator[Metric]:
        yield from self._by_port(
            "gauge",
            "kproxy_affinity_entries",
            "Clients bound to an endpoint by session affinity.",
            served,
            lambda counted: _unless_none(counted.affinity_entries),
        )
        yield from self._by_port(
            "counter",
            "kproxy_affinity_evictions",
            "Affinity bindings evicted before they expired, because the table was full.",
            served,
            lambda counted: _unless_none(counted.affinity_evictions),
        )
        yield _single(
            "gauge",
            "kproxy_penalized_endpoints",
            "Endpoints in the penalty box: a dial failed, and no probe has succeeded since.",
            self._seen.plane.totals().penalized,
        )
        yield _single("gauge", "kproxy_service_ports", "Service ports served.", len(served))

    def _about_syncs(self) -> Iterator[Metric]:
        syncs = self._seen.syncs
        prefix = "kubeproxy_sync_proxy_rules"
        yield _histogram(f"{prefix}_duration_seconds", "How long syncs took.", syncs.durations)
        yield _single(
            "gauge",
            f"{prefix}_last_timestamp_seconds",
            "When the last sync was done; 0 before the first.",
            syncs.last_done or 0,
        )
        yield _single(
            "gauge",
            f"{prefix}_last_queued_timestamp_seconds",
            "When a sync was last asked for; 0 before the first.",
            syncs.last_queued or 0,
        )
        yield _single(
            "counter",
            "kproxy_sync_failures",
            "Syncs that met a bug; they are tried again.",
            self._seen.runner.failures,
        )
        yield _single(
            "counter",
            "kproxy_quarantined_services",
            "Services left as they were because of a bug.",
            self._seen.proxier.quarantined,
        )

    def _about_watches(self) -> Iterator[Metric]:
        watched = self._seen.source.counters()
        now = self._clock()
        contacts: dict[str, float] = {}
        totals: dict[str, Counter[tuple[str, str]]] = {
            each: Counter() for each in ("relists", "events", "failures", "malformed")
        }
        for one in watched:  # one for each namespace, if namespaces are named
            resource = one.resource
            if one.contact.heard_at is not None:
                quiet = max(now - one.contact.heard_at, 0.0)
                contacts[resource] = max(quiet, contacts.get(resource, 0.0))
            for field in ("relists", "events", "failures"):
                for key, count in getattr(one, field).items():
                    totals[field][resource, key] += count
            totals["malformed"][resource, ""] += one.malformed
        yield _metric(
            "gauge",
            "kproxy_watch_stale_seconds",
            "Since the API server was last heard from.",
            (({"resource": resource}, quiet) for resource, quiet in contacts.items()),
        )
        for field, name, label, text in (
            ("relists", "kproxy_relists", "cause", "Lists of everything, by cause."),
            ("events", "kproxy_watch_events", "type", "Watch events, by type."),
            ("failures", "kproxy_watch_failures", "reason", "What broke a list or a watch."),
            ("malformed", "kproxy_malformed_objects", "", "Objects that could not be read."),
        ):
            rows = (
                ({"resource": resource, label: key} if label else {"resource": resource}, count)
                for (resource, key), count in totals[field].items()
            )
            yield _metric("counter", name, text, rows)

    def _about_the_process(self) -> Iterator[Metric]:
        yield _histogram(
            "kproxy_event_loop_lag_seconds",
            "By how much the event loop was late for a timer, four times a second.",
            self._seen.lag,
        )
        yield _single(
            "counter",
            "kproxy_log_lines_dropped",
            "Log lines lost because the sink did not take them.",
            self._seen.dropped_log_lines(),
        )
        build = {"version": kproxy.__version__, "python": platform.python_version()}
        yield _metric("gauge", "kproxy_build_info", "Always 1.", [(build, 1)])


def _about_gateways(shown: gateway_state.GatewayState) -> Iterator[Metric]:
    counts, problems = shown.counts, shown.problems
    text = "Gateways of the class that is served."
    yield _single("gauge", "kproxy_gateways", text, counts["Gateway"])
    attached = counts["TCPRoute"] + counts["UDPRoute"]
    text = "Routes that refer to these Gateways."
    yield _single("gauge", "kproxy_gateway_routes", text, attached)
    text = "What is wrong with Gateways and routes, as the log has it."
    yield _single("gauge", "kproxy_gateway_problems", text, problems)


def _about_ingresses(shown: state.IngressState) -> Iterator[Metric]:
    for name, text in (
        ("configurations", "Configurations that came into force."),
        ("reloads", "Configurations that were given to a running nginx."),
        ("refusals", "Configurations that nginx did not accept, or did not answer with in time."),
        ("restarts", "How often nginx has ended unasked; it was started again."),
    ):
        count = getattr(shown.counters, name)
        yield _single("counter", f"kproxy_ingress_{name}", text, count)
    yield _single("gauge", "kproxy_ingresses", "Ingresses in force.", len(shown.served))
    text = "What is wrong with Ingresses and what they name."
    yield _single("gauge", "kproxy_ingress_problems", text, len(shown.problems))
    in_force = [({"version": shown.version}, 1.0)] if shown.version else []
    text = "The configuration in force, identified by its content; always 1."
    yield _metric("gauge", "kproxy_ingress_configuration_info", text, in_force)


def _about_names(counted: metrics.DnsCounters) -> Iterator[Metric]:
    """What a name server was asked. A copy of its rows: answers come in while this waits."""
    rows = [
        ({"type": type_, "rcode": rcode}, tally[0])
        for (type_, rcode), tally in sorted(counted.requests.items())
    ]
    yield _metric(
        "counter", "kproxy_dns_requests", "DNS questions that were answered, by result.", rows
    )
    yield _single(
        "counter", "kproxy_dns_dropped", "DNS packets that cannot be answered.", counted.dropped
    )
    yield _single(
        "counter", "kproxy_dns_forwarded", "Questions other servers were asked.", counted.forwarded
    )
    yield _single(
        "counter",
        "kproxy_dns_forward_failures",
        "Questions of clients that no other server answered, or that too many others were before.",
        counted.forward_failures,
    )


def _labels(name: names.ServicePortName) -> _Labels:
    return {"namespace": name.service.namespace, "service": name.service.name, "port": name.port}


def _that_happened(label: str, counts: Mapping[str, int]) -> _Rows:
    """A row for everything that has happened.

    Rows of zeros would be twelve for each service port, one for each end reason.
    """
    return [({label: key}, count) for key, count in counts.items() if count]


def _bytes(counted: snapshots.ServicePort) -> _Rows:
    return _that_happened(
        "direction",
        {
            "from-clients": counted.bytes_from_clients,
            "from-backends": counted.bytes_from_backends,
        },
    )


def _unless_none(value: float | None) -> _Rows:
    """One row if there is a value, else none."""
    return [] if value is None else [({}, value)]


def _metric(kind: str, name: str, text: str, rows: _Rows) -> Metric:
    made = Metric(name, text, kind)
    suffix = "_total" if kind == "counter" else ""
    for labels, value in rows:
        made.add_sample(name + suffix, labels, value)
    return made


def _single(kind: str, name: str, text: str, value: float) -> Metric:
    return _metric(kind, name, text, [({}, value)])


def _histogram(name: str, text: str, histogram: durations.Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    buckets = [
        ("+Inf" if math.isinf(bound) else str(bound), count)
        for bound, count in histogram.cumulative()
    ]
    family.add_metric([], buckets, histogram.sum)
    return family
