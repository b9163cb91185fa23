"""Servers: one block for each virtual host, with the locations that make nginx choose its routes.

nginx takes the location of the whole path (`=`), else it remembers the longest prefix that
matches, tries the regular expressions inside of that location, and takes the location if none of
them matches. `^~` keeps it from expressions of other prefixes.
"""

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from kproxy.ingress import table
from kproxy.ingress.nginx_text import canaries, upstreams
from kproxy.ingress.nginx_text.syntax import (
    Block,
    Condition,
    Defined,
    Directive,
    Entry,
    Exists,
    Group,
    Keyword,
    Regex,
    Statement,
    Template,
    Variable,
)
from kproxy.ingress.rules import matching, patterns
from kproxy.model import addresses

ENDING = Variable("kproxy_ending")
"""Has "close" while clients are asked to close their connections."""

ANY_NAME = "_"
"""The name of the server for all hosts that have none of their own."""

NAMED = Variable("kproxy_name")
"""The host that a client asks for, without port; if it names none, the address that it asks."""

NOT_FOUND = "404: no Ingress has a rule for this host and path"
NOT_AVAILABLE = "503: there is no service for this host and path"
NO_ENDPOINT = "503: no connection to the Service; most likely no endpoint is ready"
BROKEN = "502: the connection to the Service's endpoint failed"

_HANDED_ON = 418
"""A status that no other part of this configuration makes."""

_REFUSED = Variable("kproxy_refused")
"""Has "1" if nginx has not got the connection to an upstream that it tried last."""

_OF_FRONTENDS = "@frontend_failed"
_OF_OTHERS = "@endpoint_failed"

_GROUP = re.compile(r"\$([1-9])")
_LOCATIONS_BETWEEN_PAUSES = 16

_Made = Generator[None, None, list[Statement]]


@dataclass(frozen=True, slots=True)
class Listening:
    """Where servers listen. `redirect_port` is the port of HTTPS as clients see it.

    While there is the file `ending`, clients are asked to close their connections; "" for never.
    `has_http2_option`: HTTP/2 is asked for where an address is listened on.
    """

    http: Sequence[addresses.SocketAddress]
    https: Sequence[addresses.SocketAddress]
    redirect_port: int
    ending: str
    has_http2_option: bool


class Servers:
    """Makes the servers of a configuration, and collects the upstreams and variables they use."""

    def __init__(
        self, listening: Listening, used: upstreams.Upstreams, chosen: canaries.Canaries
    ) -> None:
        self._listening = listening
        self._upstreams = used
        self._canaries = chosen
        self._variables: dict[int, Variable] = {}
        self._count = 0
        self._named = 0
        self._failing: set[str] = set()

    def server(self, host: table.VirtualHost, certificate: str) -> Generator[None, None, Block]:
        """The server of a virtual host.

        `certificate` is the path of its certificate's files, without suffix; "" for none.
        """
        body: list[Statement] = [*self._listens(is_default=not host.name), _server_name(host.name)]
        if certificate:
            body += _certificate(certificate)
        body += self._ending()
        self._failing.clear()
        body += yield from self._locations(host)
        body += [each for name, each in _FAILED.items() if name in self._failing]
        return Block(Directive("server"), body)

    def _listens(self, *, is_default: bool) -> list[Statement]:
        default = ("default_server",) if is_default else ()
        secured = ("ssl", "http2") if self._listening.has_http2_option else ("ssl",)
        return [
            *(Directive("listen", str(each), *default) for each in self._listening.http),
            *(Directive("listen", str(each), *default, *secured) for each in self._listening.https),
        ]

    def _ending(self) -> list[Statement]:
        if not self._listening.ending:
            return []
        said = Directive("set", Defined(ENDING), "close")
        return [Block(Directive("if", Exists(self._listening.ending)), [said])]

    def _locations(self, host: table.VirtualHost) -> _Made:
        exact = {path for path, _ in host.exact}
        inner = yield from matching.by_prefix_in_steps(host)
        made: list[Statement] = []
        for path, route in host.exact:
            yield from self._pause()
            made += self._location(("=", path), route, [], is_alone=path[:-1] not in exact)
        for prefix, route in host.prefixes:
            yield from self._pause()
            nested = yield from self._expressions(inner.get(prefix, ()))
            is_alone = prefix[:-1] not in exact
            made += self._location(("^~", prefix), route, nested, is_alone=is_alone)
        made += yield from self._expressions(inner.get(matching.NO_PREFIX, ()))
        if not host.prefixes or host.prefixes[-1][0] != "/":
            made.append(Block(Directive("location", "/"), [Directive("return", 404, NOT_FOUND)]))
        return made

    def _expressions(self, found: Sequence[tuple[str, table.Route]]) -> _Made:
        made: list[Statement] = []
        for text, route in found:
            yield from self._pause()
            expression = Regex(f"{patterns.LIMIT}^(?:{text})")
            handler = self._handler(route, inherits=True)
            made.append(Block(Directive("location", "~*", expression), handler))
        return made

    def _location(
        self,
        words: tuple[str, str],
        route: table.Route,
        nested: list[Statement],
        *,
        is_alone: bool,
    ) -> list[Statement]:
        """The location of a path or a prefix. `is_alone`: there is none without its last slash.

        nginx redirects a path to a location that has one slash more, if that location passes
        requests on. So such a location leaves them to another one, whose name has no slash.
        """
        handler = self._handler(route)
        path = words[1]
        if not (is_alone and path.endswith("/") and len(path) > 1):
            return [Block(Directive("location", *words), [*nested, *handler])]
        self._named += 1
        name = f"@location_{self._named}"
        handing_on: list[Statement] = [
            *_body_size(route.policy),
            Directive("error_page", _HANDED_ON, "=", name),
            Directive("return", _HANDED_ON),
        ]
        return [
            Block(Directive("location", *words), [*nested, *handing_on]),
            Block(Directive("location", name), handler),
        ]

    def _handler(self, route: table.Route, *, inherits: bool = False) -> list[Statement]:
        """What is done with a request.

        A location that `inherits`, since it stands in another one, says all that the other may
        say too: that can be another Ingress's.
        """
        policy = route.policy
        destination = "" if policy.is_refused else self._destination(route)
        if not destination:
            return [Directive("return", 503, NOT_AVAILABLE)]
        return [
            *self._redirect(route),
            *_access(policy, inherits=inherits),
            *_body_size(policy, inherits=inherits),
            *_timeouts(policy, inherits=inherits),
            *_rewrite(route),
            *self._failure(route, inherits=inherits),
            Directive(f"{_module(policy)}_pass", _url(policy, destination)),
        ]

    def _failure(self, route: table.Route, *, inherits: bool) -> list[Statement]:
        """What answers a request for which nginx itself would answer 502.

        An answer of the backend is passed on, one with the status 502 too.
        """
        chosen = [route.target, *([route.canary.target] if route.canary else [])]
        is_default = all(map(self._upstreams.is_frontend, chosen))
        name = _OF_FRONTENDS if is_default else _OF_OTHERS
        self._failing.add(name)
        return [] if is_default and not inherits else [_error_page(name)]

    def _destination(self, route: table.Route) -> str | Variable:
        """The name of the upstream, or the variable that has it; "" if there is none."""
        main = self._upstreams.name(route.target, route.policy.protocol)
        if route.canary is None:
            return main
        other = self._upstreams.name(route.canary.target, route.policy.protocol)
        if not main or not other:
            return main
        # A route of the type Prefix has two locations.
        chosen = self._variables.get(id(route))
        if chosen is None:
            chosen = self._canaries.choose(route.canary.rule, main, other)
            self._variables[id(route)] = chosen
        return chosen

    def _redirect(self, route: table.Route) -> list[Statement]:
        if not route.redirects or not self._listening.https:
            return []
        port = self._listening.redirect_port
        shown = "" if port == _HTTPS_PORT else f":{port}"
        there = Template(("https://", NAMED, shown, Variable("request_uri")))
        is_http = Condition(Variable("scheme"), "http")
        return [Block(Directive("if", is_http), [Directive("return", 308, there)])]

    def _pause(self) -> Generator[None, None, None]:
        self._count += 1
        if self._count % _LOCATIONS_BETWEEN_PAUSES == 0:
            yield


_HTTPS_PORT = 443
_DEFAULT = table.DEFAULT_POLICY


def failures() -> list[Statement]:
    """What holds for all servers when nginx gets no answer from an upstream.

    The frontend of a Service without endpoints refuses connections. Where kproxy reaches none of
    the endpoints there are, it closes the connection: that stays 502, as nginx has it. nginx knows
    the difference by the time that connecting took, which for TLS includes the handshake.
    """
    entries = [Entry(Keyword("default"), ""), Entry(Regex("-$"), "1")]
    head = Directive("map", Variable("upstream_connect_time"), Defined(_REFUSED))
    return [
        Block(head, entries),
        # A location that hands a request on has used up the one error page that there is else.
        Directive("recursive_error_pages", "on"),
        _error_page(_OF_FRONTENDS),
    ]


def _error_page(name: str) -> Directive:
    return Directive("error_page", 502, "=", name)


_IF_REFUSED = Block(
    Directive("if", Condition(_REFUSED, "1")), [Directive("return", 503, NO_ENDPOINT)]
)
_IF_BROKEN = Directive("return", 502, BROKEN)
_FAILED: dict[str, Statement] = {
    _OF_FRONTENDS: Block(Directive("location", _OF_FRONTENDS), [_IF_REFUSED, _IF_BROKEN]),
    _OF_OTHERS: Block(Directive("location", _OF_OTHERS), [_IF_BROKEN]),
}


def _certificate(path: str) -> list[Statement]:
    return [
        Directive("ssl_certificate", f"{path}.crt"),
        Directive("ssl_certificate_key", f"{path}.key"),
    ]


def _server_name(host: str) -> Directive:
    """A wildcard stands for one label, as Kubernetes has it, and not for several, as nginx."""
    if not host:
        return Directive("server_name", ANY_NAME)
    if host.startswith("*."):
        suffix = canaries.escaped(host.removeprefix("*"))
        return Directive("server_name", Regex(f"~^[^.]+{suffix}$"))
    return Directive("server_name", host)


def _module(policy: table.Policy) -> str:
    """The module of nginx that passes requests on: its directives begin with this."""
    is_grpc = policy.protocol in {table.Protocol.GRPC, table.Protocol.GRPCS}
    return "grpc" if is_grpc else "proxy"


def _url(policy: table.Policy, destination: str | Variable) -> Template:
    return Template((f"{upstreams.scheme(policy.protocol)}://", destination))


def _access(policy: table.Policy, *, inherits: bool) -> list[Statement]:
    """nginx takes the first that a client's address is in."""
    rules: list[Statement] = [
        *(Directive("deny", each) for each in policy.denied),
        *(Directive("allow", each) for each in policy.allowed),
        *([Directive("deny", "all")] if policy.allowed else []),
    ]
    return [Directive("allow", "all")] if inherits and not rules else rules


def _body_size(policy: table.Policy, *, inherits: bool = False) -> list[Statement]:
    if policy.body_size == _DEFAULT.body_size and not inherits:
        return []
    return [Directive("client_max_body_size", policy.body_size)]


def _timeouts(policy: table.Policy, *, inherits: bool) -> list[Statement]:
    """Those that differ from the defaults, which stand once for all servers."""
    module = _module(policy)
    given = (
        ("connect", policy.connect_timeout, _DEFAULT.connect_timeout),
        ("send", policy.send_timeout, _DEFAULT.send_timeout),
        ("read", policy.read_timeout, _DEFAULT.read_timeout),
    )
    return [
        Directive(f"{module}_{name}_timeout", f"{seconds}s")
        for name, seconds, default in given
        if seconds != default or inherits
    ]


def _rewrite(route: table.Route) -> list[Statement]:
    """The annotation rewrite-target replaces the path, with the groups of the pattern in it."""
    target = route.policy.rewrite
    if not target:
        return []
    groups = patterns.parse(route.pattern).groups if route.pattern else 0
    parts: list[str | Variable | Group] = []
    for place, part in enumerate(_GROUP.split(target)):
        if place % 2 == 0:
            parts.append(part)
        elif int(part) <= groups:
            parts.append(Group(int(part)))
    # Without a pattern nothing is captured, and a group is empty, as in ingress-nginx.
    matching_all = f"{patterns.LIMIT}(?i)^(?:{route.pattern})" if route.pattern else "^"
    return [Directive("rewrite", Regex(matching_all), Template(tuple(parts)), "break")]
