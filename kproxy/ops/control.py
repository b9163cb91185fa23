"""The control server: HTTP over a unix socket, for the other commands of `kproxy`.

`GET /v1/services`, `/v1/endpoints`, `/v1/affinity` and `/v1/connections` answer with a JSON list
of `status` views; `?namespace=` and `?name=` narrow it to a namespace or a Service. 404 says that
no Service of that name is served. What should be known of every view, such as that the API server
is away, comes in a `Warning` header, as Kubernetes API servers send them.

Only this user and root are answered: the socket's mode sees to that, and so does a look at who is
connected, should the mode be changed (fault-catalogue S21).
"""

import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from kproxy.model import forwarding
from kproxy.ops import observed, places, status, turns

_Views: TypeAlias = Callable[[observed.Observed, Iterable[forwarding.Rule]], Iterator[status.View]]

RESOURCES: Mapping[str, _Views] = {
    "services": status.service_views,
    "endpoints": status.endpoint_views,
    "affinity": status.affinity_views,
    "connections": status.connection_views,
}
"""What can be asked for, and who answers."""


def make_app(seen: observed.Observed, shared: turns.Turns) -> web.Application:
    """What is served on the control socket."""

    async def answer(request: web.Request) -> web.StreamResponse:
        views = RESOURCES[request.match_info["resource"]]
        name = request.query.get("name", "")
        rules: list[forwarding.Rule] = []
        async for batch in shared.batches(
            status.select(seen, request.query.get("namespace", ""), name)
        ):
            rules += batch
        warning = status.warning(seen, time.monotonic())
        headers = {"Warning": f'299 - "{warning}"'} if warning else {}
        if name and not rules:
            raise web.HTTPNotFound(text="no such Service is served", headers=headers)
        rules.sort(key=operator.attrgetter("name"))
        return await _stream(request, shared.batches(views(seen, rules)), headers)

    app = web.Application(middlewares=[_admit])
    app.router.add_get(f"/v1/{{resource:{'|'.join(RESOURCES)}}}", answer)
    return app


async def _stream(
    request: web.Request, batches: AsyncIterator[list[status.View]], headers: Mapping[str, str]
) -> web.StreamResponse:
    """A JSON list, sent while it is made: ten thousand Services are some ten megabytes."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    opening = b"["
    async for batch in batches:
        if batch:
            await response.write(opening + b",\n".join(map(msgspec.json.encode, batch)))
            opening = b",\n"
    await response.write(b"]\n" if opening != b"[" else b"[]\n")
    return response


@web.middleware
async def _admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    uid = places.peer(transport.get_extra_info("socket")).uid
    if uid not in (0, os.geteuid()):
        raise web.HTTPForbidden(text="this proxy belongs to another user")
    return await handler(request)
