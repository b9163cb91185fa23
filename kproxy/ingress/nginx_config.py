"""nginx's configuration: from a routing table to the text of nginx.conf and its files."""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from kproxy.ingress import table
from kproxy.model import addresses, names, steps

VERSION_PATH = "/kproxy-ingress-version"
"""Where nginx answers which configuration it runs: 200 and `Rendered.version`."""

STATUS_PATH = "/kproxy-ingress-status"
"""Where nginx answers its counters (`stub_status`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration needs beside the table.

    `directory` is the absolute path under which everything is: `nginx.pid`, temporary files in
    `temp`, and the files of `Rendered`. `http` and `https` are listened on; without `https` there
    is no TLS, and no redirect to it. `control` is where the version is asked for, a Unix socket's
    path ("unix:/…") or an address. `workers` is 0 for one per core. `user` is that of the workers,
    "" where nginx cannot or need not change it.
    """

    directory: str
    control: str
    default_certificate: table.Certificate
    http: tuple[addresses.SocketAddress, ...] = ()
    https: tuple[addresses.SocketAddress, ...] = ()
    workers: int = 0
    worker_connections: int = 1024
    user: str = ""
    shutdown_timeout: int = 240
    """Seconds until workers of an earlier configuration end what their clients still have open."""
    requests_per_connection: int = 8
    """To a backend. kproxy balances connections: more of them spread requests more evenly."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text of nginx.conf, and the files that it names, by their paths under `directory`.

    Private keys are among them. `version` changes if and only if the text does; the text names
    files by their content, so nginx has to be reloaded if and only if the version changes.
    """

    text: str = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)
    version: str


Upstream = Callable[[names.ServicePortName], Sequence[addresses.SocketAddress]]
"""Where the connections for a service port go; nowhere yet, or no more, if that is empty."""


def render(made: table.Table, settings: Settings, upstream: Upstream) -> Rendered:
    """`render_in_steps`, all at once."""
    return steps.at_once(render_in_steps(made, settings, upstream))


def render_in_steps(
    made: table.Table, settings: Settings, upstream: Upstream
) -> Generator[None, None, Rendered]:
    """The configuration for a table; yields at least every 2 ms.

    `upstream` is asked once for each of `made.targets`, before the first pause.
    """
    del made, upstream
    yield
    listen = "".join(f"    listen {each} default_server;\n" for each in settings.http)
    servers = f'  server {{\n{listen}    location / {{ return 404 "no such host\\n"; }}\n  }}\n'
    version = hashlib.sha256(servers.encode()).hexdigest()[:16]
    text = (
        f"daemon off;\npid {settings.directory}/nginx.pid;\nerror_log stderr;\n"
        f"events {{ worker_connections {settings.worker_connections}; }}\n"
        f"http {{\n  access_log off;\n{servers}"
        f"  server {{\n    listen {settings.control};\n"
        f"    location = {VERSION_PATH} {{ return 200 {version}; }}\n  }}\n}}\n"
    )
    return Rendered(text, {}, version)
