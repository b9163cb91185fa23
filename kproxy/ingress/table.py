"""The routing table: which request goes where, as frozen data between the rules and nginx.

`routing` makes one of Ingresses; `rules.matching` says which route a request takes; `nginx_config`
makes nginx take the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from kproxy.model import admission, names
from kproxy.model.kinds.ingress import ingresses


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong with an Ingress, for the log and for an Event. `str()` is one sentence.

    `reason` is an Event's, in camel case; `text` names field, value and consequence.
    """

    ingress: names.NamespacedName
    reason: str
    text: str
    severity: admission.Severity = admission.Severity.WARNING

    def __str__(self) -> str:
        return f"Ingress {self.ingress}: {self.text}"


class Protocol(StrEnum):
    """What is spoken with a backend, as the annotation `backend-protocol` spells it."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    GRPC = "GRPC"
    GRPCS = "GRPCS"


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests of an Ingress are passed on: its annotations. Times are in seconds.

    `body_size` is nginx's notation, "0" for no limit. `rewrite` replaces the whole path; in it
    `$1` to `$9` are the groups of the pattern that matched. Clients in the networks `denied` are
    answered 403, and so are those outside of `allowed`, unless that is empty. `is_refused`: the
    Ingress asks for a protection that is not there, so all its requests are answered 503.
    """

    protocol: Protocol = Protocol.HTTP
    body_size: str = "1m"
    connect_timeout: int = 5
    send_timeout: int = 60
    read_timeout: int = 60
    rewrite: str = ""
    has_patterns: bool = False
    ssl_redirect: bool = True
    force_ssl_redirect: bool = False
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    is_refused: bool = False


DEFAULT_POLICY = Policy()
"""That of an Ingress without annotations; ingress-nginx has the same defaults."""


@dataclass(frozen=True, slots=True)
class CanaryRule:
    """Which requests a canary gets.

    The header decides, else the cookie, else `weight` of `total` requests go to it. A header that
    is `always` or `never`, or with `header_value` that value, or with `header_pattern` a value
    that matches, decides; so does a cookie that is `always` or `never`.
    """

    weight: int = 0
    total: int = 100
    header: str = ""
    header_value: str = ""
    header_pattern: str = ""
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class Canary:
    """Another backend, for those of a route's requests that `rule` says."""

    ingress: names.NamespacedName
    target: names.ServicePortName | None
    rule: CanaryRule


@dataclass(frozen=True, slots=True)
class Route:
    """What becomes of the requests that one path of an Ingress matches.

    `target` is None where there is nothing to send them to: they are answered 503. With
    `redirects` those that come by HTTP are sent to HTTPS. `pattern` is the regular expression
    that the path is, if it is one.
    """

    ingress: names.NamespacedName
    path: str
    type: ingresses.PathType
    target: names.ServicePortName | None
    policy: Policy = DEFAULT_POLICY
    canary: Canary | None = None
    redirects: bool = False
    pattern: str = ""

    def targets(self) -> Iterator[tuple[names.NamespacedName, names.ServicePortName]]:
        """The service ports that its requests may go to, each with the Ingress that names it."""
        if self.target is not None:
            yield self.ingress, self.target
        if self.canary is not None and self.canary.target is not None:
            yield self.canary.ingress, self.canary.target


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its chain, and its private key: PEM that OpenSSL accepts.

    `fingerprint` identifies both; it is fit for the name of a file.
    """

    fingerprint: str
    certificate: bytes = field(repr=False)
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """What is served under one host: a DNS name, `*.` and one, or "" for all others.

    Of a request, the path without its query, decoded and normalized as nginx does, is looked for
    in `exact`; then the longest of `prefixes` that it begins with is found; then those of
    `patterns` are tried, in their order, whose literal beginning begins with that prefix; the
    first that matches has the request, else the prefix. Without any the answer is 404.

    `certificate` is None for the controller's own; every host is served by HTTPS too.
    """

    name: str
    exact: tuple[tuple[str, Route], ...] = ()
    prefixes: tuple[tuple[str, Route], ...] = ()
    patterns: tuple[tuple[str, Route], ...] = ()
    certificate: Certificate | None = None

    def routes(self) -> Iterator[Route]:
        """All of its routes; one that is found in two ways comes twice."""
        for each in (self.exact, self.patterns, self.prefixes):
            yield from (route for _, route in each)


@dataclass(frozen=True, slots=True)
class Table:
    """What the Ingresses of our class ask for, as far as it can be done.

    `hosts` are in the order of their names; "", which is always there, is the first. `served` are
    the Ingresses of our class, canaries included. `targets` are all service ports that requests
    may go to, and `frontends` those of them that are reached at a frontend of kproxy, which
    refuses connections while no endpoint is ready.
    """

    hosts: tuple[VirtualHost, ...] = (VirtualHost(""),)
    served: tuple[names.NamespacedName, ...] = ()
    problems: tuple[Problem, ...] = ()
    targets: frozenset[names.ServicePortName] = frozenset()
    frontends: frozenset[names.ServicePortName] = frozenset()


EMPTY = Table()
"""No Ingress: every request is answered 404."""
