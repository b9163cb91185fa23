"""The metrics server: /metrics, /proxyMode and /healthz, on port 10249.

`prometheus_client.aiohttp.make_aiohttp_handler` renders a registry in one go, which at 10,000
Services holds the event loop for the better part of a second. The page is therefore made here, by
the library's own renderer, but part by part.
"""

import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import exposition, registry
from prometheus_client.metrics_core import Metric

from kproxy import turns
from kproxy.ops.prometheus import collector, process_metrics
from kproxy.ops.serving import answers, heads, responder
from kproxy.ops.views import observed
from kproxy.plane import plane

PROXY_MODE = "userspace"
"""Conformance suites read it to know which behaviour to expect."""


class _One(registry.Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def make_registry(seen: observed.Observed) -> registry.CollectorRegistry:
    """A registry of one proxy's metrics: two proxies would share the library's global one."""
    made = registry.CollectorRegistry()
    made.register(collector.ProxyCollector(seen))
    made.register(process_metrics.ProcessCollector())
    return made


def lines(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """The text format; consecutive parts of a family are joined."""
    family = ""
    for metric in metrics:
        text = exposition.generate_latest(_One(metric))
        if metric.name == family:
            _help, _type, text = text.split(b"\n", 2)
        yield text
        family = metric.name


def make_site(seen: observed.Observed, shared: turns.Turns) -> responder.Site:
    """What is served on port 10249."""
    shown = make_registry(seen)

    async def page() -> answers.Body:
        await seen.plane.refresh(plane.Part.PORTS | plane.Part.BYTES, shared)
        async with contextlib.aclosing(shared.batches(lines(shown.collect()))) as batches:
            async for batch in batches:
                yield b"".join(batch)

    async def metrics(_request: heads.Request) -> answers.Answer:
        kind = exposition.CONTENT_TYPE_PLAIN_0_0_4
        return answers.Answer(200, page(), kind, may_be_compressed=True)

    async def proxy_mode(_request: heads.Request) -> answers.Answer:
        return answers.sentence(200, PROXY_MODE)

    async def healthz(_request: heads.Request) -> answers.Answer:
        return answers.sentence(200, "ok")

    return responder.Site({"/metrics": metrics, "/proxyMode": proxy_mode, "/healthz": healthz})
