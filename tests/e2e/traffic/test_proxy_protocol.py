"""PROXY headers between real proxies: HAProxy, nginx and curl on both sides of kproxy.

Behaviour: row 43 of docs/behaviour.md.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.e2e.rig import daemon, manifests, programs, proxies, sockets

pytestmark = pytest.mark.xdist_group("proxies")

VERSIONS = ("v1", "v2")
FRONTS = ("haproxy send-proxy", "haproxy send-proxy-v2", "nginx proxy_protocol")
BACKENDS = ("haproxy accept-proxy", "nginx proxy_protocol")


class Place(NamedTuple):
    """kproxy between proxies: where clients connect, by front, version and kind of backend."""

    proxy: daemon.Daemon
    fronts: dict[tuple[str, str, str], daemon.Address]

    def direct(self, version: str, backend: str) -> daemon.Address:
        """kproxy itself."""
        return self.proxy.address(_name(version, backend))


def _name(version: str, backend: str) -> str:
    return f"{version}-{backend.split(maxsplit=1)[0]}"


def _service(version: str, backend: str) -> dict[str, Any]:
    made = manifests.service(_name(version, backend), manifests.fresh_ip(127), manifests.PORT)
    made["metadata"]["annotations"] = {"kproxy.io/proxy-protocol": version}
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Everything, once: five proxies around kproxy."""
    folder = tmp_path_factory.mktemp("proxies")
    addresses = {backend: manifests.free_address() for backend in BACKENDS}
    kinds = list(itertools.product(VERSIONS, BACKENDS))
    documents = [
        document
        for version, backend in kinds
        for document in (
            _service(version, backend),
            manifests.endpoints(_name(version, backend), [addresses[backend]]),
        )
    ]
    path = manifests.write(folder / "all.yaml", *documents)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(proxies.haproxy_backend(folder / "haproxy-backend", addresses[BACKENDS[0]]))
        enter(proxies.nginx_backend(folder / "nginx-backend", addresses[BACKENDS[1]]))
        flags = ("--proxy-protocol-from", "127.0.0.1", "--metrics-bind-address", "127.0.0.1:0")
        proxy = enter(daemon.running(folder / "kproxy", path, *flags))
        fronts: dict[tuple[str, str, str], daemon.Address] = {}
        for front in FRONTS:
            listens = {manifests.free_address(): kind for kind in kinds}
            leads = {each: proxy.address(_name(*kind)) for each, kind in listens.items()}
            fronts |= {(front, *kind): each for each, kind in listens.items()}
            program, flag = front.split()
            if program == "nginx":
                enter(proxies.nginx(folder / "nginx-front", leads))
            else:
                enter(proxies.haproxy(folder / flag, leads, flag))
        yield Place(proxy, fronts)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("front", FRONTS)
def test_a_backend_learns_what_the_proxy_in_front_was_told(
    place: Place, front: str, version: str, backend: str
) -> None:
    """The client's address, and the one that it connected to, whatever versions are in between."""
    host, port = place.fronts[front, version, backend]
    client = manifests.fresh_ip(127)

    seen = programs.curl(f"http://{host}:{port}/", "--interface", client)

    assert re.fullmatch(rf"{client}:\d+ {host}:{port}", seen)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_learns_of_a_client_that_comes_straight_to_kproxy(
    place: Place, version: str, backend: str
) -> None:
    host, port = place.direct(version, backend)
    client = manifests.fresh_ip(127)

    seen = programs.curl(f"http://{host}:{port}/", "--interface", client)

    assert re.fullmatch(rf"{client}:\d+ {host}:{port}", seen)


def test_curl_sends_a_header_itself(place: Place) -> None:
    host, port = place.direct("v2", BACKENDS[0])

    seen = programs.curl(f"http://{host}:{port}/", "--haproxy-protocol", "--interface", "127.0.0.1")

    assert re.fullmatch(rf"127\.0\.0\.1:\d+ {host}:{port}", seen)


def test_without_a_header_a_listed_address_is_reset(place: Place) -> None:
    host, port = place.direct("v2", BACKENDS[0])

    said = programs.curl(f"http://{host}:{port}/", "--interface", "127.0.0.1")

    assert "reset by peer" in said
    place.proxy.wait_logged("warning", "--proxy-protocol-from", "127.0.0.1")
    daemon.wait_until(
        lambda: place.proxy.samples("kproxy_connections_total", result="P/P") == [1.0],
        "it is counted",
    )


def test_the_health_checks_of_a_proxy_in_front_are_no_clients_without_a_header(
    place: Place,
) -> None:
    """HAProxy's say LOCAL in version 2, and UNKNOWN in version 1, or leave before they speak."""
    name = _name("v1", BACKENDS[1])

    def checked() -> float:
        return sum(place.proxy.samples("kproxy_connections_total", service=name))

    before = checked()
    daemon.wait_until(lambda: checked() > before + 4, "HAProxy checks its servers")

    assert not place.proxy.samples("kproxy_connections_total", service=name, result="P/P")
    host, port = place.fronts[FRONTS[1], "v1", BACKENDS[1]]
    assert sockets.is_open((host, port))
