"""The control server: HTTP over a unix socket, for the other commands of `kproxy`.

`GET /v1/services`, `/v1/endpoints`, `/v1/affinity` and `/v1/connections` answer with a JSON list
of `status` views; `?namespace=` and `?name=` narrow it to a namespace or a Service. 404 says that
no Service of that name is served. What should be known of every view, such as that the API server
is away, comes in a `Warning` header, as Kubernetes API servers send them.

Only this user and root are answered: the socket's mode sees to that, and so does a look at who is
connected, should the mode be changed (fault-catalogue S21).
"""

import contextlib
import functools
import operator
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from kproxy.model import names
from kproxy.ops import answers, heads, http, observed, places, status, turns
from kproxy.reconcile import rules

_Views: TypeAlias = Callable[[observed.Observed, Iterable[rules.PortPlan]], Iterator[status.View]]

RESOURCES: Mapping[str, _Views] = {
    "services": status.service_views,
    "endpoints": status.endpoint_views,
    "affinity": status.affinity_views,
    "connections": status.connection_views,
}
"""What can be asked for, and who answers."""


def make_site(seen: observed.Observed, shared: turns.Turns) -> http.Site:
    """What is served on the control socket."""

    def handler(views: _Views) -> http.Handler:
        async def answer(request: heads.Request) -> answers.Answer:
            return await _answer(seen, shared, views, request.query)

        return answer

    routes = {f"/v1/{name}": handler(views) for name, views in RESOURCES.items()}
    return http.Site(routes, admits)


async def _answer(
    seen: observed.Observed, shared: turns.Turns, views: _Views, query: Mapping[str, str]
) -> answers.Answer:
    namespace, name = query.get("namespace", ""), query.get("name", "")
    plans: list[rules.PortPlan] = []
    async for batch in shared.batches(status.select(seen, namespace, name)):
        plans += batch

    def is_asked_for(service: names.NamespacedName) -> bool:
        return namespace in ("", service.namespace) and name in ("", service.name)

    has_left_some = False
    if views is status.connection_views:  # a Service that is gone may have left some behind
        views = functools.partial(status.connection_views, gone=is_asked_for)
        has_left_some = status.has_connections(seen, is_asked_for)
    warning = status.warning(seen, time.monotonic())
    headers = {"Warning": f'299 - "{warning}"'} if warning else {}
    if name and not plans and not has_left_some:
        return answers.sentence(404, "no such Service is served", headers)
    plans.sort(key=operator.attrgetter("rule.name"))
    return answers.Answer(200, _json_list(shared.batches(views(seen, plans))), headers=headers)


async def _json_list(batches: AsyncGenerator[list[status.View], None]) -> answers.Body:
    """A JSON list, sent while it is made: ten thousand Services are some ten megabytes."""
    opening = b"["
    async with contextlib.aclosing(batches):
        async for batch in batches:
            if batch:
                yield opening + b",\n".join(map(msgspec.json.encode, batch))
                opening = b",\n"
    yield b"]\n" if opening != b"[" else b"[]\n"


def admits(sock: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user or root."""
    return places.peer(sock).uid in (0, os.geteuid())
