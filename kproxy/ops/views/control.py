"""The control server: HTTP over a unix socket, for the other commands of `kproxy`.

`GET /v1/services`, `/v1/gateways`, `/v1/endpoints`, `/v1/affinity` and `/v1/connections` answer
with a JSON list of `status` views, `/v1/hosts` with one of `hosts` views, `/v1/routes` with one of
`gateway_api.routes` views, `/v1/ingresses` with one of `ingress_views`; `?namespace=` and `?name=`
narrow it to a namespace, or to a Service, Gateway, route or Ingress, `?labelSelector=` to Services
with such labels. 404 says that none of that name is served. `?watch=1` keeps the answer open and
sends changes, see `watching`. `GET /v1/events` answers with the latest facts, and with `?watch=1`
goes on with new ones, see `fact_stream`. `GET /v1/status` answers with one object about the whole
proxy. `GET /v1/evidence` and `/v1/objects` are for `kproxy explain`, see `explaining`. A warning
about all views, such as that the API server is away, comes in a `Warning` header, as Kubernetes API
servers send them.

Only this user and root are answered. The socket's mode ensures it, and the peer's user is checked
too, in case the mode is changed (docs/faults.md S21).
"""

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from kproxy import turns
from kproxy.model import labels, names
from kproxy.ops.serving import answers, heads, places, responder
from kproxy.ops.views import (
    control_client,
    explaining,
    fact_stream,
    hosts,
    json_pieces,
    observed,
    status,
    watching,
)
from kproxy.ops.views.gateway_api import listeners
from kproxy.plane import plane
from kproxy.reconcile.planning import rules

MAX_WATCHES = 4
"""Watches at one time. The other connections of the server stay free for other requests."""

_NO_INGRESSES = "Ingresses are not served here: start the proxy with --ingress"

_Views: TypeAlias = Callable[[observed.Observed, status.Plans], status.Views]


class Resource(NamedTuple):
    """A resource of the control socket: what its views are made of, by which function, and the
    fields that identify one in a watch."""

    views: _Views
    part: plane.Part
    kind: watching.Kind


RESOURCES: Mapping[str, Resource] = {
    name: Resource(views, part, watching.Kind(control_client.IDENTITIES[name], frozenset(passing)))
    for name, views, part, passing in (
        ("services", status.served_views, plane.Part.PORTS, ("connections",)),
        ("gateways", listeners.views, plane.Part.PORTS, ("connections",)),
        ("endpoints", status.endpoint_views, plane.Part.PORTS, ("connections",)),
        ("affinity", status.affinity_views, plane.Part.AFFINITY, ("expires_in_seconds",)),
        (
            "connections",
            status.connection_views,
            plane.Part.CONNECTIONS,
            ("age_seconds", "bytes_from_client", "bytes_from_backend"),
        ),
    )
}
"""The resources that have views."""


class _Asked(NamedTuple):
    """Which Services a request is about; "" and no requirement mean all."""

    namespace: str
    name: str
    selector: Sequence[labels.Requirement]

    @classmethod
    def of(cls, request: heads.Request) -> "_Asked":
        """What a request says. Raises SelectorError."""
        query = request.query
        selector = labels.parse(query.get("labelSelector", ""))
        return cls(query.get("namespace", ""), query.get("name", ""), selector)

    def names(self, service: names.NamespacedName) -> bool:
        """Whether the request is about this Service, by its name."""
        return self.namespace in ("", service.namespace) and self.name in ("", service.name)


class _Control:
    """Answers requests about one proxy."""

    def __init__(self, seen: observed.Observed, shared: turns.Turns) -> None:
        self._seen = seen
        self._shared = shared
        self._watches = 0
        self._selections = {"gateways": self._select_listeners, "connections": self._select_both}

    async def views(self, resource: str, request: heads.Request) -> answers.Answer:
        """Answer `/v1/RESOURCE` with a list, or a watch."""
        try:
            asked = _Asked.of(request)
        except labels.SelectorError as error:
            return answers.sentence(400, str(error))
        views, part, kind = RESOURCES[resource]
        select = self._selections.get(resource, self._select)
        plans = await self._shared.result(status.in_order(select(asked)))
        headers = self._warning_header()
        refresh = functools.partial(self._seen.plane.refresh, part, self._shared)
        await refresh()
        has_left_some = False
        if views is status.connection_views and not asked.selector:
            # A Service that is gone may have left some connections behind.
            views = functools.partial(status.connection_views, gone=asked.names)
            looking = status.has_connections(self._seen, asked.names)
            has_left_some = await self._shared.result(looking)
        if asked.name and not plans and not has_left_some:
            what = "Gateway" if views is listeners.views else "Service"
            return answers.sentence(404, f"no such {what} is served", headers)
        if _is_watch(request):
            lines = watching.changes(
                lambda: views(self._seen, select(asked)),
                kind,
                self._shared,
                self._warning,
                refresh,
            )
            return self._watch(lines, headers)
        return answers.Answer(200, self._body(views(self._seen, plans)), headers=headers)

    async def hosts(self, request: heads.Request) -> answers.Answer:
        """Answer `/v1/hosts` with a list, or a watch."""
        try:
            asked = _Asked.of(request)
        except labels.SelectorError as error:
            return answers.sentence(400, str(error))
        service = names.NamespacedName(asked.namespace, asked.name)
        if asked.name and not self._is_known(service):
            return answers.sentence(404, "no such Service is known", self._warning_header())
        return self._objects(request, "hosts", lambda: hosts.views(self._seen, *asked))

    async def ingresses(self, request: heads.Request) -> answers.Answer:
        """Answer `/v1/ingresses` with a list, or a watch."""
        namespace, name = (request.query.get(each, "") for each in ("namespace", "name"))
        if request.query.get("labelSelector"):
            return answers.sentence(400, "Ingresses cannot be selected by labels here")
        if self._seen.ingress is None:
            return answers.sentence(404, _NO_INGRESSES)
        from kproxy.ops.views import ingress_views  # noqa: PLC0415  # with --ingress only

        if name and not ingress_views.has(self._seen, namespace, name):
            return answers.sentence(404, "no such Ingress is known", self._warning_header())
        return self._objects(
            request, "ingresses", lambda: ingress_views.views(self._seen, namespace, name)
        )

    def _objects(
        self, request: heads.Request, resource: str, views: Callable[[], status.Views]
    ) -> answers.Answer:
        """Views of objects, of which the data plane knows nothing: a list, or a watch."""
        headers = self._warning_header()
        if _is_watch(request):
            kind = watching.Kind(control_client.IDENTITIES[resource])
            lines = watching.changes(views, kind, self._shared, self._warning, _nothing_to_refresh)
            return self._watch(lines, headers)
        return answers.Answer(200, self._body(views()), headers=headers)

    async def routes(self, request: heads.Request) -> answers.Answer:
        """Answer `/v1/routes` with a list, or a watch."""
        asked = request.query.get("namespace", ""), request.query.get("name", "")

        def views() -> status.Views:
            said = self._seen.gateways
            if said is None:
                return iter(())
            from kproxy.ops.views.gateway_api import routes  # noqa: PLC0415  # with --gateway only

            return routes.views(self._seen, said, *asked)

        return self._objects(request, "routes", views)

    def _is_known(self, service: names.NamespacedName) -> bool:
        """Whether there is such a Service, in any namespace if it names none."""
        held = self._seen.source.store
        if service.namespace:
            return held.service(service) is not None
        return any(each.name == service.name for each in held.service_names())

    async def proxy_status(self, _request: heads.Request) -> answers.Answer:
        """Answer `/v1/status`."""
        counted = status.Counted()
        async for batch in self._shared.batches(counted.counting(self._seen)):
            del batch
        await self._seen.plane.refresh(plane.Part.TOTALS, self._shared)
        view = status.proxy_view(self._seen, counted, time.monotonic())
        if self._seen.ingress is not None:
            from kproxy.ops.views import ingress_views  # noqa: PLC0415  # with --ingress only

            view = {**view, "ingresses": ingress_views.in_short(self._seen.ingress)}
        return answers.Answer(
            200, msgspec.json.encode(view) + b"\n", headers=self._warning_header()
        )

    async def events(self, request: heads.Request) -> answers.Answer:
        """Answer `/v1/events`: the latest facts, and with a watch those that follow."""
        if request.query.get("labelSelector"):
            return answers.sentence(400, "events cannot be selected by labels")
        asked = _Asked.of(request)
        endpoints = await self._endpoints(asked) if asked.name else set()

        def is_wanted(view: status.View) -> bool:
            service = names.NamespacedName(str(view["namespace"]), str(view["service"]))
            details = view["details"]
            assert isinstance(details, dict)  # fact_stream makes it
            if service.name:
                is_ours = asked.names(service)
                if is_ours and asked.name:
                    endpoints.update(details.get("added", ()))
                return is_ours
            # A fact about an endpoint is about each Service that has it, or had it before.
            return not asked.name or details.get("endpoint") in endpoints

        headers = self._warning_header()
        if _is_watch(request):
            return self._watch(fact_stream.lines(self._seen.feed, is_wanted), headers)
        views = [
            view
            async for batch in self._shared.batches(fact_stream.recent(self._seen.feed, is_wanted))
            for view in batch
            if view is not None
        ]
        if asked.name and not views and not await self._is_served(asked):
            return answers.sentence(404, "no such Service is served", headers)
        return answers.Answer(200, msgspec.json.encode(views) + b"\n", headers=headers)

    async def _endpoints(self, asked: _Asked) -> set[str]:
        """The endpoints of the Services that were asked for, as facts have them."""
        addresses = (
            str(endpoint.backend) if endpoint is not None else ""
            for plan in self._select(asked)
            for endpoint in (plan.found if plan is not None else (None,))
        )
        return {each async for batch in self._shared.batches(addresses) for each in batch}

    async def _is_served(self, asked: _Asked) -> bool:
        """Whether a Service that was asked for is known."""
        found = False
        async for batch in self._shared.batches(self._select(asked)):
            found = found or any(batch)
        return found

    async def _body(self, views: status.Views) -> answers.Body:
        """A JSON list, sent while it is made: ten thousand Services are some ten megabytes."""
        pieces = self._shared.batches(json_pieces.listed(views))
        async with contextlib.aclosing(pieces):
            async for batch in pieces:
                if text := b"".join(batch):
                    yield text

    def _select(self, asked: _Asked) -> Iterator[rules.PortPlan | None]:
        return status.select(self._seen, asked.namespace, asked.name, asked.selector)

    def _select_listeners(self, asked: _Asked) -> Iterator[rules.PortPlan | None]:
        return listeners.select(self._seen, asked.namespace, asked.name)

    def _select_both(self, asked: _Asked) -> Iterator[rules.PortPlan | None]:
        yield from self._select(asked)
        if not asked.selector:
            yield from self._select_listeners(asked)

    def _watch(self, lines: answers.Body, headers: Mapping[str, str]) -> answers.Answer:
        if self._watches >= MAX_WATCHES:
            return answers.sentence(503, f"{self._watches} watches run already: end one first")
        return answers.Answer(
            200, self._counted(lines), answers.JSON_LINES, headers, is_endless=True
        )

    async def _counted(self, lines: answers.Body) -> answers.Body:
        self._watches += 1
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    yield line
        finally:
            self._watches -= 1

    def _warning(self) -> str:
        return status.warning(self._seen, time.monotonic())

    def _warning_header(self) -> dict[str, str]:
        warning = self._warning()
        return {"Warning": f'299 - "{warning}"'} if warning else {}


def _is_watch(request: heads.Request) -> bool:
    return request.query.get("watch", "") in ("1", "true")


async def _nothing_to_refresh() -> None:
    """The data plane knows nothing of names and routes."""


def make_site(seen: observed.Observed, shared: turns.Turns) -> responder.Site:
    """What is served on the control socket."""
    control = _Control(seen, shared)
    routes: dict[str, responder.Handler] = {
        f"/v1/{name}": functools.partial(control.views, name) for name in RESOURCES
    }
    explained = explaining.Explaining(seen, shared)
    more = {
        "/v1/events": control.events,
        "/v1/hosts": control.hosts,
        "/v1/routes": control.routes,
        "/v1/ingresses": control.ingresses,
        "/v1/status": control.proxy_status,
        "/v1/evidence": explained.evidence,
        "/v1/objects": explained.objects,
    }
    return responder.Site({**routes, **more}, admits)


def admits(sock: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user or root."""
    return places.peer(sock).uid in (0, os.geteuid())
