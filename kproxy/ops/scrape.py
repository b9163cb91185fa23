"""The metrics server: /metrics, /proxyMode and /healthz, on port 10249.

`prometheus_client.aiohttp.make_aiohttp_handler` renders a registry in one go, which at 10,000
Services holds the event loop for the better part of a second. The page is therefore made here, by
the library's own renderer, but part by part.
"""

from collections.abc import Iterable, Iterator

from aiohttp import web
from prometheus_client import exposition, process_collector, registry
from prometheus_client.metrics_core import Metric

from kproxy.ops import collector, observed, turns

PROXY_MODE = "userspace"
"""Conformance suites read this, to know which behaviour to expect."""


class _One(registry.Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def make_registry(seen: observed.Observed) -> registry.CollectorRegistry:
    """What a proxy shows. A registry of its own: two proxies in a process do not meet."""
    made = registry.CollectorRegistry()
    made.register(collector.ProxyCollector(seen))
    process_collector.ProcessCollector(registry=made)
    return made


def lines(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """The text format; parts of a family that follow each other become one."""
    family = ""
    for metric in metrics:
        text = exposition.generate_latest(_One(metric))
        if metric.name == family:
            _help, _type, text = text.split(b"\n", 2)
        yield text
        family = metric.name


def make_app(seen: observed.Observed, shared: turns.Turns) -> web.Application:
    """What is served on port 10249."""
    shown = make_registry(seen)

    async def metrics(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": exposition.CONTENT_TYPE_PLAIN_0_0_4})
        response.enable_compression()
        await response.prepare(request)
        if request.method == "HEAD":  # which aiohttp sees to only when it has the whole body
            return response
        async for batch in shared.batches(lines(shown.collect())):
            await response.write(b"".join(batch))
        return response

    async def proxy_mode(_request: web.Request) -> web.Response:
        return web.Response(text=PROXY_MODE)

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/proxyMode", proxy_mode)
    app.router.add_get("/healthz", healthz)
    return app
