"""What clients are answered when a Service's frontend refuses, or breaks a connection."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.model import addresses, names
from tests.ingress.rig import nginx_rig, objects
from tests.ingress.rig.objects import service
from tests.ingress.rig.sites import annotated

pytestmark = nginx_rig.needs_nginx

NO_ENDPOINT = b"503: no connection to the Service; most likely no endpoint is ready"
BROKEN = b"502: the connection to the Service's endpoint failed"

DOCUMENTS = [
    annotated("empty", "Prefix /", "Exact /e/"),
    annotated("regex", "Prefix /", "ImplementationSpecific /x[0-9] -> bare", use_regex="true"),
    annotated("secured", "Prefix / -> empty", backend_protocol="HTTPS"),
    annotated("grpc", "Prefix / -> empty", backend_protocol="GRPC"),
    annotated("broken"),
    annotated("bare"),
    annotated("own"),
    service("bare", clusterIP="None"),
]


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_rig.Nginx]:
    """`empty` and the headless `bare` refuse connections; `broken` reads a request and hangs up;
    `own` answers 502 itself."""
    with contextlib.ExitStack() as stack:
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))  # and does not listen
        places = {
            "broken": stack.enter_context(_server(b"")),
            "own": stack.enter_context(
                _server(b"HTTP/1.1 502 Mine\r\nContent-Length: 4\r\n\r\nmine")
            ),
        }
        refused = addresses.SocketAddress(*refusing.getsockname())

        def upstream(target: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
            return (places.get(target.service.name, refused),)

        started = stack.enter_context(nginx_rig.Nginx(tmp_path_factory.mktemp("n")))
        started.serve(objects.made(*DOCUMENTS), upstream)
        yield started


@contextlib.contextmanager
def _server(answer: bytes) -> Iterator[addresses.SocketAddress]:
    """A server that reads the beginning of each request, answers that, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as one:
                        one.recv(65536)
                        one.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield addresses.SocketAddress(*listening.getsockname())
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("empty", "/"),
        ("empty", "/e/"),
        ("regex", "/"),
        ("secured", "/"),
        ("grpc", "/"),
    ],
)
def test_503_while_no_endpoint_is_ready(nginx: nginx_rig.Nginx, host: str, path: str) -> None:
    """The frontend of a Service without endpoints refuses connections."""
    for method in ("GET", "POST"):
        answer = nginx.get(f"{host}.example", path, method=method, body=b"x")
        assert (answer.status, answer.body) == (503, NO_ENDPOINT)


def test_502_when_a_connection_breaks(nginx: nginx_rig.Nginx) -> None:
    """As kproxy closes the connections for which it reaches no endpoint."""
    answer = nginx.get("broken.example", "/")
    assert (answer.status, answer.body) == (502, BROKEN)


@pytest.mark.parametrize(("host", "path"), [("bare", "/"), ("regex", "/x1")])
def test_502_when_an_endpoint_itself_refuses(nginx: nginx_rig.Nginx, host: str, path: str) -> None:
    """nginx goes to the endpoints of a headless Service, so it has one if it connects."""
    answer = nginx.get(f"{host}.example", path)
    assert (answer.status, answer.body) == (502, BROKEN)


def test_502_of_a_pod_is_passed_on(nginx: nginx_rig.Nginx) -> None:
    answer = nginx.get("own.example", "/")
    assert (answer.status, answer.body) == (502, b"mine")


def test_503_is_not_answered_for_endpoints_as_upstreams(
    tmp_path: Path,
) -> None:
    with socket.socket() as refusing, nginx_rig.Nginx(tmp_path) as other:
        refusing.bind(("127.0.0.1", 0))
        refused = addresses.SocketAddress(*refusing.getsockname())
        made = objects.made(annotated("web"), through_endpoints=True)
        other.serve(made, lambda _: (refused,))
        assert other.get("web.example", "/").status == 502
