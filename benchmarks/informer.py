"""What 10,000 Services cost the informer: `python -m benchmarks.informer`.

An API server in a process of its own serves generated objects: all Services in one body, as real
servers answer from their cache, and one EndpointSlice of 10 endpoints for each. Then it changes
one endpoint at a time. Printed are the time until everything is listed, the memory of the process
that listed it, the longest time for which its event loop was held, and how long a change takes
from the server's write to the consumer of changes, and on to the balancer.
"""

import argparse
import asyncio
import gc
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from aiohttp import web

from kproxy.balancer import penalty
from kproxy.cluster import discovery, informer, rest_config, source
from kproxy.datapath import worker
from kproxy.model import names, services
from kproxy.portal import loopback
from kproxy.reconcile import dataplane, proxier

ENDPOINTS_EACH = 10
CHANGE_SECONDS = 0.02
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
    # As kproxy.server sets it: fewer and later collections.
    gc.set_threshold(50_000, 20, 50)
    async with _server(options) as url:
        arrived: list[float] = []
        balanced: list[float] = []
        box = penalty.PenaltyBox()
        data_path = worker.Worker(box, worker.Limits())
        plane = dataplane.WorkerDataPlane(data_path, box, random.Random())

        def on_change(changed: frozenset[names.NamespacedName]) -> None:
            if not is_measuring:
                return
            now = time.monotonic_ns()
            (name,) = changed
            (endpoint, *_) = informed.store.endpoints(names.ServicePortName(name, "http"))
            arrived.append((now - int(endpoint.node)) / 1e6)
            synced.mark(changed)
            synced.sync()
            balanced.append((time.monotonic_ns() - int(endpoint.node)) / 1e6)

        is_measuring = False
        access = _access(url)
        informed = informer.InformerSource(access, on_change=on_change, on_problem=_complain)
        synced = proxier.Proxier(
            informed.store,
            plane,
            loopback.LoopbackPortal(loopback.first_bindable_port()).locate,
            node="node",
            default_strategy=services.Strategy.ROUND_ROBIN,
        )
        before = _resident_mib()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            stalls: list[tuple[float, float]] = []
            ticking = group.create_task(_tick(stalls))
            running = group.create_task(informed.run())
            while not informed.has_synced:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.005)
            print(f"listed after      {time.perf_counter() - begun:.2f} s")
            print(f"memory            {_resident_mib():.0f} MiB (before: {before:.0f})")
            print(f"longest stall     {_longest(stalls)} while listing")
            gc.collect()
            gc.freeze()
            synced.mark_all()
            synced.sync()
            await asyncio.sleep(0.1)
            stalls.clear()
            is_measuring = True
            async with asyncio.timeout(60 + options.changes * CHANGE_SECONDS):
                while len(arrived) < options.changes:  # noqa: ASYNC110  # ditto
                    await asyncio.sleep(0.01)
            running.cancel()
            ticking.cancel()
        print(f"longest stall     {_longest(stalls)} while following")
        print(f"to the consumer   {_percentiles(arrived)}")
        print(f"to the balancer   {_percentiles(balanced)}")
        data_path.close()


def _access(url: str) -> rest_config.ClusterAccess:
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


async def _tick(stalls: list[tuple[float, float]]) -> None:
    """How long the loop was held, as seen by a task that wants to run every millisecond.

    Wall-clock and CPU seconds: on a shared machine only the latter are our own doing.
    """
    while True:
        begun, spent = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        stalls.append((time.perf_counter() - begun - 0.001, time.thread_time() - spent))


def _longest(stalls: list[tuple[float, float]]) -> str:
    wall, processor = (max(column) * 1e3 for column in zip(*stalls, strict=True))
    return f"{wall:.1f} ms ({processor:.1f} ms of CPU time)"


def _complain(problem: source.Problem) -> None:
    print(problem, file=sys.stderr)


def _percentiles(milliseconds: list[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=100)
    return f"p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms, {len(milliseconds)} changes"


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@asynccontextmanager
async def _server(options: argparse.Namespace) -> AsyncIterator[str]:
    words = ["--serve", f"--services={options.services}", f"--changes={options.changes}"]
    words += ["--streams"] if options.streams else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.informer", *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def _serve(options: argparse.Namespace) -> None:
    """The API server. It begins to change endpoints a second after the slices are watched."""
    kinds = {
        discovery.SERVICES.path(""): [_service(n) for n in range(options.services)],
        discovery.SLICES.path(""): [_slice(n, "node") for n in range(options.services)],
    }
    lines = {path: [_event("ADDED", each) for each in objects] for path, objects in kinds.items()}
    bodies = {path: _list(objects) for path, objects in kinds.items()}

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
        if request.path == discovery.SLICES.path(""):
            await asyncio.sleep(8)
            for line in _changes(options):
                await response.write(line)
                await asyncio.sleep(CHANGE_SECONDS)
        await asyncio.Event().wait()
        return response

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def _changes(options: argparse.Namespace) -> Iterator[bytes]:
    """Events that each tell, as the node of their endpoints, when they were made."""
    rng = random.Random(1)
    for version in range(options.changes):
        number = rng.randrange(options.services)
        changed = _slice(number, str(time.monotonic_ns()), FIRST_VERSION + 1 + version)
        yield _event("MODIFIED", changed)


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


def _metadata(name: str, number: int, labels: dict[str, str]) -> dict[str, Any]:
    managed: dict[str, Any] = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {"f:ports": {".": {}}},
    }
    return {
        "name": name,
        "namespace": f"namespace-{number % 50}",
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
