"""Backends that speak HTTPS and gRPC: another nginx, which answers how it was asked."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.model import addresses, names
from tests.e2e.rig import programs
from tests.ingress.rig import nginx_rig, objects
from tests.ingress.rig.objects import ingress

pytestmark = nginx_rig.needs_nginx

CURL = shutil.which("curl")
KEY = "nginx.ingress.kubernetes.io/backend-protocol"


def backend(
    directory: Path, plain: addresses.SocketAddress, secured: addresses.SocketAddress
) -> str:
    """The configuration of an nginx that answers its protocol, in HTTP/2 if it is asked so."""
    (directory / "b.crt").write_bytes(nginx_rig.DEFAULT_CERTIFICATE.certificate)
    (directory / "b.key").write_bytes(nginx_rig.DEFAULT_CERTIFICATE.private_key)
    answer = '{\\"scheme\\": \\"$scheme\\", \\"protocol\\": \\"$server_protocol\\", '
    answer += '\\"host\\": \\"$host\\", \\"backend\\": \\"$content_type\\"}'
    return f"""
        daemon off; pid {directory}/b.pid; error_log stderr; events {{ }}
        http {{
          access_log off;
          server {{
            listen {plain} http2;
            listen {secured} ssl http2;
            ssl_certificate {directory}/b.crt;
            ssl_certificate_key {directory}/b.key;
            location / {{ default_type application/grpc; return 200 "{answer}"; }}
          }}
        }}
    """


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_rig.Nginx]:
    directory = tmp_path_factory.mktemp("b")
    plain, secured = nginx_rig.unused(), nginx_rig.unused()
    config = directory / "backend.conf"
    config.write_text(backend(directory, plain, secured))
    made = objects.made(
        *(
            ingress(name, "Prefix /", host=f"{name}.example", annotations={KEY: name.upper()})
            for name in ("https", "grpc", "grpcs")
        )
    )

    def upstream(target: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
        return (plain if target.service.name == "grpc" else secured,)

    assert nginx_rig.NGINX
    command = [nginx_rig.NGINX, "-c", str(config), "-p", str(directory)]
    with (
        nginx_rig.Nginx(tmp_path_factory.mktemp("n")) as started,
        programs.started(command, directory, plain),
    ):
        started.serve(made, upstream)
        yield started


@pytest.mark.skipif(CURL is None, reason="needs curl (.ci/run installs it)")
@pytest.mark.parametrize(
    ("host", "scheme", "protocol"),
    [
        ("https", "https", "HTTP/1.1"),
        ("grpc", "http", "HTTP/2.0"),
        ("grpcs", "https", "HTTP/2.0"),
    ],
)
def test_backends_are_spoken_to_as_they_ask(
    nginx: nginx_rig.Nginx, host: str, scheme: str, protocol: str
) -> None:
    assert CURL
    name = f"{host}.example"
    where = f"{name}:{nginx.https.port}:{nginx.https.address}"
    command = [
        CURL,
        "-sSk",
        "--noproxy",
        "*",
        "--http2",
        "--resolve",
        where,
        "-X",
        "POST",
        "-m",
        "20",
    ]
    command += ["-H", "Content-Type: application/grpc", f"https://{name}:{nginx.https.port}/x"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    asked = json.loads(found.stdout)
    assert asked == {
        "scheme": scheme,
        "protocol": protocol,
        "host": name,
        "backend": "application/grpc",
    }
