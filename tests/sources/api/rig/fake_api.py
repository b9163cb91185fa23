"""A fake API server on loopback: holds objects, lists and watches them, misbehaves on demand.

It is faithful only as far as a reflector looks. `api.script(path, mode, *behaviours)` queues what
the next requests of a kind get instead of the normal answer; a behaviour is an async function of
the request that returns or sends a response.
"""

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, TypeAlias

from aiohttp import web

from kproxy.sources.api.decisions import queries

SERVICES = "/api/v1/services"
ENDPOINTS = "/api/v1/endpoints"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
BETA_SLICES = "/apis/discovery.k8s.io/v1beta1/endpointslices"
GROUP = "/apis/discovery.k8s.io"

BOOKMARK_SECONDS = 60

Object: TypeAlias = dict[str, Any]
Behaviour: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Asked:
    """One request: what for, and when on the event loop's clock."""

    path: str
    mode: str
    query: dict[str, str]
    at: float
    authorization: str


@dataclass
class FakeApi:
    """`objects` by collection path and name. `streams`: it offers streaming lists."""

    versions: tuple[str, ...] = ("v1",)
    streams: bool = False
    token: str = ""
    identity: str = ""
    """The common name of the certificate that a client must show, "" for none."""
    version: int = 100
    url: str = ""
    objects: dict[str, dict[str, Object]] = field(default_factory=lambda: defaultdict(dict))
    asked: list[Asked] = field(default_factory=list)
    history: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    behave: Behaviour | None = None
    """Answers every request, in place of `answer`."""
    _scripts: dict[tuple[str, str], deque[Behaviour]] = field(
        default_factory=lambda: defaultdict(deque)
    )
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    def script(self, path: str, mode: str, *behaviours: Behaviour) -> None:
        """Answer the next requests for `path` in `mode` so.

        Modes are "list", "stream", "watch", "probe", "get".
        """
        self._scripts[path, mode].extend(behaviours)

    def put(self, path: str, name: str, body: Object, *, silently: bool = False) -> int:
        """Create or change an object; `silently` leaves no event, as for what is compacted."""
        self.version += silently
        kind = "MODIFIED" if name in self.objects[path] else "ADDED"
        metadata = {"namespace": "default", **body.get("metadata", {})}
        metadata |= {"name": name, "resourceVersion": str(self.version + (not silently))}
        self.objects[path][name] = {**body, "metadata": metadata}
        if not silently:
            self.emit(path, kind, self.objects[path][name])
        return self.version

    def remove(self, path: str, name: str, *, silently: bool = False) -> None:
        """Delete an object."""
        gone = self.objects[path].pop(name)
        metadata = {**gone["metadata"], "resourceVersion": str(self.version + 1)}
        if silently:
            self.version += 1
        else:
            self.emit(path, "DELETED", {**gone, "metadata": metadata})

    def emit(self, path: str, kind: str, body: Object) -> None:
        """Send an event to the clients that watch `path`."""
        self.version += 1
        self.history[path].append((self.version, event(kind, body)))
        self._stirred.set()
        self._stirred = asyncio.Event()

    def forget_scripts(self) -> None:
        """From now on every request gets the normal answer."""
        self._scripts.clear()

    def requests(self, path: str, mode: str) -> list[Asked]:
        """What was asked so far."""
        return [asked for asked in self.asked if (asked.path, asked.mode) == (path, mode)]

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        mode = _mode(request)
        now = asyncio.get_running_loop().time()
        authorization = request.headers.get("Authorization", "")
        query = dict(request.query)
        self.asked.append(Asked(request.path, mode, query, now, authorization))
        if self.token and authorization != f"Bearer {self.token}":
            return status(401, "Unauthorized", "Unauthorized")
        if self.identity and self.identity != _common_name(request):
            return status(401, "Unauthorized", "Unauthorized")
        if script := self._scripts[request.path, mode]:
            return await script.popleft()(request)
        if request.path == GROUP:
            if not self.versions:
                return status(404, "NotFound", "the server could not find the requested resource")
            return reply({"kind": "APIGroup", "versions": [{"version": v} for v in self.versions]})
        if request.path.startswith(GROUP) and request.path.split("/")[3] not in self.versions:
            return status(404, "NotFound", "the server could not find the requested resource")
        if mode == "list":
            return self.list(request)
        if mode == "stream" and not self.streams:
            return status(422, "Invalid", "sendInitialEvents is forbidden for watch")
        return await self.watch(request)

    def list(self, request: web.BaseRequest) -> web.Response:
        """All objects, in one page unless a limit is given with a version other than 0."""
        items = list(self.objects[request.path].values())
        start = int(request.query.get("continue", "0"))
        limit = int(request.query.get("limit", "0"))
        metadata = {"resourceVersion": str(self.version)}
        if limit and request.query.get("resourceVersion") != "0" and start + limit < len(items):
            metadata["continue"] = str(start + limit)
            items = items[start : start + limit]
        else:
            items = items[start:]
        return reply({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items})

    async def answer_list(self, request: web.BaseRequest) -> web.StreamResponse:
        """As `list`, for scripts."""
        return self.list(request)

    async def watch(self, request: web.BaseRequest) -> web.StreamResponse:
        """Events after the version asked for, until the client goes."""
        response = await begin(request)
        sent = int(request.query.get("resourceVersion") or 0)
        if request.query.get("sendInitialEvents"):
            for each in self.objects[request.path].values():
                await response.write(event("ADDED", each))
            sent = self.version
            await response.write(bookmark(sent, is_end=True))
        seconds = float(request.query.get("timeoutSeconds", "300"))
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                due = loop.time() + BOOKMARK_SECONDS
                while True:
                    stirred = self._stirred
                    for at, line in self.history[request.path]:
                        if at > sent:
                            await response.write(line)
                            sent = at
                    if loop.time() >= due:
                        await response.write(bookmark(max(sent, self.version)))
                        due += BOOKMARK_SECONDS
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(min(due, loop.time() + BOOKMARK_SECONDS)):
                            await stirred.wait()
        return response


def _common_name(request: web.BaseRequest) -> str:
    """Of the certificate that the client showed, "" if it showed none."""
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert")
    return dict(certificate["subject"][0])["commonName"] if certificate else ""


@contextlib.asynccontextmanager
async def serving(api: FakeApi, tls: SSLContext | None = None) -> AsyncIterator[FakeApi]:
    """Serve `api` on a port of its own; its `url` says where."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await (api.behave or api.answer)(request)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        scheme = "https" if tls else "http"
        api.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        yield api
    finally:
        await runner.cleanup()


def service(ip: str = "10.96.0.1", port: int = 80, **metadata: Any) -> Object:
    """A Service of one port named http."""
    ports = [{"name": "http", "port": port, "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "clusterIP": ip, "ports": ports}
    return {"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": spec}


def sliced(of: str, *ips: str) -> Object:
    """An EndpointSlice of Service `of`."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]} for ip in ips],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def serve_web(api: FakeApi, *ips: str) -> None:
    """Create a Service named web, and its one slice."""
    api.put(SERVICES, "web", service())
    api.put(SLICES, "web-1", sliced("web", *ips))


def event(kind: str, body: Object) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def bookmark(version: int, *, is_end: bool = False) -> bytes:
    """A BOOKMARK line, of the kind that ends a streaming list if `is_end`."""
    metadata: Object = {"resourceVersion": str(version)}
    if is_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"metadata": metadata})


def status_object(code: int, reason: str, message: str) -> Object:
    """A Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def reply(body: Object, code: int = 200) -> web.Response:
    """A whole JSON answer."""
    return web.Response(
        body=json.dumps(body).encode(), status=code, content_type="application/json"
    )


def status(code: int, reason: str, message: str) -> web.Response:
    """An answer that is a Status."""
    return reply(status_object(code, reason, message), code)


async def begin(request: web.BaseRequest) -> web.StreamResponse:
    """The head of a watch."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    return response


def fails(code: int, reason: str = "", message: str = "", **headers: str) -> Behaviour:
    """Answer with a Status."""

    async def behave(_: web.BaseRequest) -> web.StreamResponse:
        response = status(code, reason, message)
        response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return response

    return behave


def sends(*parts: bytes, then: str = "end", code: int = 200) -> Behaviour:
    """Send these bytes; then "end", "abort" the connection, or keep "silent"."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=code)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "abort" and request.transport is not None:
            request.transport.abort()
        if then == "silent":
            await asyncio.Event().wait()
        return response

    return behave


def _mode(request: web.BaseRequest) -> str:
    if request.path == GROUP:
        return "get"
    if request.query.get("sendInitialEvents"):
        return "stream"
    if request.query.get("watch"):
        is_probe = request.query.get("timeoutSeconds") == str(queries.PROBE_SECONDS)
        return "probe" if is_probe else "watch"
    return "list"
