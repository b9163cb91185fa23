"""Hosts: the routes of each host while a table is made, and the order between them."""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from kproxy.ingress import table
from kproxy.ingress.rules import paths, patterns, tls
from kproxy.model import names, steps
from kproxy.model.kinds.ingress import ingresses

_Written: TypeAlias = tuple[str, ingresses.PathType]


@dataclass(slots=True)
class _Host:
    """What is known of one host: each route by what it matches, and that by how it is written."""

    routes: dict[paths.Matched, table.Route] = field(default_factory=dict)
    written: dict[_Written, paths.Matched] = field(default_factory=dict)
    default: table.Route | None = None


class Hosts:
    """Collects the routes of all hosts. Older Ingresses must be added before younger ones."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {"": _Host()}
        self._catch_all: table.Route | None = None
        self._is_last_resort = False
        self._count = 0

    def pause(self, every: int) -> Generator[None, None, None]:
        """Pause once in so many calls."""
        self._count += 1
        if self._count % every == 0:
            yield

    def add_default(
        self, ingress: ingresses.Ingress, route: table.Route
    ) -> names.NamespacedName | None:
        """Use an Ingress's default backend; the Ingress that has claimed it before, if one has.

        It is for what its hosts have no path for. That of an Ingress without rules is for all
        hosts; without such, that of the oldest Ingress with rules is.
        """
        for rule in ingress.rules:
            host = self._hosts.setdefault(rule.host, _Host())
            if host.default is None:
                host.default = route
        if ingress.rules:
            if self._catch_all is None:
                self._catch_all, self._is_last_resort = route, True
            return None
        if self._catch_all is not None and not self._is_last_resort:
            return self._catch_all.ingress
        self._catch_all, self._is_last_resort = route, False
        return None

    def add(
        self, host: str, matched: paths.Matched, route: table.Route
    ) -> names.NamespacedName | None:
        """Add a route; the Ingress that has the same path already, which keeps it, if one has."""
        known = self._hosts.setdefault(host, _Host())
        older = known.routes.setdefault(matched, route)
        if older is not route:
            return older.ingress
        known.written.setdefault(_written(route.path, route.type), matched)
        return None

    def add_canary(
        self, host: str, path: ingresses.Path, canary: table.Canary
    ) -> names.NamespacedName | None:
        """Give the route of this path a canary; the Ingress of the one it has already, if any.

        Raises LookupError when no route has this path and type.
        """
        known = self._hosts[host]
        matched = known.written[_written(path.path, path.type)]
        route = known.routes[matched]
        if route.canary is not None:
            return route.canary.ingress
        known.routes[matched] = replace(route, canary=canary)
        return None

    def finished(self, given: tls.Tls) -> Generator[None, None, tuple[table.VirtualHost, ...]]:
        """The virtual hosts, by name."""
        made = []
        for name in sorted(self._hosts):
            yield
            made.append((yield from self._finished(name, self._hosts[name], given)))
        return tuple(made)

    def _finished(
        self, name: str, host: _Host, given: tls.Tls
    ) -> Generator[None, None, table.VirtualHost]:
        exact: dict[str, table.Route] = {}
        prefixes: dict[str, table.Route] = {}
        expressions: dict[str, table.Route] = {}
        is_tls = given.is_given(name)
        in_order = yield from steps.sorted_in_steps(
            host.routes.items(), lambda entry: _RANKS[entry[1].type]
        )
        for matched, found in in_order:
            yield from self.pause(64)  # a millisecond's work
            route = _redirected(found, is_tls=is_tls)
            if matched.exact:
                exact.setdefault(matched.exact, route)
            if matched.prefix:
                prefixes.setdefault(matched.prefix, route)
            if matched.pattern:
                expressions.setdefault(matched.pattern, route)
        default = host.default or self._catch_all
        if default is not None:
            prefixes.setdefault("/", _redirected(default, is_tls=is_tls))
        return table.VirtualHost(
            name,
            tuple((yield from steps.sorted_in_steps(exact.items(), _text))),
            tuple((yield from steps.sorted_in_steps(prefixes.items(), _longest))),
            tuple((yield from steps.sorted_in_steps(expressions.items(), _longest))),
            given.certificate(name),
        )


_RANKS = {kind: rank for rank, kind in enumerate(ingresses.PathType)}
"""Of routes that match the same path: Exact first, ImplementationSpecific last."""


def _written(path: str, kind: ingresses.PathType) -> _Written:
    """How a path is written. A slash at the end of a Prefix makes no difference."""
    if kind is ingresses.PathType.PREFIX and not patterns.is_special(path):
        return path.rstrip("/"), kind
    return path, kind


def _redirected(route: table.Route, *, is_tls: bool) -> table.Route:
    policy = route.policy
    redirects = policy.force_ssl_redirect or (policy.ssl_redirect and is_tls)
    return replace(route, redirects=True) if redirects else route


def _text(entry: tuple[str, table.Route]) -> str:
    return entry[0]


def _longest(entry: tuple[str, table.Route]) -> tuple[int, str]:
    return -len(entry[0]), entry[0]
