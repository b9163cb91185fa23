"""HAProxy and nginx as the proxies around the one under test: in front of it, and behind it.

Those behind it answer HTTP requests with what they were told of their client: its address and port,
and those that it connected to.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.rig import daemon, programs

_HAPROXY = """
global
    nbthread 1
    maxconn 100
defaults
    timeout connect 10s
    timeout client 20s
    timeout server 20s
{sections}
"""
_HAPROXY_FRONT = """
listen front-{number}
    mode tcp
    bind {listen[0]}:{listen[1]}
    server behind {to[0]}:{to[1]} {flag} check check-send-proxy inter 200ms fall 1000
"""
_HAPROXY_BACKEND = """
frontend who
    mode http
    bind {0}:{1} accept-proxy
    http-request return status 200 content-type text/plain lf-string \
"%[src]:%[src_port] %[dst]:%[dst_port]"
"""

_NGINX = """
{modules}
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 100; }}
stream {{ {streams} }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""
_NGINX_FRONT = (
    "server {{ listen {listen[0]}:{listen[1]}; proxy_pass {to[0]}:{to[1]}; proxy_protocol on; }}"
)
_NGINX_BACKEND = """
server {{
    listen {0}:{1} proxy_protocol;
    location / {{
        return 200 "$proxy_protocol_addr:$proxy_protocol_port \
$proxy_protocol_server_addr:$proxy_protocol_server_port";
    }}
}}
"""
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

Fronts = Mapping[daemon.Address, daemon.Address]
"""Where each listens, and what it leads to."""


@contextlib.contextmanager
def haproxy(folder: Path, fronts: Fronts, flag: str) -> Iterator[None]:
    """An HAProxy in front; `flag` is send-proxy or send-proxy-v2. It checks its servers so, too."""
    sections = [
        _HAPROXY_FRONT.format(number=number, listen=listen, to=to, flag=flag)
        for number, (listen, to) in enumerate(fronts.items())
    ]
    with _haproxy(folder, sections, *fronts):
        yield


@contextlib.contextmanager
def haproxy_backend(folder: Path, address: daemon.Address) -> Iterator[None]:
    """An HAProxy behind, with `accept-proxy`."""
    with _haproxy(folder, [_HAPROXY_BACKEND.format(*address)], address):
        yield


@contextlib.contextmanager
def nginx(folder: Path, fronts: Fronts) -> Iterator[None]:
    """An nginx in front, with `proxy_protocol on`: version 1."""
    streams = "\n".join(_NGINX_FRONT.format(listen=each, to=to) for each, to in fronts.items())
    with _nginx(folder, streams, "", *fronts):
        yield


@contextlib.contextmanager
def nginx_backend(folder: Path, address: daemon.Address) -> Iterator[None]:
    """An nginx behind, that listens with `proxy_protocol`."""
    with _nginx(folder, "", _NGINX_BACKEND.format(*address), address):
        yield


@contextlib.contextmanager
def _haproxy(folder: Path, sections: list[str], *listening: daemon.Address) -> Iterator[None]:
    folder.mkdir(parents=True)
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(sections="\n".join(sections)))
    command = [programs.need("haproxy"), "-db", "-f", str(config)]
    with programs.started(command, folder, *listening):
        yield


@contextlib.contextmanager
def _nginx(folder: Path, streams: str, servers: str, *listening: daemon.Address) -> Iterator[None]:
    binary = programs.need("nginx")
    if not _STREAM_MODULE.exists():
        pytest.skip("nginx has no stream module: install Debian's package libnginx-mod-stream")
    folder.mkdir(parents=True)
    config = folder / "nginx.conf"
    modules = f"load_module {_STREAM_MODULE};"
    config.write_text(
        _NGINX.format(folder=folder, modules=modules, streams=streams, servers=servers)
    )
    command = [binary, "-p", str(folder), "-e", str(folder / "start.log"), "-c", str(config)]
    with programs.started(command, folder, *listening):
        yield
