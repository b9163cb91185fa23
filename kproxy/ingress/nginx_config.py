"""nginx's configuration: from a routing table to the text of nginx.conf and its files."""

import hashlib
import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kproxy.ingress import table
from kproxy.ingress.nginx_text import canaries, servers, syntax, upstreams
from kproxy.ingress.nginx_text.syntax import (
    Block,
    Defined,
    Directive,
    Entry,
    Keyword,
    Statement,
    Template,
    Variable,
)
from kproxy.model import addresses, names, steps

VERSION_PATH = "/kproxy-ingress-version"
"""Where nginx answers which configuration it runs: 200 and `Rendered.version`."""

STATUS_PATH = "/kproxy-ingress-status"
"""Where nginx answers its counters (`stub_status`)."""

Upstream = upstreams.Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration needs beside the table.

    `directory` is the absolute path under which everything is: `nginx.pid`, temporary files, and
    the files of `Rendered`. `http` and `https` are listened on; without `https` there
    is no TLS, and no redirect to it. `control` is where the version is asked for, a Unix socket's
    path ("unix:/…") or an address. `workers` is 0 for one per core. `user` is that of the workers,
    "" where nginx cannot or need not change it.
    """

    directory: str
    control: str
    default_certificate: table.Certificate
    http: tuple[addresses.SocketAddress, ...] = ()
    https: tuple[addresses.SocketAddress, ...] = ()
    redirect_port: int = 0
    """The port of HTTPS in redirects; 0 for that of the first of `https`."""
    workers: int = 0
    worker_connections: int = 4096
    user: str = ""
    ending: str = ""
    """While there is a file of this absolute path, answers by HTTP/1.1 ask the client to close its
    connection; "" for never. So no request is sent on a connection that a reload ends."""
    version: tuple[int, ...] = (1, 22)
    """Of nginx: what a configuration may say depends on it."""
    shutdown_timeout: int = 240
    """Seconds until workers of an earlier configuration end what their clients still have open."""

    def __post_init__(self) -> None:
        for path in (self.directory, self.control, self.ending):
            if "$" in path:
                raise ValueError(f"nginx takes no path with a $ in it: {path}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of nginx.conf, and the files that it names, by their paths under `directory`.

    Private keys are among them. `version` changes if and only if the text does; the text names
    files by their content, so nginx has to be reloaded if and only if the version changes.
    """

    text: str = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    version: str


def render(made: table.Table, settings: Settings, upstream: Upstream) -> Rendered:
    """`render_in_steps`, all at once."""
    return steps.at_once(render_in_steps(made, settings, upstream))


def render_in_steps(
    made: table.Table, settings: Settings, upstream: Upstream
) -> Generator[None, None, Rendered]:
    """The configuration for a table; yields at least every 2 ms.

    `upstream` is asked once for each of `made.targets`, and not for all of them at the same moment.
    """
    known: dict[names.ServicePortName, Sequence[addresses.SocketAddress]] = {}
    for run in steps.runs(made.targets, 64):
        yield
        known |= {target: tuple(upstream(target)) for target in run}
    used = upstreams.Upstreams(known, made.frontends)
    chosen = canaries.Canaries()
    port = settings.redirect_port or (settings.https[0].port if settings.https else 0)
    listening = servers.Listening(
        settings.http,
        settings.https,
        port,
        settings.ending,
        has_http2_option=settings.version < _HTTP2_DIRECTIVE,
    )
    making = servers.Servers(listening, used, chosen)
    files: dict[str, bytes] = {}
    of_hosts: list[str] = []
    for host in made.hosts:
        yield
        # nginx serves those without a certificate with the first one's, which is on each port the
        # default. So they cost it no context of OpenSSL, which takes milliseconds to make.
        certificate = host.certificate or (None if host.name else settings.default_certificate)
        path = ""
        if certificate is not None and settings.https:
            files |= _files(certificate)
            path = f"{settings.directory}/{_stem(certificate)}"
        server = yield from making.server(host, path)
        # As text at once: to free the servers of all hosts together would take 10 ms.
        of_hosts += yield from _text([server])
    inside = itertools.chain(_sizes(made, chosen), _defaults(settings), chosen.blocks)
    written = [
        *syntax.lines(_process(settings)),
        "http {\n",
        *(yield from _text(inside)),
        *(yield from _text(used.blocks())),
        *of_hosts,
    ]
    digest = hashlib.sha256()
    for pieces in steps.runs(written, 64):
        yield
        digest.update("".join(pieces).encode())
    version = digest.hexdigest()[:16]
    written += [*syntax.lines([_control(settings, version)], depth=1), "}\n"]
    return Rendered("".join(written), files, version)


def _text(statements: Iterable[Statement]) -> Generator[None, None, list[str]]:
    """What stands in the block `http`, in pieces."""
    pieces = []
    for run in steps.runs(syntax.lines(statements, depth=1)):
        yield
        pieces.append("".join(run))
    return pieces


def _stem(certificate: table.Certificate) -> str:
    return f"tls/{certificate.fingerprint}"


def _files(certificate: table.Certificate) -> dict[str, bytes]:
    """The files of a certificate, by their paths under the directory."""
    stem = _stem(certificate)
    return {f"{stem}.crt": certificate.certificate, f"{stem}.key": certificate.private_key}


def _process(settings: Settings) -> list[Statement]:
    """What concerns nginx as a process."""
    user = [Directive("user", settings.user)] if settings.user else []
    return [
        Directive("daemon", "off"),
        *user,
        Directive("worker_processes", settings.workers or "auto"),
        Directive("worker_shutdown_timeout", f"{settings.shutdown_timeout}s"),
        Directive("pid", f"{settings.directory}/nginx.pid"),
        Directive("lock_file", f"{settings.directory}/nginx.lock"),
        Directive("error_log", "stderr", "error"),
        Block(Directive("events"), [Directive("worker_connections", settings.worker_connections)]),
    ]


_HTTP2_DIRECTIVE = (1, 25, 1)
"""The version from which on HTTP/2 is a directive of servers, and no longer one of addresses."""

_FEW = syntax.Regex("^[0-9]$")
"""Connections of clients, as the digits of their number: one digit."""

_ABSOLUTE = syntax.Regex("^[^ ]+ [A-Za-z][A-Za-z0-9+.-]*://")
"""A request line with a whole URL in it, as clients of forward proxies write it."""

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""What nginx makes directories for, whether it uses them or not."""

_HEADERS: Mapping[str, syntax.Word] = {
    "Host": Variable("kproxy_host"),
    "Connection": Variable("kproxy_connection"),
    "Upgrade": Variable("http_upgrade"),
    "Proxy": "",  # programs that run by CGI take it for their own proxy (CVE-2016-5385)
    "X-Forwarded-For": Variable("remote_addr"),
    "X-Forwarded-Host": Variable("kproxy_host"),
    "X-Forwarded-Port": Variable("server_port"),
    "X-Forwarded-Proto": Variable("scheme"),
    "X-Forwarded-Scheme": Variable("scheme"),
    "X-Real-IP": Variable("remote_addr"),
    "X-Request-ID": Variable("kproxy_request_id"),
    "X-Scheme": Variable("scheme"),
}
"""What backends get, as from ingress-nginx. A client's X-Forwarded-* are not believed."""

_NOT_IN_GRPC = {"Connection", "Upgrade"}

# Backends must not choose what nginx answers: with X-Accel-Redirect, any location of their host.
_IGNORED = ("X-Accel-Redirect", "X-Accel-Charset", "X-Accel-Expires", "X-Accel-Limit-Rate")

# Mozilla's "intermediate", of which TLS 1.3 has its own.
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)


def _defaults(settings: Settings) -> list[Statement]:
    """What holds for all servers."""
    policy = table.DEFAULT_POLICY
    times = (
        ("connect", policy.connect_timeout),
        ("send", policy.send_timeout),
        ("read", policy.read_timeout),
    )
    # Of one address, as kproxy's frontends are, this means: send the request again if a connection
    # that was kept open had been closed.
    tries = ("error", "timeout")
    return [
        *(
            Directive(f"{name}_temp_path", f"{settings.directory}/{name}_temp")
            for name in _TEMPORARY
        ),
        Directive("access_log", "off"),
        Directive("server_tokens", "off"),
        Directive("default_type", "text/plain"),
        Directive("reset_timedout_connection", "on"),
        Directive("client_max_body_size", policy.body_size),
        *(
            Directive(f"{module}_{name}_timeout", f"{seconds}s")
            for module in ("proxy", "grpc")
            for name, seconds in times
        ),
        Directive("proxy_http_version", "1.1"),
        Directive("proxy_buffering", "off"),
        *(Directive(f"{module}_next_upstream", *tries) for module in ("proxy", "grpc")),
        *(Directive(f"{module}_ignore_headers", *_IGNORED) for module in ("proxy", "grpc")),
        *(Directive("proxy_set_header", name, value) for name, value in _HEADERS.items()),
        *(
            Directive("grpc_set_header", name, value)
            for name, value in _HEADERS.items()
            if name not in _NOT_IN_GRPC
        ),
        *_tls(settings),
        *_variables(),
        *_closing(settings),
        *servers.failures(),
    ]


def _closing(settings: Settings) -> list[Statement]:
    """Ask clients to close, in the versions of HTTP that ask for it by a header."""
    if not settings.ending:
        return []
    default = Keyword("default")
    return [
        _map(
            "server_protocol",
            "kproxy_closing",
            [Entry(default, ""), Entry("HTTP/1.1", servers.ENDING)],
        ),
        Directive("add_header", "Connection", Variable("kproxy_closing")),
    ]


def _tls(settings: Settings) -> list[Statement]:
    if not settings.https:
        return []
    http2 = [Directive("http2", "on")] if settings.version >= _HTTP2_DIRECTIVE else []
    return [
        *http2,
        Directive("ssl_protocols", "TLSv1.2", "TLSv1.3"),
        Directive("ssl_ciphers", _CIPHERS),
        Directive("ssl_prefer_server_ciphers", "off"),
        Directive("ssl_session_cache", "shared:kproxy:10m"),
        Directive("ssl_session_timeout", "10m"),
        Directive("ssl_session_tickets", "off"),
    ]


def _variables() -> list[Statement]:
    """Variables of ours."""
    default = Keyword("default")
    dollar = Variable(syntax.DOLLAR)
    host, address, own = map(Variable, ("host", "server_addr", "kproxy_address"))
    return [
        Block(Directive("geo", Defined(dollar)), [Entry(default, "$", is_evaluated=False)]),
        # A client of HTTP/1.0 may name no host. nginx would say the name of the server then.
        _map(
            "server_addr",
            "kproxy_address",
            [Entry(default, address), Entry(syntax.Regex(":"), Template(("[", address, "]")))],
        ),
        _map("host", servers.NAMED.name, [Entry(default, host), Entry(servers.ANY_NAME, own)]),
        _map(
            "host",
            "kproxy_unnamed",
            [
                Entry(default, host),
                Entry(servers.ANY_NAME, Template((own, ":", Variable("server_port")))),
            ],
        ),
        _map(
            "http_host",
            "kproxy_named",
            [Entry(default, Variable("http_host")), _empty("kproxy_unnamed")],
        ),
        # A host in the request line chose the rules: RFC 9112, 3.2.2, has that of Host ignored.
        _map(
            "request",
            "kproxy_host",
            [Entry(default, Variable("kproxy_named")), Entry(_ABSOLUTE, Variable("host"))],
        ),
        # kproxy balances connections. While there are few, each request gets one of its own, so
        # that requests one after the other reach all pods; of many, connections are kept.
        _map("connections_active", "kproxy_keeping", [Entry(default, ""), Entry(_FEW, "close")]),
        _map(
            "http_upgrade",
            "kproxy_connection",
            [Entry(default, "upgrade"), _empty("kproxy_keeping")],
        ),
        _map(
            "http_x_request_id",
            "kproxy_request_id",
            [Entry(default, Variable("http_x_request_id")), _empty("request_id")],
        ),
    ]


def _empty(variable: str) -> Entry:
    return Entry("", Variable(variable))


def _map(source: str, name: str, entries: list[Entry]) -> Block:
    return Block(Directive("map", Variable(source), Defined(Variable(name))), entries)


def _sizes(made: table.Table, chosen: canaries.Canaries) -> list[Statement]:
    """The sizes of nginx's hash tables, in which a bucket has room for some entries.

    nginx refuses what is too small for one entry, and warns of what is full.
    """
    longest = max(len(host.name) for host in made.hosts)
    bucket = _power_of_two(_ENTRIES * (longest + _BESIDE_A_NAME), least=512)
    return [
        Directive("server_names_hash_bucket_size", bucket),
        Directive("server_names_hash_max_size", _power_of_two(2 * len(made.hosts), least=512)),
        Directive("variables_hash_bucket_size", 512),
        Directive("variables_hash_max_size", _power_of_two(2 * chosen.variables, least=1024)),
    ]


_ENTRIES = 8
_BESIDE_A_NAME = 32
"""Bytes that an entry has beside its name: a pointer, and what aligns it."""


def _power_of_two(number: int, least: int) -> int:
    """The first that is not smaller than either."""
    return max(1 << (number - 1).bit_length(), least) if number > 0 else least


def _control(settings: Settings, version: str) -> Block:
    """A server that only this host's programs reach: which configuration runs, and its counters."""
    return Block(
        Directive("server"),
        [
            Directive("listen", settings.control),
            Directive("server_name", "_"),
            Block(Directive("location", "=", VERSION_PATH), [Directive("return", 200, version)]),
            Block(Directive("location", "=", STATUS_PATH), [Directive("stub_status")]),
            Block(Directive("location", "/"), [Directive("return", 404)]),
        ],
    )
