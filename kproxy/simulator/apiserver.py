"""The API server: a registry over HTTP, with discovery, OpenAPI, authentication and faults."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from aiohttp import web

from kproxy import errors
from kproxy.simulator import (
    certificates,
    discovery,
    encoding,
    faults,
    http_log,
    kubeconfig,
    media,
    openapi,
    openapi_protobuf,
    request_info,
    resources,
    rest,
    status,
    versions,
    watch_stream,
)
from kproxy.simulator.registry import Registry
from kproxy.simulator.resources import Resource

_log = structlog.get_logger(__name__)

LARGEST_BODY = 3 * 1024 * 1024
"""Bytes in a request's body: kube-apiserver's limit."""

_CHECKS = ("healthz", "livez", "readyz")
_FAULTS = "/simulator/faults"
_BAD_GATEWAY = (
    "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
)

SERVED = (*resources.ALL, versions.ENDPOINT_SLICES_V1BETA1)
"""What is served unless told otherwise."""


class ApiServer:
    """Serves `registry` on `address`; port 0 picks one, which later starts keep.

    It shows `certificate`, or speaks plain HTTP without one, which kubectl cannot authenticate to.
    `tokens` maps bearer tokens to the names of users; it may be changed while serving. `served`
    is which resources are there, and in which versions; without `streaming_lists` the server
    refuses `sendInitialEvents`, as one before 1.32 does. `bookmark_interval` is in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, str],
        certificate: certificates.Certificate | None = None,
        served: Sequence[Resource] = SERVED,
        streaming_lists: bool = True,
        bookmark_interval: float = 60.0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.address = address
        self.port = port
        self.tokens = dict(tokens)
        self.faults = faults.Faults()
        self._certificate = certificate
        self._served = tuple(served)
        self._streams = watch_stream.WatchStreams(
            registry.storage, self.faults, bookmark_interval=bookmark_interval, draw=draw
        )
        self._rest = rest.Rest(
            registry, self.faults, self._streams, streaming_lists=streaming_lists
        )
        self._openapi = openapi.Documents(self._served)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, once it has started."""
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{self.address}:{self.port}"

    def kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig for the first of the tokens."""
        authority = self._certificate.pem if self._certificate else None
        return kubeconfig.kubeconfig(self.url, next(iter(self.tokens)), authority)

    async def start(self) -> None:
        """Listen. Raises KproxyError if the port cannot be had."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._streams.open()
        runner = web.AppRunner(
            application,
            handler_cancellation=True,
            access_log=None,
            logger=http_log.LOGGER,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        context = self._certificate.server_context() if self._certificate else None
        site = web.TCPSite(runner, self.address, self.port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise errors.KproxyError(
                f"the API server cannot listen on {self.address}:{self.port}: "
                f"{error.strerror}; choose another port, or 0 for any"
            ) from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """End the watches and close every connection. It may be started again."""
        self._streams.close()
        if self._runner is None:
            return
        assert self._runner.server is not None
        transports = [each.transport for each in self._runner.server.connections]
        await self._runner.cleanup()
        self._runner = None
        for transport in transports:
            if transport is not None:
                # asyncio would wait half a minute for a TLS client's own goodbye.
                transport.abort()
        await asyncio.sleep(0)  # closes the sockets that were aborted

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except status.StatusError as error:
            return _failure(error)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {LARGEST_BODY}"
            return _failure(status.StatusError(413, "RequestEntityTooLarge", message))
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has left
        except Exception as error:
            _log.exception("request failed", method=request.method, path=request.path)
            return _failure(status.internal_error(f"{type(error).__name__}: {error}"))

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path.strip("/") in _CHECKS:
            return web.Response(text="ok")
        user = self.tokens.get(_token(request.headers.get("Authorization", "")))
        if user is None:
            raise status.unauthorized()
        if path == _FAULTS:
            return await self._switch(request)
        if path.startswith("/openapi/"):
            # In a thread: the schemas take a second to make, when they are first asked for.
            return await asyncio.to_thread(self._openapi_document, request, path)
        document = self._document(request, path)
        if document is not None:
            return document
        info = request_info.parse(request.method, path, request.query, self._served)
        fault = self.faults.take(faults.ANSWERS, info.resource.plural, info.verb)
        if fault is not None:
            return await self._faulty(fault, info, user)
        return await self._rest.answer(request, info)

    async def _faulty(
        self, fault: faults.Fault, info: request_info.RequestInfo, user: str
    ) -> web.StreamResponse:
        match fault.kind:
            case faults.Kind.TOO_MANY_REQUESTS:
                raise status.too_many_requests(int(fault.seconds))
            case faults.Kind.UNAUTHORIZED:
                raise status.unauthorized()
            case faults.Kind.FORBIDDEN:
                raise status.forbidden(info.resource, info.name, _not_allowed(info, user))
            case faults.Kind.BAD_GATEWAY:
                return web.Response(status=502, text=_BAD_GATEWAY, content_type="text/html")
            case faults.Kind.STALLED_HEADERS:
                await self._streams.closed()
        raise status.internal_error("a fault was ordered")

    async def _switch(self, request: web.Request) -> web.StreamResponse:
        """The switches of faults: GET tells them, POST sets one, DELETE clears all."""
        if request.method == "POST":
            self.faults.set_from(media.body(request.content_type, await request.read()))
        elif request.method == "DELETE":
            self.faults.clear()
        elif request.method != "GET":
            raise status.StatusError(405, "MethodNotAllowed", "use GET, POST or DELETE")
        return _json({"kind": "FaultList", "apiVersion": "v1", "items": self.faults.active()})

    def _document(self, request: web.Request, path: str) -> web.Response | None:
        """The answer if the path names a document about the API, else None."""
        if request.method not in ("GET", "HEAD"):
            return None
        accept = request.headers.get("Accept", "")
        if path in ("/api", "/apis") and "apidiscovery.k8s.io" in accept:
            return self._aggregated(path, accept)
        documents: Mapping[str, Callable[[], Any]] = {
            "": self._paths,
            "/version": discovery.version,
            "/api": lambda: discovery.api_versions(f"{self.address}:{self.port}"),
            "/apis": lambda: discovery.group_list(self._served),
        }
        if path in documents:
            return _json(documents[path]())
        return self._group_document(path)

    def _group_document(self, path: str) -> web.Response | None:
        for resource in self._served:
            if path == f"/apis/{resource.group}":
                return _json(discovery.group(self._served, resource.group))
            if path == _root(resource):
                return _json(discovery.resource_list(self._served, resource.api_version))
        return None

    def _openapi_document(self, request: web.Request, path: str) -> web.Response:
        accept = request.headers.get("Accept", "")
        if path == "/openapi/v2" and openapi_protobuf.MEDIA_TYPE in accept:
            return web.Response(
                body=self._openapi.v2_protobuf(),
                headers={"Content-Type": openapi_protobuf.CONTENT_TYPE},
            )
        media.accepted(accept, can_be_table=False)
        if path == "/openapi/v2":
            return _json(self._openapi.v2())
        if path == "/openapi/v3":
            return _json(self._openapi.v3_index())
        document = self._openapi.v3(path.removeprefix("/openapi/v3/"))
        if document is None:
            raise status.no_such_path()
        return _json(document)

    def _aggregated(self, path: str, accept: str) -> web.Response:
        version = "v2" if "v=v2;" in accept or accept.endswith("v=v2") else "v2beta1"
        document = discovery.aggregated(self._served, core=path == "/api", version=version)
        kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        return web.Response(body=encoding.encode(document), headers={"Content-Type": kind})

    def _paths(self) -> dict[str, Any]:
        roots = dict.fromkeys(_root(resource) for resource in self._served)
        paths = ["/api", "/apis", *roots, "/healthz", "/livez", "/openapi/v2", "/readyz", _FAULTS]
        return {"paths": [*paths, "/version"]}


def _token(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _root(resource: Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


def _not_allowed(info: request_info.RequestInfo, user: str) -> str:
    where = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
    return (
        f"User {json.dumps(user)} cannot {info.verb} resource {json.dumps(info.resource.plural)} "
        f"in API group {json.dumps(info.resource.group)} {where}"
    )


def _failure(error: status.StatusError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return web.Response(
        body=encoding.encode(error.body()) + b"\n",
        status=error.code,
        content_type="application/json",
        headers=headers,
    )


def _json(value: Any) -> web.Response:
    return web.Response(body=encoding.encode(value), content_type="application/json")
