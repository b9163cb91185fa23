"""Routing rules: from Ingresses, and what they refer to, to a routing table.

Pure, and in steps: a large cluster's table takes longer than the event loop may be held.

Of two Ingresses that want the same path of the same host the older counts, by
`creationTimestamp`, then by namespace and name. What an Ingress says wrong concerns no other.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kproxy.ingress import table
from kproxy.ingress.rules import annotations, backends, classes, hosts, paths, remarks, tls
from kproxy.model import names, objects, steps
from kproxy.model.judging import class_names
from kproxy.model.kinds import services
from kproxy.model.kinds.ingress import ingress_class_kind, ingresses, secret_kind

_PATHS_BETWEEN_PAUSES = 16

MOST_PATTERNS = 100
"""Of one Ingress: nginx tries them one after the other, for each request."""

_Ingresses: TypeAlias = Iterable[ingresses.Ingress]
_Secrets: TypeAlias = Mapping[names.NamespacedName, secret_kind.TlsSecret]
_Services: TypeAlias = Mapping[names.NamespacedName, services.Service]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the rules look at. None of it may change while a table is made.

    `now` is the time in seconds since 1970, for certificates that have expired. With
    `through_endpoints` requests go to the endpoints of all Services, and not only of those
    for which kproxy has no frontend.
    """

    ingresses: _Ingresses = ()
    classes: Iterable[ingress_class_kind.IngressClass] = ()
    secrets: _Secrets = field(default_factory=dict)
    services: _Services = field(default_factory=dict)
    ingress_class: str = class_names.DEFAULT
    now: float
    through_endpoints: bool = False


def build_in_steps(world: World) -> Generator[None, None, table.Table]:
    """The routing table of a world; yields at least every 2 ms."""
    making = _Making(world)
    yield from making.choose()
    yield from making.give_certificates()
    yield from making.add_paths()
    yield from making.add_canaries()
    return (yield from making.finished())


class _Making:
    """A table while it is made, in the order of the methods."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._backends = backends.Backends(
            world.services, through_endpoints=world.through_endpoints
        )
        self._tls = tls.Tls(world.secrets, world.now)
        self._hosts = hosts.Hosts()
        self._ours: list[_Ours] = []
        self._passed_over: list[remarks.Remarks] = []

    def choose(self) -> Generator[None, None, None]:
        """Find the Ingresses of our class, the oldest first, and read their annotations."""
        ours = classes.Classes(self._world.classes, self._world.ingress_class)
        found = []
        for run in steps.runs(self._world.ingresses, 64):
            yield
            for ingress in run:
                said = remarks.Remarks(ingress.name)
                if ours.has(ingress, said):
                    found.append(ingress)
                elif said.problems():
                    self._passed_over.append(said)
        in_order = yield from steps.sorted_in_steps(found, _age)
        for ingress in in_order:
            yield
            said = remarks.Remarks(ingress.name)
            read = annotations.Annotations(ingress, said)
            canary = read.canary()
            policy = table.DEFAULT_POLICY if canary else read.policy()
            self._ours.append(_Ours(ingress, policy, canary, said))

    def give_certificates(self) -> Generator[None, None, None]:
        """Choose the certificate of each host."""
        for each in self._mains():
            yield
            yield from self._tls.add(each.ingress, each.said)

    def add_paths(self) -> Generator[None, None, None]:
        """Give each path its route."""
        for each in self._mains():
            yield
            self._add_default(each)
            for host, path in each.paths():
                yield from self._hosts.pause(_PATHS_BETWEEN_PAUSES)
                self._add_path(each, host, path)

    def add_canaries(self) -> Generator[None, None, None]:
        """Give routes their canaries."""
        for each in self._ours:
            if each.canary is None:
                continue
            yield
            for host, path in each.paths():
                yield from self._hosts.pause(_PATHS_BETWEEN_PAUSES)
                self._add_canary(each, each.canary, host, path)

    def finished(self) -> Generator[None, None, table.Table]:
        """The table."""
        made = yield from self._hosts.finished(self._tls)
        targets: set[names.ServicePortName] = set()
        for host in made:
            yield
            for run in steps.runs(host.routes()):
                yield
                for route in run:
                    targets.update(target for _, target in route.targets())
        yield
        said = [*(each.said for each in self._ours), *self._passed_over]
        problems = yield from steps.sorted_in_steps(
            (problem for each in said for problem in each.problems()), _subject
        )
        served = yield from steps.sorted_in_steps((each.ingress.name for each in self._ours), tuple)
        return table.Table(
            hosts=made,
            served=tuple(served),
            problems=tuple(problems),
            targets=frozenset(targets),
            frontends=frozenset(filter(self._backends.has_frontend, targets)),
        )

    def _mains(self) -> Iterable["_Ours"]:
        return (each for each in self._ours if each.canary is None)

    def _add_default(self, ours: "_Ours") -> None:
        """`spec.defaultBackend`: for what no rule of this Ingress matches."""
        ingress = ours.ingress
        if ingress.default_backend is None:
            return
        namespace = ingress.name.namespace
        target = self._backends.target(ingress.default_backend, namespace, ours.said)
        path = ingresses.Path("/", ingresses.PathType.PREFIX, ingress.default_backend)
        older = self._hosts.add_default(ingress, _route(ours, path, "", target))
        if older:
            text = f"the default backend is that of Ingress {older}, which is older"
            ours.said.warn("Conflict", text)

    def _add_path(self, ours: "_Ours", host: str, path: ingresses.Path) -> None:
        matched = self._matched(ours, path)
        if matched is None:
            return
        if matched.pattern:
            ours.patterns += 1
            if ours.patterns > MOST_PATTERNS:
                text = f"of its regular expressions, no more than {MOST_PATTERNS} are served"
                ours.said.warn("TooManyPatterns", text)
                return
        target = self._backends.target(path.backend, ours.ingress.name.namespace, ours.said)
        older = self._hosts.add(host, matched, _route(ours, path, matched.pattern, target))
        if older == ours.ingress.name:
            text = f"{_spot(host, path)} stands twice in it; the first counts"
            ours.said.warn("Conflict", text)
        elif older:
            text = f"{_spot(host, path)} is that of Ingress {older}, which is older"
            ours.said.warn("Conflict", text)

    def _add_canary(
        self, ours: "_Ours", rule: table.CanaryRule, host: str, path: ingresses.Path
    ) -> None:
        target = self._backends.target(path.backend, ours.ingress.name.namespace, ours.said)
        canary = table.Canary(ours.ingress.name, target, rule)
        try:
            older = self._hosts.add_canary(host, path, canary)
        except LookupError:
            text = f"no Ingress serves {_spot(host, path)} of type {path.type}; a canary needs one"
            ours.said.warn("CanaryWithoutMain", text)
            return
        if older:
            text = f"{_spot(host, path)} has the canary of Ingress {older}, which is older"
            ours.said.warn("Conflict", text)

    def _matched(self, ours: "_Ours", path: ingresses.Path) -> paths.Matched | None:
        try:
            return paths.read(path, ours.policy)
        except ValueError as error:
            shown = objects.shown(path.path)
            ours.said.warn("InvalidPath", f"path {shown} is not served: it {error}")
            return None


@dataclass(slots=True)
class _Ours:
    """An Ingress of our class, with what its annotations say; `patterns` counts expressions."""

    ingress: ingresses.Ingress
    policy: table.Policy
    canary: table.CanaryRule | None
    said: remarks.Remarks
    patterns: int = 0

    def paths(self) -> Iterable[tuple[str, ingresses.Path]]:
        """Its paths, each with its host."""
        return ((rule.host, path) for rule in self.ingress.rules for path in rule.paths)


def _age(ingress: ingresses.Ingress) -> tuple[str, names.NamespacedName]:
    """What sorts the oldest first. RFC 3339 in UTC sorts as text; in files there is none."""
    return ingress.created, ingress.name


def _subject(problem: table.Problem) -> tuple[names.NamespacedName, str, str]:
    return problem.ingress, problem.reason, problem.text


def _spot(host: str, path: ingresses.Path) -> str:
    return f"path {objects.shown(path.path)} of host {host or '*'}"


def _route(
    ours: _Ours, path: ingresses.Path, pattern: str, target: names.ServicePortName | None
) -> table.Route:
    return table.Route(
        ours.ingress.name, path.path, path.type, target, ours.policy, pattern=pattern
    )
