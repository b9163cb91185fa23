"""Clients that name no host, as HTTP/1.0 allows: they are answered as if they named the address."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.model import addresses
from tests.e2e.rig import manifests
from tests.ingress.rig import nginx_rig, objects
from tests.ingress.rig.objects import ingress
from tests.ingress.rig.sites import NGINX

pytestmark = nginx_rig.needs_nginx

FORCED = {f"{NGINX}force-ssl-redirect": "true"}


@contextlib.contextmanager
def answered(place: addresses.SocketAddress, request: bytes) -> Iterator[http.client.HTTPResponse]:
    """The answer to these bytes."""
    with socket.create_connection(place, timeout=nginx_rig.DEADLINE) as client:
        client.sendall(request)
        with contextlib.closing(http.client.HTTPResponse(client)) as answer:
            answer.begin()
            yield answer


@pytest.mark.parametrize(
    "is_ipv6",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
        ),
    ],
)
def test_backends_get_the_address_that_was_asked(tmp_path: Path, *, is_ipv6: bool) -> None:
    place = nginx_rig.unused()
    if is_ipv6:
        place = addresses.SocketAddress("::1", manifests.free_port("::1"))
    made = objects.made(ingress("web", "Prefix /"))
    with nginx_rig.running(tmp_path, made, http=(place,)):
        with answered(place, b"GET /x HTTP/1.0\r\n\r\n") as answer:
            headers = json.loads(answer.read())["headers"]
        assert headers["host"] == headers["x-forwarded-host"] == str(place)

        with answered(place, b"GET http://a.example/x HTTP/1.0\r\n\r\n") as answer:
            assert json.loads(answer.read())["headers"]["host"] == "a.example"


def test_they_are_redirected_to_that_address(tmp_path: Path) -> None:
    made = objects.made(ingress("web", "Prefix /", annotations=FORCED))
    with (
        nginx_rig.running(tmp_path, made, redirect_port=443) as nginx,
        answered(nginx.http, b"GET /x HTTP/1.0\r\n\r\n") as answer,
    ):
        assert answer.status == 308
        assert answer.headers["Location"] == f"https://{nginx.http.address}/x"
