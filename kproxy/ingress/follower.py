"""Follower: makes the configuration of nginx what the Store's objects ask for.

Level-triggered, as the proxier is: a change says only that something may be different. Shortly
after it the routing table is made of the objects of the moment, and nginx reloads if its
configuration would be another one. With kproxy's frontends as upstreams it is the same whatever
becomes of endpoints.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from kproxy import errors, turns
from kproxy.ingress import (
    isolation,
    kinds,
    nginx_config,
    problems,
    routing,
    state,
    table,
    upstreams,
)
from kproxy.ingress.cluster import reading
from kproxy.ingress.daemon import nginx
from kproxy.model import addresses, names
from kproxy.model.kinds import service_kind
from kproxy.model.kinds.ingress import ingress_class_kind, ingress_kind, ingresses, secret_kind
from kproxy.sources import source, store

DEBOUNCE_SECONDS = 0.1
"""Seconds from a change until it is looked at, with all those that have come meanwhile."""

LOOK_SECONDS = 3600.0
"""Seconds after which everything is looked at without a change: certificates expire."""

RETRY_SECONDS = 5.0
"""Seconds until a configuration that did not come into force is tried again."""

_log = structlog.get_logger(__name__)

_Ingresses = Mapping[names.NamespacedName, ingresses.Ingress]
_Where = Mapping[names.ServicePortName, tuple[addresses.SocketAddress, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user has chosen: the class, and whether nginx sends requests to endpoints."""

    ingress_class: str
    through_endpoints: bool = False


@dataclass(frozen=True, slots=True)
class _Made:
    """A configuration, what it is made of, and where its upstreams were then."""

    world: routing.World
    routes: table.Table
    where: _Where
    rendered: nginx_config.Rendered
    problems: Sequence[table.Problem]
    by_service: Mapping[names.NamespacedName, Sequence[names.ServicePortName]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class _Barred:
    """An Ingress that nginx refuses, and the version of it that is served in its place, if any."""

    refused: isolation.Barred
    instead: ingresses.Ingress | None = None


class Follower:
    """Follows `read` from `run` on. `upstream` says where requests for a service port go.

    `shown` says what is in force; `on_look` is called when it may have changed.
    """

    def __init__(
        self,
        read: source.Source,
        upstream: nginx_config.Upstream,
        choice: Choice,
        report: problems.Report,
        shown: state.IngressState,
        on_look: Callable[[], None] = lambda: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._read = read
        self._upstream = upstream
        self._choice = choice
        self._report = report
        self._shown = shown
        self._on_look = on_look
        self._wall = wall
        self._turns = turns.Turns()
        self._reading = reading.Reading(read.all_counters)
        self._changed = asyncio.Event()
        self._made: _Made | None = None
        self._good: _Ingresses = {}
        self._barred: dict[names.NamespacedName, _Barred] = {}
        self.is_in_force = asyncio.Event()
        """Set once the first table is in force."""
        for kind in kinds.KINDS:
            read.store.watch(kind, self.look)
        self._subscription: store.Subscription = read.store.subscribe(self.look_at)

    def look(self) -> None:
        """Look at everything soon."""
        self._changed.set()

    def look_at(self, dirty: store.Dirty) -> None:
        """Services, endpoints or frontends of theirs have changed: look if it matters to nginx."""
        made = self._made
        if made is None or any(self._concerns(made, each) for each in dirty):
            self._changed.set()

    def close(self) -> None:
        """Follow no more."""
        self._subscription.cancel()

    async def run(self, driven: nginx.Nginx, settings: nginx_config.Settings) -> None:
        """Bring in force what changes, until cancelled.

        Raises KproxyError if nginx cannot serve even the first configuration.
        """
        while not self._read.has_synced:
            await self._wait_for_change(None)
        await self._reading.settle()
        while True:
            self._reading.say_what_is_missing()
            is_in_force = await self._bring_in_force(driven, settings)
            if is_in_force:
                self.is_in_force.set()
            elif not self.is_in_force.is_set():
                raise errors.KproxyError(
                    "nginx cannot serve Ingresses: the lines above say why; mend that, or leave "
                    "--ingress out"
                )
            await self._wait_for_change(LOOK_SECONDS if is_in_force else RETRY_SECONDS)
            await asyncio.sleep(DEBOUNCE_SECONDS)

    async def _wait_for_change(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    def _concerns(self, made: _Made, service: names.NamespacedName) -> bool:
        if made.world.services.get(service) is not self._read.store.service(service):
            return True
        ports = made.by_service.get(service, ())
        return any(tuple(self._upstream(each)) != made.where[each] for each in ports)

    async def _bring_in_force(self, driven: nginx.Nginx, settings: nginx_config.Settings) -> bool:
        """Make the configuration of now, and have nginx take it unless it has it already."""
        made = self._made = await self._make(settings, self._asking())
        words = ""
        if made.rendered.version != self._shown.version:
            words = await driven.put(made.rendered)
            if words:
                found = await self._isolate(made, words, driven, settings)
                if not found:
                    _log.error("nginx does not take its configuration", words=words)
                    return False
                for each in found:
                    self._bar(each)
                self.look()
                if self.is_in_force.is_set():
                    return True
                return await self._bring_in_force(driven, settings)
            _log.info(
                "Ingresses are in force",
                ingresses=len(made.routes.served),
                hosts=len(made.routes.hosts),
                version=made.rendered.version,
            )
        self._shown.version = made.rendered.version
        self._shown.served = frozenset(made.routes.served)
        self._good = {each.name: each for each in made.world.ingresses}
        self._report.take(
            [*made.routes.problems, *made.problems, *map(_problem, self._barred.values())]
        )
        self._on_look()
        return True

    async def _make(self, settings: nginx_config.Settings, asking: _Ingresses) -> _Made:
        """The configuration for these Ingresses and everything else that is there now."""
        known = self._read.store
        world = routing.World(
            ingresses=tuple(asking.values()),
            classes=tuple(known.all(ingress_class_kind.KIND).values()),
            secrets=dict(known.all(secret_kind.KIND)),
            services=dict(known.all(service_kind.KIND)),
            ingress_class=self._choice.ingress_class,
            now=self._wall(),
            through_endpoints=self._choice.through_endpoints,
        )
        routes = await self._turns.result(routing.build_in_steps(world))
        where: dict[names.ServicePortName, tuple[addresses.SocketAddress, ...]] = {}
        by_service = defaultdict(list)
        for each in routes.targets:
            where[each] = tuple(self._upstream(each))
            by_service[each.service].append(each)
        steps = nginx_config.render_in_steps(routes, settings, where.__getitem__)
        rendered = await self._turns.result(steps)
        found = await self._turns.result(upstreams.problems_in_steps(routes, where))
        return _Made(world, routes, where, rendered, found, by_service)

    def _asking(self) -> _Ingresses:
        """The Ingresses of now; of those that nginx refuses as they are, the last good version."""
        known = dict(self._read.store.all(ingress_kind.KIND))
        for name, barred in list(self._barred.items()):
            if known.get(name) == barred.refused.ingress:
                if barred.instead is not None:
                    known[name] = barred.instead
                else:
                    del known[name]
            else:
                del self._barred[name]
        return known

    def _bar(self, refused: isolation.Barred) -> None:
        """Have an Ingress that nginx refuses replaced by its last good version, if there is one."""
        name = refused.ingress.name
        if name in self._barred:  # it is that version which nginx refuses now
            self._barred[name] = _Barred(self._barred[name].refused)
            return
        good = self._good.get(name)
        if good is not None and (good == refused.ingress or good.uid != refused.ingress.uid):
            good = None  # there is no other version of this object
        self._barred[name] = _Barred(refused, good)

    async def _isolate(
        self, made: _Made, words: str, driven: nginx.Nginx, settings: nginx_config.Settings
    ) -> list[isolation.Barred]:
        """The Ingresses that are at fault: among those that are new since all was well, if any."""
        asking = {each.name: each for each in made.world.ingresses}

        async def refusal(left: isolation.Left) -> str:
            others = {name: each for name, each in asking.items() if name not in left}
            return await driven.refusal((await self._make(settings, others)).rendered)

        served = [asking[each] for each in made.routes.served if each in asking]
        new = [each for each in served if self._good.get(each.name) != each]
        for candidates in itertools.chain([new], [served] if len(new) < len(served) else []):
            if found := await isolation.search(candidates, words, refusal):
                return found
        return []


def _problem(barred: _Barred) -> table.Problem:
    refused = barred.refused
    if barred.instead is not None:
        text = "its last good version stays in force, because nginx refuses this one"
    else:
        text = "it is not served, because nginx refuses it"
    return table.Problem(refused.ingress.name, "Refused", f"{text}: {refused.words}")
