"""What 10,000 Services cost beside a cluster: `python -m benchmarks.informer`.

An API server in a process of its own serves generated objects: all Services in one body, as real
servers answer from their cache, and one EndpointSlice of 10 endpoints for each. A whole proxy, as
`kproxy run` makes it, lists them and listens for every Service. Then one endpoint at a time is
replaced.

Printed are the time until everything is listed, and until it is served; the memory of the proxy;
the longest time for which its event loop was held in each phase; and how long a change takes from
the server's write until the balancer gives the new endpoint to a client. The balancer is asked
once a millisecond, which is part of that time.
"""

import argparse
import asyncio
import functools
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop
from aiohttp import web

from kproxy import config, server
from kproxy.model import names
from kproxy.model.kinds import endpoint_slice_kind, service_kind
from kproxy.ops.views import observed
from kproxy.sources.access import kubeconfig, rest_config
from kproxy.system import process

ENDPOINTS_EACH = 10
SERVICES = service_kind.KIND.collection.path("v1", "")
SLICES = endpoint_slice_kind.KIND.collection.path("v1", "")
CHANGE_SECONDS = 0.12
"""Longer than the interval that syncs keep: each change is one that comes alone."""
FIRST_VERSION = 1_000_000


def main() -> None:
    """Measure, or be the API server that is measured against."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--streams", action="store_true", help="offer streaming lists")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = _serve(options) if options.serve else _measure(options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run)


async def _measure(options: argparse.Namespace) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    process.prepare()
    with tempfile.TemporaryDirectory() as folder:
        async with _api_server(options) as api:
            ready = Path(folder, "ready")
            cfg = config.Config(cluster=_access(api.url), ready_file=ready, node="node")
            before = _resident_mib()
            stalls = Stalls()
            begun = time.perf_counter()
            proxy = server.Server(cfg)
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(stalls.watch())
                group.create_task(proxy.run())
                await _until(lambda: proxy.observed.source.has_synced)
                print(f"listed after      {time.perf_counter() - begun:.2f} s")
                print(f"memory            {_resident_mib():.0f} MiB (before: {before:.0f})")
                print(f"longest stall     {stalls.longest()} while listing")
                await _until(ready.exists)
                print(f"all served after  {time.perf_counter() - begun:.2f} s")
                print(f"memory            {_resident_mib():.0f} MiB")
                print(f"longest stall     {stalls.longest()} in the first sync")
                api.begin_changes()
                delays = await _follow(proxy.observed, options)
                print(f"longest stall     {stalls.longest()} while following")
                print(f"to the balancer   {_percentiles(delays)}")
                proxy.stop()
                ticking.cancel()


async def _follow(seen: observed.Observed, options: argparse.Namespace) -> list[float]:
    """How many milliseconds each change took."""
    delays = []
    for change, number in enumerate(_changed(options)):
        name = names.NamespacedName(_namespace(number), f"service-{number}")
        port = names.ServicePortName(name, "http")
        await _until(functools.partial(_is_chosen, seen, port, _new_address(change)))
        (written,) = {int(each.node) for each in seen.source.store.endpoints(port)}
        delays.append((time.monotonic_ns() - written) / 1e6)
    return delays


def _is_chosen(seen: observed.Observed, port: names.ServicePortName, address: str) -> bool:
    """Whether a client of the Service may get the endpoint of that address."""
    found = seen.source.store.endpoints(port)
    return any(
        each.backend.address == address and seen.plane.endpoint(port, each.backend).is_used
        for each in found
    )


async def _until(condition: Callable[[], bool]) -> None:
    """Ask once a millisecond. Raises TimeoutError."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


class Stalls:
    """How long the event loop was held, as seen by a task that wants to run every millisecond.

    In wall-clock and CPU seconds: on a shared machine only the latter are our own doing.
    """

    def __init__(self) -> None:
        # Not every one of them: a list of 60,000 would be what the collector stops for.
        self._wall = self._processor = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            begun, spent = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self._wall = max(self._wall, time.perf_counter() - begun - 0.001)
            self._processor = max(self._processor, time.thread_time() - spent)

    def longest(self) -> str:
        """Since this was asked last."""
        told = f"{self._wall * 1e3:.1f} ms ({self._processor * 1e3:.1f} ms of CPU time)"
        self._wall = self._processor = 0.0
        return told


def _access(url: str) -> kubeconfig.ClusterAccess:
    """As `kproxy run --kubeconfig` gets it, which imports the transport before anything runs."""
    name = "benchmark"
    config = {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name}}],
        "clusters": [{"name": name, "cluster": {"server": url}}],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        return rest_config.load(file.name, None)


def _percentiles(milliseconds: list[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=100)
    longest = max(milliseconds)
    return (
        f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, longest {longest:.2f} ms "
        f"of {len(milliseconds)} changes"
    )


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class ApiServer:
    """The process that answers. It belongs to `_api_server`."""

    def __init__(self, url: str, orders: asyncio.StreamWriter) -> None:
        self.url = url
        self._orders = orders

    def begin_changes(self) -> None:
        """Replace endpoints from now on."""
        self._orders.write(b"begin\n")


@asynccontextmanager
async def _api_server(options: argparse.Namespace) -> AsyncIterator[ApiServer]:
    words = ["--serve", f"--services={options.services}", f"--changes={options.changes}"]
    words += ["--streams"] if options.streams else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.informer", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        yield ApiServer(url, process.stdin)
    finally:
        process.terminate()
        await process.wait()


async def _serve(options: argparse.Namespace) -> None:
    """The API server. It begins to change endpoints when it reads a line."""
    kinds = {
        SERVICES: [_service(n) for n in range(options.services)],
        SLICES: [_slice(n, "node") for n in range(options.services)],
    }
    lines = {path: [_event("ADDED", each) for each in objects] for path, objects in kinds.items()}
    bodies = {path: _list(objects) for path, objects in kinds.items()}
    began = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path not in kinds:
            return web.Response(body=json.dumps({"versions": [{"version": "v1"}]}).encode())
        is_stream = "sendInitialEvents" in request.query
        if is_stream and not options.streams:
            return web.Response(status=422)
        if "watch" not in request.query:
            return web.Response(body=bodies[request.path])
        response = web.StreamResponse()
        await response.prepare(request)
        if is_stream:
            for line in (*lines[request.path], _END):
                await response.write(line)
        if request.path == SLICES:
            await began.wait()
            for change, number in enumerate(_changed(options)):
                await response.write(_replacement(change, number))
                await asyncio.sleep(CHANGE_SECONDS)
        await asyncio.Event().wait()
        return response

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began.set()
    await asyncio.Event().wait()


def _changed(options: argparse.Namespace) -> Iterator[int]:
    """The numbers of the Services that change, in order."""
    rng = random.Random(1)
    return (rng.randrange(options.services) for _ in range(options.changes))


def _replacement(change: int, number: int) -> bytes:
    """The event of a new first endpoint. It tells as every endpoint's node when it was made."""
    changed = _slice(number, str(time.monotonic_ns()), FIRST_VERSION + 1 + change)
    changed["endpoints"][0]["addresses"] = [_new_address(change)]
    return _event("MODIFIED", changed)


def _new_address(change: int) -> str:
    return f"10.200.{change >> 8}.{change & 255}"


def _service(number: int) -> dict[str, Any]:
    address = f"10.{96 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
    return {
        "metadata": _metadata(f"service-{number}", number, {"app": f"service-{number}"}),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "targetPort": 8080}],
            "selector": {"app": f"service-{number}"},
            "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    }


def _slice(number: int, node: str, version: int | None = None) -> dict[str, Any]:
    first = number * ENDPOINTS_EACH
    labels = {"kubernetes.io/service-name": f"service-{number}"}
    metadata = _metadata(f"service-{number}-x7k2p", number, labels)
    metadata["resourceVersion"] = str(version or number + 1)
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [f"10.{128 + (at >> 16)}.{at >> 8 & 255}.{at & 255}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": node,
                "targetRef": {
                    "kind": "Pod",
                    "namespace": metadata["namespace"],
                    "name": f"service-{number}-6d4cf56db6-{at:05}",
                    "uid": "9063451e-ac25-4064-bbeb-6a03e638b1e8",
                },
                "zone": "zone-a",
            }
            for at in range(first, first + ENDPOINTS_EACH)
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def _namespace(number: int) -> str:
    return f"namespace-{number % 50}"


def _metadata(name: str, number: int, labels: dict[str, str]) -> dict[str, Any]:
    managed: dict[str, Any] = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {"f:ports": {".": {}}},
    }
    return {
        "name": name,
        "namespace": _namespace(number),
        "uid": "9063451e-ac25-4064-bbeb-6a03e638b1e8",
        "resourceVersion": str(number + 1),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels,
        "managedFields": [{"manager": "controller", "operation": "Update", "fieldsV1": managed}],
    }


def _list(objects: list[dict[str, Any]]) -> bytes:
    metadata = {"resourceVersion": str(FIRST_VERSION)}
    return json.dumps(
        {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": objects},
        separators=(",", ":"),
    ).encode()


def _event(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}, separators=(",", ":")).encode() + b"\n"


_END = _event(
    "BOOKMARK",
    {
        "metadata": {
            "resourceVersion": str(FIRST_VERSION),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }
    },
)

if __name__ == "__main__":
    main()
