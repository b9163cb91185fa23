"""The verbs of the API on resources, as HTTP: what apiserver's `pkg/endpoints/handlers` does."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

from aiohttp import web

from kproxy.simulator.api import odd_lists, server_faults, warnings
from kproxy.simulator.api.emulation import StreamingLists
from kproxy.simulator.api.formats import encoding, media
from kproxy.simulator.api.reading import kubectl_tables, lists, watch_cache, watch_stream, watches
from kproxy.simulator.api.reading import query as parameters
from kproxy.simulator.api.request_info import RequestInfo
from kproxy.simulator.kinds import scale
from kproxy.simulator.store import api_versions, patch, resources, statuses
from kproxy.simulator.store.registry import Propagation, Registry
from kproxy.simulator.store.resources import Resource
from kproxy.simulator.store.storage import Object

_BATCH = 200
"""How many items of a list are encoded before everything else on the event loop has its turn."""

_LONGEST_GRACE = 10**9
"""Seconds."""
_LARGE_BODY = 64 * 1024
"""Bytes of a body that is decoded beside the event loop."""


class Rest:
    """Answers requests for resources. Its methods raise `status.StatusError`."""

    def __init__(
        self,
        registry: Registry,
        cache: watch_cache.WatchCache,
        switches: server_faults.Faults,
        streams: watch_stream.WatchStreams,
        *,
        streaming_lists: StreamingLists,
    ) -> None:
        self._registry = registry
        self._cache = cache
        self._faults = switches
        self._streams = streams
        self._streaming_lists = streaming_lists
        self._encodings = encoding.Encodings(registry.storage)

    async def answer(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        """The answer to a request, by its verb. Raises StatusError in the version asked for."""
        answers = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        try:
            return await answers[info.verb](request, info)
        except statuses.StatusError as error:
            raise api_versions.as_served(info.resource, error) from error.__cause__

    async def _get(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        lists.check_version(self._cache, _stored(info), parameters.version(request.query))
        found = self._registry.get(_stored(info), info.name, info.namespace or "")
        return self._object(request, info, found)

    async def _list(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        accepted = _accepted(request, info)
        self._check_options(request)
        options = lists.options(info.resource, request.query)
        await self._fail(request, info, options)
        behind = 0
        if lists.is_cached(options) and (
            fault := self._take((server_faults.Kind.STALE_CACHE,), info)
        ):
            behind = fault.size
        page = self._page(info, options, behind)
        if fault := self._take(server_faults.PAGES, info):
            page = odd_lists.altered(fault.kind, page, options)
        if accepted.form == "table":
            return _json(self._table(request, info, page.items, accepted, page.metadata))
        if fault := self._take((server_faults.Kind.DRIPPED_LIST,), info):
            body = b"".join(self._encoded(info, page))
            return await odd_lists.dripped(request, body, fault.seconds)
        return await self._write_list(request, info, page)

    def _page(self, info: RequestInfo, options: lists.Options, behind: int = 0) -> lists.Page:
        namespace = info.namespace or None
        return lists.page(self._cache, _stored(info), namespace, options, behind=behind)

    def _take(
        self, kinds: Collection[server_faults.Kind], info: RequestInfo
    ) -> server_faults.Fault | None:
        return self._faults.take(kinds, info.resource.plural, "list")

    def _check_options(self, request: web.BaseRequest) -> None:
        is_known = self._streaming_lists is not StreamingLists.UNKNOWN
        if is_known and "sendInitialEvents" in request.query:
            detail = "sendInitialEvents is forbidden for list"
            raise lists.invalid(statuses.forbidden_value("sendInitialEvents", detail))

    async def _fail(
        self, request: web.BaseRequest, info: RequestInfo, options: lists.Options
    ) -> None:
        """Apply the faults that replace a list, or delay it."""
        if options.continue_from and (fault := self._take(server_faults.TOKENS, info)):
            if fault.kind == server_faults.Kind.LOST_CONTINUE:
                raise statuses.continue_expired(None)
            raise lists.expired_token(lists.decoded_token(options.continue_from)[1])
        fault = self._take(server_faults.LISTS, info)
        if fault is None:
            return
        current = self._registry.storage.resource_version
        match fault.kind:
            case server_faults.Kind.SLOW_LIST:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fault.seconds):
                        await self._faults.cleared()
            case server_faults.Kind.TOO_LARGE_VERSION:
                raise statuses.too_large_resource_version(current + 1, current)
            case server_faults.Kind.GONE:
                raise statuses.too_old(0, current)
            case server_faults.Kind.ENDLESS_FIELDS:
                await odd_lists.endless(request, info.resource)
            case _:
                await odd_lists.cut(request)

    async def _write_list(
        self, request: web.BaseRequest, info: RequestInfo, page: lists.Page
    ) -> web.StreamResponse:
        parts = self._encoded(info, page)
        if len(page.items) <= _BATCH:
            return web.Response(body=b"".join(parts), content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0)
        return response

    def _encoded(self, info: RequestInfo, page: lists.Page) -> Iterator[bytes]:
        """The body of a list, in parts that take a moment each."""
        resource = info.resource
        metadata = encoding.encode(page.metadata).decode()
        yield (
            f'{{"kind":"{resource.kind}List","apiVersion":"{resource.api_version}",'
            f'"metadata":{metadata},"items":['
        ).encode()
        render = self._padded(info, "list") or (lambda item: self._encodings.item(resource, item))
        for start in range(0, len(page.items), _BATCH):
            batch = b",".join(map(render, page.items[start : start + _BATCH]))
            yield b"," + batch if start else batch
        yield b"]}\n"

    def _padded(self, info: RequestInfo, verb: str) -> Callable[[Object], bytes] | None:
        kinds = (server_faults.Kind.OVERSIZED_OBJECTS,)
        fault = self._faults.take(kinds, info.resource.plural, verb)
        if fault is None:
            return None
        padding = "x" * fault.size

        def render(item: Object) -> bytes:
            shown = api_versions.to_served(info.resource, item)
            metadata = shown["metadata"]
            annotations = {**(metadata.get("annotations") or {}), server_faults.PADDING: padding}
            return encoding.encode({**shown, "metadata": {**metadata, "annotations": annotations}})

        return render

    async def _watch(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        accepted = _accepted(request, info)
        query = dict(request.query)
        ignored = (server_faults.Kind.IGNORED_INITIAL_EVENTS,)
        asks = "sendInitialEvents" in query
        if asks and self._faults.take(ignored, info.resource.plural, "watch"):
            del query["sendInitialEvents"]
            query.pop("resourceVersionMatch", None)
        if info.name:
            query["fieldSelector"] = f"metadata.name={info.name}"
        options = watches.options(info.resource, query, streaming_lists=self._streaming_lists)
        if accepted.form == "table":
            render = self._table_rows(request, info, accepted)
        else:
            render = self._events(info)
        return await self._streams.serve(request, info, options, render)

    def _events(self, info: RequestInfo) -> Callable[[watches.Change], bytes]:
        def render(change: watches.Change) -> bytes:
            padded = self._padded(info, "watch")
            if padded is not None:
                return padded(change.object)
            return self._encodings.whole(info.resource, change.object)

        return render

    def _table_rows(
        self, request: web.BaseRequest, info: RequestInfo, accepted: media.Accepted
    ) -> Callable[[watches.Change], bytes]:
        is_first = True

        def render(change: watches.Change) -> bytes:
            nonlocal is_first
            item = change.object
            metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
            table = self._table(request, info, [item], accepted, metadata, with_columns=is_first)
            is_first = False
            return encoding.encode(table)

        return render

    async def _create(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        new = await self._body(request, info)
        if info.resource.has_status and info.resource != resources.NODES:
            new.pop("status", None)
        created = self._registry.create(_stored(info), new, dry_run=_is_dry_run(request))
        response = self._object(request, info, created, code=201)
        warnings.add(response, warnings.of_new(_stored(info), created))
        return response

    async def _update(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        dry_run = _is_dry_run(request)
        if info.subresource == "scale":
            body = await decoded_body(request)
            return self._scale(info, body, dry_run=dry_run)
        new = await self._body(request, info)
        if info.subresource == "status":
            updated = self._registry.update_status(_stored(info), new, dry_run=dry_run)
        else:
            updated = self._registry.update(_stored(info), new, dry_run=dry_run)
        return self._object(request, info, updated)

    async def _patch(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        patch_type, body = media.patch_body(
            request.content_type,
            await request.read(),
            can_be_strategic=not info.resource.is_custom,
        )
        dry_run = _is_dry_run(request)
        if info.subresource == "scale":
            found = self._registry.get(_stored(info), info.name, info.namespace or "")
            shown = patch.apply("Scale", scale.scale_of(found), patch_type, body)
            return self._scale(info, shown, dry_run=dry_run)
        patched = self._registry.patch(
            info.resource,
            info.namespace or "",
            info.name,
            patch_type,
            body,
            "status" if info.subresource == "status" else "",
            dry_run=dry_run,
        )
        return self._object(request, info, patched)

    def _scale(self, info: RequestInfo, wanted: Any, *, dry_run: bool) -> web.StreamResponse:
        found = self._registry.get(_stored(info), info.name, info.namespace or "")
        updated = self._registry.update(_stored(info), scale.scaled(found, wanted), dry_run=dry_run)
        return _json(scale.scale_of(updated))

    async def _delete(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        options = await _delete_options(request)
        deleted = self._delete_one(info, info.name, info.namespace or "", options)
        metadata = deleted["metadata"]
        still_there = self._registry.find(_stored(info), info.name, info.namespace or "")
        if still_there is not None:
            return self._object(request, info, still_there)
        return _json(statuses.success(info.resource, info.name, metadata["uid"]))

    async def _delete_collection(
        self, request: web.BaseRequest, info: RequestInfo
    ) -> web.StreamResponse:
        options = await _delete_options(request)
        wanted = lists.options(info.resource, request.query)
        page = self._page(info, wanted)
        for item in page.items:
            metadata = item["metadata"]
            name, namespace = metadata["name"], metadata.get("namespace", "")
            if self._registry.find(_stored(info), name, namespace) is not None:
                self._delete_one(info, name, namespace, options)
        return await self._write_list(request, info, page)

    def _delete_one(self, info: RequestInfo, name: str, namespace: str, options: Object) -> Object:
        grace = options.get("gracePeriodSeconds")
        return self._registry.delete(
            _stored(info),
            name,
            namespace,
            grace_seconds=None if grace is None else int(grace),
            propagation=cast("Propagation", options.get("propagationPolicy") or "Background"),
            preconditions=options.get("preconditions"),
            dry_run=bool(options.get("dryRun")),
        )

    async def _body(self, request: web.BaseRequest, info: RequestInfo) -> Object:
        body = await decoded_body(request)
        return api_versions.to_stored(info.resource, checked(info, body))

    def _object(
        self, request: web.BaseRequest, info: RequestInfo, stored: Object, *, code: int = 200
    ) -> web.StreamResponse:
        if info.subresource == "scale":
            return _json(scale.scale_of(stored))
        accepted = _accepted(request, info)
        if accepted.form == "table":
            metadata = {"resourceVersion": stored["metadata"].get("resourceVersion", "")}
            return _json(self._table(request, info, [stored], accepted, metadata), code)
        body = self._encodings.whole(info.resource, stored) + b"\n"
        return web.Response(body=body, status=code, content_type="application/json")

    def _table(
        self,
        request: web.BaseRequest,
        info: RequestInfo,
        items: Sequence[Object],
        accepted: media.Accepted,
        metadata: Any,
        *,
        with_columns: bool = True,
    ) -> Object:
        return kubectl_tables.table(
            info.resource,
            items,
            version=accepted.version,
            metadata=metadata,
            now=self._registry.storage.now(),
            include_object=request.query.get("includeObject") or "Metadata",
            with_columns=with_columns,
        )


async def decoded_body(request: web.BaseRequest) -> Any:
    """The body of a request. Raises UnsupportedMediaType, BadRequest."""
    raw = await request.read()
    if len(raw) > _LARGE_BODY:
        # Megabytes of YAML take seconds, during which other requests must be answered.
        return await asyncio.to_thread(media.body, request.content_type, raw)
    return media.body(request.content_type, raw)


def checked(info: RequestInfo, body: Any) -> Object:
    """The object in a request's body, if it fits the request's URL. Raises BadRequest."""
    if not isinstance(body, dict):
        raise statuses.bad_request("the body of the request is not an object")
    new = cast("Object", without_nulls(body))
    for field, expected in (
        ("kind", info.resource.kind),
        ("apiVersion", info.resource.api_version),
    ):
        if new.get(field, expected) != expected:
            raise statuses.bad_request(
                f"the {field} in the data ({new[field]}) does not match the expected {field} "
                f"({expected})"
            )
    metadata = new.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise statuses.bad_request("metadata is not an object")
    namespace = info.namespace or ""
    is_namespaced = info.resource.namespaced
    if is_namespaced and metadata.setdefault("namespace", namespace) != namespace:
        raise statuses.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not namespace:
        metadata.pop("namespace", None)  # in what has none it means nothing
    if info.name and metadata.setdefault("name", info.name) != info.name:
        raise statuses.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL "
            f"({info.name})"
        )
    return new


def without_nulls(value: Any) -> Any:
    """Without the fields that are null: an API of Go structs reads them as absent."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _stored(info: RequestInfo) -> Resource:
    return api_versions.stored_as(info.resource)


def _accepted(request: web.BaseRequest, info: RequestInfo) -> media.Accepted:
    can_be_table = not info.subresource
    return media.accepted(request.headers.get("Accept", ""), can_be_table=can_be_table)


def _is_dry_run(request: web.BaseRequest) -> bool:
    values = request.query.getall("dryRun", [])
    if any(value != "All" for value in values):
        causes = [statuses.not_supported_value("dryRun", values, ["All"])]
        raise statuses.invalid(lists.LIST_OPTIONS, "", causes)
    return bool(values)


async def _delete_options(request: web.BaseRequest) -> Object:
    """The DeleteOptions of the body, or without a body those of the query."""
    body = await decoded_body(request) if await request.read() else {}
    if not isinstance(body, dict):
        raise statuses.bad_request("the body of a deletion is a DeleteOptions object")
    fields = ("gracePeriodSeconds", "propagationPolicy", "dryRun")
    options: Object = {name: request.query[name] for name in fields if name in request.query}
    options |= without_nulls(body)
    grace = options.get("gracePeriodSeconds")
    if isinstance(grace, str):
        grace = options["gracePeriodSeconds"] = parameters.integer(options, "gracePeriodSeconds")
    if grace is not None and (type(grace) is not int or not 0 <= grace <= _LONGEST_GRACE):
        raise statuses.bad_request(
            f"gracePeriodSeconds must be a whole number from 0 to {_LONGEST_GRACE}"
        )
    if options.get("propagationPolicy") not in (None, "Background", "Foreground", "Orphan"):
        raise statuses.bad_request(f"invalid propagationPolicy: {options['propagationPolicy']}")
    return options


def _json(value: Any, code: int = 200) -> web.Response:
    body = encoding.encode(value) + b"\n"
    return web.Response(body=body, status=code, content_type="application/json")
