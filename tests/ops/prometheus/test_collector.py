"""What a scrape says: every counter, in the text format, for as long as its Service is there.

Cases: S19 of docs/faults.md.
"""

import dataclasses
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import exposition, parser
from prometheus_client.metrics_core import Metric

from kproxy import metrics
from kproxy.gateway import state as gateway_state
from kproxy.ingress import state
from kproxy.model import addresses, forwarding, names
from kproxy.ops import health
from kproxy.ops.prometheus import collector, durations, scrape
from tests.ops import observing, recordings


async def page(proxy: observing.Proxy) -> str:
    """A scrape."""
    await proxy.refresh()
    shown = scrape.make_registry(proxy.seen)
    return b"".join(scrape.lines(shown.collect())).decode()


async def samples(proxy: observing.Proxy) -> dict[str, float]:
    """Every sample of a scrape, by its name and labels as they are written; no name twice."""
    lines = [line.rsplit(" ", 1) for line in (await page(proxy)).splitlines() if line[0] != "#"]
    found = {name: float(value) for name, value in lines}
    assert len(found) == len(lines)
    return found


async def test_connections_bytes_and_failures_have_a_row_for_each_service_port() -> None:
    with observing.open_proxy() as proxy:
        proxy.serve("web", "db")
        counters = proxy.port("web").counters
        counters.accepted = 5
        counters.ended["C/H"] = 3
        counters.bytes_from_clients = 100
        counters.bytes_from_backends = 200
        counters.dial_failures["ECONNREFUSED"] = 4
        counters.listen_drops = 5

        told = await samples(proxy)

    where = 'namespace="default",port="http"'
    web = f'{where},result="C/H",service="web"'
    assert told[f"kproxy_connections_total{{{web}}}"] == 3
    assert told[f'kproxy_connections_active{{{where},service="web"}}'] == 2
    assert told[f'kproxy_connections_active{{{where},service="db"}}'] == 0
    clients, backends = 'direction="from-clients",', 'direction="from-backends",'
    assert told[f'kproxy_bytes_total{{{clients}{where},service="web"}}'] == 100
    assert told[f'kproxy_bytes_total{{{backends}{where},service="web"}}'] == 200
    refused = f'{where},reason="ECONNREFUSED",service="web"'
    assert told[f"kproxy_dial_failures_total{{{refused}}}"] == 4
    assert told[f'kproxy_listen_drops_total{{{where},service="web"}}'] == 5
    assert f'kproxy_listen_drops_total{{{where},service="db"}}' not in told
    assert told["kproxy_service_ports"] == 2


async def test_questions_of_dns_are_counted_by_type_and_result() -> None:
    counted = metrics.DnsCounters()
    counted.tally("A", "NOERROR")[0] += 2
    counted.tally("AAAA", "NXDOMAIN")[0] += 1
    counted.dropped = 3
    counted.forwarded = 4
    counted.forward_failures = 1
    with observing.open_proxy() as proxy:
        without = await samples(proxy)
        proxy.seen = replace(proxy.seen, dns=counted)
        told = await samples(proxy)

    assert not [name for name in without if "dns" in name]
    assert told['kproxy_dns_requests_total{rcode="NOERROR",type="A"}'] == 2
    assert told['kproxy_dns_requests_total{rcode="NXDOMAIN",type="AAAA"}'] == 1
    assert told["kproxy_dns_dropped_total"] == 3
    assert told["kproxy_dns_forwarded_total"] == 4
    assert told["kproxy_dns_forward_failures_total"] == 1


async def test_affinity_and_penalties_are_shown() -> None:
    backend = addresses.SocketAddress("10.1.0.1", 80)
    with observing.open_proxy() as proxy:
        proxy.serve("web", affinity=10)
        proxy.give("web", backend)
        cluster = proxy.port("web").balancer(forwarding.Scope.CLUSTER, addresses.Family.IPV4)
        for client in ("192.0.2.1", "192.0.2.2"):
            cluster.pick(client, 0.0)
        proxy.box.fail(backend, 0.0)

        told = await samples(proxy)

    web = 'namespace="default",port="http",service="web"'
    assert told[f"kproxy_affinity_entries{{{web}}}"] == 2
    assert told[f"kproxy_affinity_evictions_total{{{web}}}"] == 0
    assert told["kproxy_penalized_endpoints"] == 1


async def test_the_series_of_a_service_go_with_it() -> None:
    with observing.open_proxy() as proxy:
        proxy.serve("web", "db", affinity=10)
        proxy.port("web").counters.ended["C/H"] = 3
        assert 'service="web"' in await page(proxy)
        size = len(await samples(proxy))

        for number in range(50):
            proxy.serve("db", f"passing-{number}", affinity=10)
        proxy.serve("db", affinity=10)

        assert "web" not in await page(proxy)
        assert "passing" not in await page(proxy)
        assert len(await samples(proxy)) < size


async def test_syncs_have_kube_proxys_names() -> None:
    recorded = (recordings.FOLDER / "iptables-mode.metrics.txt").read_text()
    buckets = re.compile(r'\nkubeproxy_sync_proxy_rules_duration_seconds_bucket\{le="(.*)"\}')
    with observing.proxy() as proxy:
        assert (await samples(proxy))["kubeproxy_sync_proxy_rules_last_timestamp_seconds"] == 0

        proxy.syncs.queue()
        proxy.serve("web")

        assert buckets.findall(await page(proxy)) == buckets.findall(recorded)
        told = await samples(proxy)
    name = "kubeproxy_sync_proxy_rules"
    assert told[f"{name}_duration_seconds_count"] == 1
    assert told[f"{name}_last_queued_timestamp_seconds"] > 0
    assert told[f"{name}_last_timestamp_seconds"] >= told[f"{name}_last_queued_timestamp_seconds"]


async def test_ingresses_are_shown_where_they_are_served() -> None:
    with observing.proxy() as proxy:
        assert "ingress" not in await page(proxy)

        shown = state.IngressState()
        shown.counters.reloads = 3
        shown.counters.configurations = 4
        shown.version = "abc"
        shown.served = frozenset({names.NamespacedName("default", "web")})
        proxy.seen = dataclasses.replace(proxy.seen, ingress=shown)
        told = await samples(proxy)

    assert told["kproxy_ingress_reloads_total"] == 3
    assert told["kproxy_ingress_configurations_total"] == 4
    assert told["kproxy_ingress_restarts_total"] == 0
    assert told["kproxy_ingresses"] == 1
    assert told["kproxy_ingress_problems"] == 0
    assert told['kproxy_ingress_configuration_info{version="abc"}'] == 1


async def test_gateways_are_shown_where_they_are_served() -> None:
    with observing.proxy() as proxy:
        assert "gateway" not in await page(proxy)

        shown = gateway_state.GatewayState(problems=2)
        shown.counts.update({"Gateway": 3, "TCPRoute": 4, "UDPRoute": 1, "GatewayClass": 1})
        proxy.seen = dataclasses.replace(proxy.seen, gateways=shown)
        told = await samples(proxy)

    assert told["kproxy_gateways"] == 3
    assert told["kproxy_gateway_routes"] == 5
    assert told["kproxy_gateway_problems"] == 2


async def test_lists_and_watches_of_one_resource_are_added_up() -> None:
    watched = [metrics.ReflectorCounters(name) for name in ("services", "services", "nodes")]
    watched[0].relists["expired"] = 1
    watched[1].relists["expired"] = 2
    watched[1].relists["start"] = 1
    watched[0].events["MODIFIED"] = 5
    watched[1].failures["abrupt"] = 6
    watched[1].malformed = 3
    watched[0].contact.heard_at, watched[1].contact.heard_at = 90.0, 60.0

    with observing.proxy(watched) as proxy:
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for metric in collector.ProxyCollector(proxy.seen, lambda: 100.0).collect()
            for sample in metric.samples
        }

    assert found["kproxy_relists_total", "expired", "services"] == 3
    assert found["kproxy_relists_total", "services", "start"] == 1
    assert found["kproxy_watch_events_total", "MODIFIED", "services"] == 5
    assert found["kproxy_watch_failures_total", "abrupt", "services"] == 6
    assert found["kproxy_malformed_objects_total", "services"] == 3
    assert found["kproxy_watch_stale_seconds", "services"] == 40.0
    assert ("kproxy_watch_stale_seconds", "nodes") not in found  # never heard from


async def test_a_page_is_well_formed_and_complete() -> None:
    with observing.proxy() as proxy:
        proxy.serve(*(f"web-{number}" for number in range(3 * collector.PART + 1)))

        text = await page(proxy)
        families = list(parser.text_string_to_metric_families(text))

    headers = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(headers) == len(set(headers)) == len(families)
    active = next(each for each in families if each.name == "kproxy_connections_active")
    assert len(active.samples) == 3 * collector.PART + 1
    documented = {each.name for each in families if each.documentation}
    assert documented == {each.name for each in families}
    assert {"process_open_fds", "kproxy_build_info", "kproxy_log_lines_dropped"} <= documented


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]), st.lists(st.text(max_size=5), unique=True, max_size=9)
        ),
        unique_by=lambda family: family[0],
    ),
    st.integers(min_value=1, max_value=4),
)
def test_a_page_in_parts_is_the_page_that_the_library_makes_of_the_whole(
    families: list[tuple[str, list[str]]], part: int
) -> None:
    def metric(name: str, values: list[str]) -> Metric:
        made = Metric(name, "Help\nwith a \\ line.", "gauge")
        for value in values:
            made.add_sample(name, {"label": value}, 1.0)
        return made

    whole = [metric(name, values) for name, values in families]
    parts = [
        metric(name, values[start : start + part])
        for name, values in families
        for start in range(0, max(len(values), 1), part)
    ]

    class Whole:
        def collect(self) -> list[Metric]:
            return whole

    assert b"".join(scrape.lines(parts)) == exposition.generate_latest(Whole())


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_a_histogram_counts_everything_not_above_each_bound(seconds: list[float]) -> None:
    histogram = durations.Histogram(health.SYNC_BUCKETS)
    for each in seconds:
        histogram.observe(each)

    assert histogram.sum == pytest.approx(sum(seconds))
    assert histogram.cumulative() == [
        (bound, sum(each <= bound for each in seconds))
        for bound in (*health.SYNC_BUCKETS, math.inf)
    ]
