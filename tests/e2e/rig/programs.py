"""Real servers behind the proxy: redis-server and nginx, on addresses in 127/8."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.nsd import arguments as nsd_arguments
from tests.e2e.rig import daemon, sockets

_PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "dig": "dnsutils",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "kubectl": "kubernetes-client",
    "nginx": "nginx",
    "nsd": "nsd",
    "openssl": "openssl",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
    "unbound": "unbound",
    "unshare": "util-linux",
}


def need(program: str) -> str:
    """The path of a program. Missing, it skips the test; but in CI it fails it."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        message = f"{program} is missing: install Debian's package {_PACKAGES[program]}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def unprivileged() -> list[str]:
    """A command that starts another without the right to bind low ports."""
    if os.geteuid() != 0:
        return []
    setpriv = need("setpriv")
    return [setpriv, "--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]


@contextlib.contextmanager
def started(command: list[str], folder: Path, *listening: daemon.Address) -> Iterator[None]:
    """Run a program in `folder` from when it listens at these addresses; its log is in `log`."""
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        daemon.wait_until(
            lambda: process.poll() is not None or all(map(sockets.is_open, listening)),
            f"{command[0]} listens",
        )
        assert process.poll() is None, log_file.read_text()
        yield
    finally:
        daemon.end(process)


@contextlib.contextmanager
def redis(folder: Path, address: daemon.Address) -> Iterator[None]:
    """A redis-server that knows its address under the key "who"; nothing is saved."""
    folder.mkdir(parents=True)
    host, port = address
    command = [need("redis-server"), "--bind", host, "--port", str(port), "--save", ""]
    with started([*command, "--protected-mode", "no"], folder, address):
        assert redis_cli(address, "SET", "who", host) == "OK"
        yield


def redis_cli(address: daemon.Address, *words: str) -> str:
    """What redis-cli prints, without the last line break."""
    command = [need("redis-cli"), "-h", address[0], "-p", str(address[1]), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""
_NGINX_SERVER = 'server {{ listen {0}:{1}; location / {{ return 200 "{0}\\n"; }} }}'


@contextlib.contextmanager
def nginx(folder: Path, *addresses: daemon.Address) -> Iterator[None]:
    """An nginx that answers on each address with that address."""
    folder.mkdir(parents=True)
    servers = "\n".join(_NGINX_SERVER.format(*address) for address in addresses)
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, servers=servers))
    command = [need("nginx"), "-p", str(folder), "-e", str(folder / "start.log")]
    with started([*command, "-c", str(config)], folder, *addresses):
        yield


def curl(url: str, *flags: str) -> str:
    """What curl prints: the body."""
    command = [need("curl"), "--silent", "--show-error", "--noproxy", "*", "--max-time", "30"]
    command += [*flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


@contextlib.contextmanager
def nsd(folder: Path, address: daemon.Address, records: str) -> Iterator[None]:
    """A DNS server, over UDP and TCP, for example.org with these records."""
    folder.mkdir()
    host, port = address
    with started([need("nsd"), *nsd_arguments(folder, host, port, records)], folder, address):
        yield


def dig(address: daemon.Address, *words: str) -> str:
    """What dig prints, for instance the records with `+short`; "" if the server is not reached."""
    host, port = address
    command = [need("dig"), f"@{host}", "-p", str(port), "+time=10", "+tries=2", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
