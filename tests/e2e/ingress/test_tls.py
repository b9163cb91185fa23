"""TLS at an Ingress, with the clients that people use: openssl, curl and a browser."""

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from kproxy.ingress import certificates
from tests.e2e import conftest
from tests.e2e.ingress import site
from tests.e2e.rig import daemon, programs

OTHER = "blog.example"


@pytest.fixture
def proxy(tmp_path: Path, run: conftest.Run, request: pytest.FixtureRequest) -> daemon.Daemon:
    """Two hosts, each with a certificate of its own, and one pod."""
    (pod,) = request.getfixturevalue("pods")
    made = site.Site(tmp_path / "m", [pod])
    for name, host in (("shop", site.HOST), ("blog", OTHER)):
        secret = site.secret(name, host)
        made.put(name, site.ingress(name, host, secret=name), secret)
        (tmp_path / f"{name}.pem").write_bytes(base64.b64decode(secret["data"]["tls.crt"]))
    return run(made.folder, *site.FLAGS)


@pytest.fixture
def pods() -> "object":
    with site.pods("one") as found:
        yield found


def test_openssl_gets_the_certificate_of_the_host_it_names(proxy: daemon.Daemon) -> None:
    for host in (site.HOST, OTHER):
        said = site.openssl(proxy, host)
        assert f"DNS:{host}" in _text(said)
        assert "Protocol  : TLSv1.3" in said or "TLSv1.3" in said


def test_a_host_without_a_certificate_gets_our_own(proxy: daemon.Daemon) -> None:
    assert certificates.COMMON_NAME in site.openssl(proxy, "unknown.example")


def test_curl_trusts_the_secret(proxy: daemon.Daemon, tmp_path: Path) -> None:
    host, port = site.place(proxy, "ingress_https")
    flags = ("--cacert", str(tmp_path / "shop.pem"), "--connect-to", f"::{host}:{port}")

    assert '"pod": "one"' in programs.curl(f"https://{site.HOST}/", *flags)
    assert "certificate" in programs.curl(f"https://{OTHER}/", *flags)


def test_plain_http_is_sent_to_https(proxy: daemon.Daemon) -> None:
    answer = programs.curl(
        f"http://{proxy.ready['ingress_http']}/cart",
        *("-H", f"Host: {site.HOST}", "-o", os.devnull, "-w", "%{http_code} %{redirect_url}"),
    )

    assert re.fullmatch(rf"308 https://{site.HOST}(:\d+)?/cart", answer)


@pytest.mark.extra
def test_a_browser_shows_the_page(proxy: daemon.Daemon, tmp_path: Path) -> None:
    host, port = site.place(proxy, "ingress_https")
    command = [
        *(programs.need("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--ignore-certificate-errors", f"--user-data-dir={tmp_path / 'browser'}"),
        f"--host-resolver-rules=MAP {site.HOST}:443 {host}:{port}",
        *("--dump-dom", f"https://{site.HOST}/cart"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert '"path": "/cart"' in done.stdout, done.stderr


def _text(said: str) -> str:
    """What a certificate that `openssl s_client` shows says."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    pem = said[said.index(begin) : said.index(end) + len(end)]
    command = [programs.need("openssl"), "x509", "-noout", "-ext", "subjectAltName"]
    done = subprocess.run(command, input=pem, capture_output=True, text=True, check=True)
    return done.stdout
