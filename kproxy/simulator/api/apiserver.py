"""The API server: a registry over HTTP, with discovery, OpenAPI, authentication and faults."""

import asyncio
import contextlib
import json
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import structlog
from aiohttp import web

from kproxy import errors
from kproxy.simulator import admin_kubeconfig, certificates, http_server
from kproxy.simulator.api import (
    api_discovery,
    emulation,
    request_info,
    rest,
    server_faults,
    warnings,
)
from kproxy.simulator.api.formats import encoding, media, openapi, openapi_protobuf
from kproxy.simulator.api.reading import watch_cache, watch_stream
from kproxy.simulator.store import statuses
from kproxy.simulator.store.registry import Registry
from kproxy.simulator.store.resources import Resource

_log = structlog.get_logger(__name__)

_CHECKS = ("healthz", "livez", "readyz")
_FAULTS = "/simulator/faults"
_BAD_GATEWAY = (
    "<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
)

_ROLE_NOT_LOADED = 'RBAC: clusterrole.rbac.authorization.k8s.io "cluster-admin" not found'
_REBIND_SECONDS = 10.0
"""Seconds for which a restart tries to bind its port again, which another process may hold."""


class ApiServer:
    """Serves `registry` on `address`; port 0 picks one, which later starts keep.

    It shows `certificate`, or speaks plain HTTP without one, which kubectl cannot authenticate to;
    `renew` makes the certificate that follows a loss of the key. `tokens` maps bearer tokens to
    the names of users; it may be changed while serving. `emulate` is the kube-apiserver that it
    resembles; `served` and `streaming_lists` overrule it in which resources are there, in which
    versions, and in whether `sendInitialEvents` is served or refused. `bookmark_interval` is in
    seconds.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, str],
        certificate: certificates.Certificate | None = None,
        renew: Callable[[], certificates.Certificate] | None = None,
        emulate: emulation.Emulation = emulation.V1_33,
        served: Sequence[Resource] | None = None,
        streaming_lists: bool | None = None,
        bookmark_interval: float = 60.0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.address = address
        self.port = port
        self.tokens = dict(tokens)
        self.faults = server_faults.Faults()
        self.emulated = _overruled(emulate, served=served, streaming_lists=streaming_lists)
        self.cache = watch_cache.WatchCache(
            registry.storage, follows_revision=self.emulated.follows_revision
        )
        self._certificate = certificate
        self._renew = renew
        self._served = tuple(self.emulated.served)
        self._draw = draw
        self._streams = watch_stream.WatchStreams(
            self.cache,
            self.faults,
            bookmark_interval=bookmark_interval,
            bookmarks_when_quiet=self.emulated.bookmarks_when_quiet,
            draw=draw,
        )
        self._rest = rest.Rest(
            registry,
            self.cache,
            self.faults,
            self._streams,
            streaming_lists=self.emulated.streaming_lists,
        )
        self._openapi = openapi.Documents(self._served)
        self._runner: web.ServerRunner | None = None
        self._lifecycle = asyncio.Lock()
        """Held by a start, a stop or a restart: an incident may begin during another."""
        self._fresh_tokens: set[str] = set()
        self._on_access_change: list[Callable[[], None]] = []
        self._incidents: set[asyncio.Task[None]] = set()
        self.faults.on_incident(self._begin_incident)

    @property
    def url(self) -> str:
        """Where it listens, once it has started."""
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{self.address}:{self.port}"

    @property
    def certificate(self) -> certificates.Certificate | None:
        """The certificate that it shows, None for plain HTTP. A new key replaces it."""
        return self._certificate

    def kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig for the first of the tokens."""
        authority = self._certificate.pem if self._certificate else None
        return admin_kubeconfig.kubeconfig(self.url, next(iter(self.tokens)), authority)

    def on_access_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever `kubeconfig` has changed, to a new token or a new authority."""
        self._on_access_change.append(callback)

    async def start(self) -> None:
        """Listen, unless it does already. Raises KproxyError if the port is taken."""
        async with self._lifecycle:
            await self._start()

    async def _start(self) -> None:
        if self._runner is not None:
            return
        if self.emulated.forgets_on_restart:
            self.cache.restart()
        self._streams.open()
        server = http_server.Server(self._answer, largest_body=media.LARGEST_BODY, cancels=True)
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
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
        if self.emulated.loads_rbac is not None:
            self.faults.set(
                server_faults.Kind.LATE_RBAC, seconds=self._draw(*self.emulated.loads_rbac)
            )

    async def stop(self) -> None:
        """End the watches and close every connection. It may be started again."""
        async with self._lifecycle:
            await self._stop()

    async def _stop(self) -> None:
        self._streams.close()
        if self._runner is None:
            return
        assert self._runner.server is not None
        transports = [each.transport for each in self._runner.server.connections]
        await self._runner.cleanup()
        self._runner = None
        for transport in transports:
            if transport is not None:
                # asyncio would wait half a minute for a TLS client's close_notify.
                transport.abort()
        await asyncio.sleep(0)  # closes the sockets that were aborted

    async def restart(self, *, down_for: float = 0.0) -> None:
        """Stop, and start again after `down_for` seconds without what the watch cache had.

        Raises KproxyError if another process holds the port for too long.
        """
        clock = asyncio.get_running_loop().time
        async with self._lifecycle:
            await self._stop()
            await asyncio.sleep(down_for)
            self.cache.restart()
            deadline = clock() + _REBIND_SECONDS
            while True:
                try:
                    return await self._start()
                except errors.KproxyError:
                    if clock() >= deadline:
                        raise
                await asyncio.sleep(0.1)

    async def rekey(self, *, down_for: float = 0.0) -> None:
        """Restart with a new authority and a new certificate, and change `kubeconfig`."""
        if self._renew is not None:
            self._certificate = await asyncio.to_thread(self._renew)
        await self.restart(down_for=down_for)
        self._notify_access_change()

    def rotate_token(self) -> None:
        """Replace the first token by a new one of the same user, and change `kubeconfig`."""
        old, user = next(iter(self.tokens.items()))
        new = secrets.token_hex(16)
        self._fresh_tokens = {new}
        others = {token: name for token, name in self.tokens.items() if token != old}
        self.tokens = {new: user, **others}
        self._notify_access_change()

    def _is_revoked(self, token: str) -> bool:
        if token in self._fresh_tokens:
            return False
        return self.faults.take((server_faults.Kind.REVOKED_TOKENS,), "", "") is not None

    def _notify_access_change(self) -> None:
        for callback in self._on_access_change:
            callback()

    def _begin_incident(self, fault: server_faults.Fault) -> None:
        task = asyncio.get_running_loop().create_task(self._incident(fault), name=fault.kind)
        self._incidents.add(task)
        task.add_done_callback(self._incidents.discard)

    async def _incident(self, fault: server_faults.Fault) -> None:
        try:
            match fault.kind:
                case server_faults.Kind.RESTART:
                    await self.restart(down_for=fault.seconds)
                case server_faults.Kind.REKEY:
                    await self.rekey(down_for=fault.seconds)
                case server_faults.Kind.ROTATED_TOKEN:
                    self.rotate_token()
                case _:
                    self.cache.objects.compact()
        except errors.KproxyError as error:
            _log.error("the API server did not come back", error=str(error))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in tuple(self._incidents):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.stop()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except statuses.StatusError as error:
            return _failure(error)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {media.LARGEST_BODY}"
            return _failure(statuses.StatusError(413, "RequestEntityTooLarge", message))
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has left
        except Exception as error:
            _log.exception("request failed", method=request.method, path=request.path)
            return _failure(statuses.internal_error(f"{type(error).__name__}: {error}"))

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/")
        token = _token(request.headers.get("Authorization", ""))
        user = self.tokens.get(token)
        if path == _FAULTS and user is not None:
            return await self._switch(request)
        if self.faults.take(server_faults.EVERYTHING, "", ""):
            await self._streams.woken()
        if path.strip("/") in _CHECKS:
            return web.Response(text="ok")
        if user is None or self._is_revoked(token):
            raise statuses.unauthorized()
        if path.startswith("/openapi/"):
            # In a thread: at the first request the schemas take a second to make.
            return await asyncio.to_thread(self._openapi_document, request, path)
        document = self._document(request, path)
        if document is not None:
            return document
        info = request_info.parse(request.method, path, request.query, self._served)
        fault = self.faults.take(server_faults.ANSWERS, info.resource.plural, info.verb)
        if fault is not None:
            return await self._faulty(fault, info, user)
        response = await self._rest.answer(request, info)
        warnings.add(response, self.emulated.deprecations.get(info.resource, ()))
        return response

    async def _faulty(
        self, fault: server_faults.Fault, info: request_info.RequestInfo, user: str
    ) -> web.StreamResponse:
        match fault.kind:
            case server_faults.Kind.TOO_MANY_REQUESTS:
                raise statuses.too_many_requests(int(fault.seconds))
            case server_faults.Kind.UNAUTHORIZED:
                raise statuses.unauthorized()
            case server_faults.Kind.FORBIDDEN:
                raise statuses.forbidden(info.resource, info.name, _not_allowed(info, user))
            case server_faults.Kind.LATE_RBAC:
                detail = f"{_not_allowed(info, user)}: {_ROLE_NOT_LOADED}"
                raise statuses.forbidden(info.resource, info.name, detail)
            case server_faults.Kind.BAD_GATEWAY:
                return web.Response(status=502, text=_BAD_GATEWAY, content_type="text/html")
            case server_faults.Kind.STALLED_HEADERS:
                await self._streams.closed()
        raise statuses.internal_error("a fault was ordered")

    async def _switch(self, request: web.BaseRequest) -> web.StreamResponse:
        """The switches of faults: GET lists them, POST sets one, DELETE clears all."""
        if request.method == "POST":
            return await self._set(request)
        if request.method == "DELETE":
            self.faults.clear()
        elif request.method != "GET":
            raise statuses.StatusError(405, "MethodNotAllowed", "use GET, POST or DELETE")
        return self._active_faults()

    async def _set(self, request: web.BaseRequest) -> web.StreamResponse:
        kind, settings = server_faults.parsed(await rest.decoded_body(request))
        if kind not in server_faults.INCIDENTS:
            self.faults.set(kind, **settings)
            return self._active_faults()
        # Answer first: the incident may close this connection.
        response = self._active_faults()
        await response.prepare(request)
        await response.write_eof()
        self.faults.set(kind, **settings)
        return response

    def _active_faults(self) -> web.Response:
        return _json({"kind": "FaultList", "apiVersion": "v1", "items": self.faults.active()})

    def _document(self, request: web.BaseRequest, path: str) -> web.Response | None:
        """The answer if the path names a document about the API, else None."""
        if request.method not in ("GET", "HEAD"):
            return None
        accept = request.headers.get("Accept", "")
        is_aggregated = "apidiscovery.k8s.io" in accept and self.emulated.minor >= 26
        if path in ("/api", "/apis") and is_aggregated:
            return self._aggregated(path, accept)
        documents: Mapping[str, Callable[[], Any]] = {
            "": self._paths,
            "/version": lambda: api_discovery.version(self.emulated),
            "/api": lambda: api_discovery.api_versions(f"{self.address}:{self.port}"),
            "/apis": lambda: api_discovery.group_list(self._served),
        }
        if path in documents:
            return _json(documents[path]())
        return self._group_document(path)

    def _group_document(self, path: str) -> web.Response | None:
        for resource in self._served:
            if path == f"/apis/{resource.group}":
                return _json(api_discovery.group(self._served, resource.group))
            if path == _root(resource):
                return _json(api_discovery.resource_list(self._served, resource.api_version))
        return None

    def _openapi_document(self, request: web.BaseRequest, path: str) -> web.Response:
        accept = request.headers.get("Accept", "")
        if path.startswith("/openapi/v3") and self.emulated.minor < 24:
            raise statuses.no_such_path()
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
            raise statuses.no_such_path()
        return _json(document)

    def _aggregated(self, path: str, accept: str) -> web.Response:
        version = "v2" if "v=v2;" in accept or accept.endswith("v=v2") else "v2beta1"
        document = api_discovery.aggregated(self._served, core=path == "/api", version=version)
        kind = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
        return web.Response(body=encoding.encode(document), headers={"Content-Type": kind})

    def _paths(self) -> dict[str, Any]:
        roots = dict.fromkeys(_root(resource) for resource in self._served)
        paths = ["/api", "/apis", *roots, "/healthz", "/livez", "/openapi/v2", "/readyz", _FAULTS]
        return {"paths": [*paths, "/version"]}


def _overruled(
    emulate: emulation.Emulation,
    *,
    served: Sequence[Resource] | None,
    streaming_lists: bool | None,
) -> emulation.Emulation:
    if served is not None:
        emulate = replace(emulate, served=tuple(served))
    if streaming_lists is None:
        return emulate
    serves = emulation.StreamingLists.SERVED
    habit = serves if streaming_lists else emulation.StreamingLists.REFUSED
    return replace(emulate, streaming_lists=habit)


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


def _failure(error: statuses.StatusError) -> web.Response:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return web.Response(
        body=encoding.encode(error.body()) + b"\n",
        status=error.code,
        content_type="application/json",
        headers=headers,
    )


def _json(value: Any) -> web.Response:
    return web.Response(body=encoding.encode(value), content_type="application/json")
