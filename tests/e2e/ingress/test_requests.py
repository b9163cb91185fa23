"""Requests to a site behind Ingresses, by HTTP and TLS, with the clients that people use."""

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kproxy.ingress import certificates
from kproxy.ingress.daemon import nginx
from tests.e2e.ingress import site
from tests.e2e.rig import daemon, programs

PLAIN = "plain.example"
OTHER = "blog.example"
CODE = ("-o", os.devnull, "-w", "%{http_code}")


class Shop(NamedTuple):
    """A proxy, and the folder with the certificates of its hosts, `shop.pem` and `blog.pem`."""

    proxy: daemon.Daemon
    folder: Path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two hosts with certificates, one without, and one whose Service is missing; two pods."""
    folder = tmp_path_factory.mktemp("i")
    with site.pods("one", "two") as pods:
        made = site.Site(folder / "m", pods)
        for name, host in (("shop", site.HOST), ("blog", OTHER)):
            secret = site.secret(name, host)
            made.put(name, site.ingress(name, host, secret=name), secret)
            (folder / f"{name}.pem").write_bytes(base64.b64decode(secret["data"]["tls.crt"]))
        made.put("plain", site.ingress("plain", PLAIN, proxy_body_size="4m"))
        made.put("lost", site.ingress("lost", "lost.example", "missing"))
        with daemon.running(folder / "kproxy", made.folder, *site.FLAGS) as proxy:
            yield Shop(proxy, folder)


def test_a_host_leads_to_its_pods(shop: Shop) -> None:
    found = [site.ask(shop.proxy, "/cart?id=7", PLAIN) for _ in range(20)]

    assert {status for status, _ in found} == {200}
    assert {said["pod"] for _, said in found} == {"one", "two"}
    assert {said["path"] for _, said in found} == {"/cart?id=7"}
    assert site.ask(shop.proxy, host="other.example")[0] == 404
    assert shop.proxy.ready["ingress_http"] != shop.proxy.ready["ingress_https"]


def test_a_large_body_passes_and_one_that_is_too_large_is_refused(shop: Shop) -> None:
    """It goes through a file: workers of root's nginx are another user, who must have one."""
    url = f"http://{shop.proxy.ready['ingress_http']}/"
    body = shop.folder / "body"
    for size, status in ((3_000_000, "200"), (5_000_000, "413")):
        body.write_bytes(b"x" * size)
        flags = ("-H", f"Host: {PLAIN}", *CODE, "--data-binary", f"@{body}")
        assert programs.curl(url, *flags) == status


def test_a_websocket_passes(shop: Shop) -> None:
    with contextlib.closing(socket.create_connection(site.place(shop.proxy), 10)) as client:
        key = base64.b64encode(os.urandom(16)).decode()
        client.sendall(
            f"GET /chat HTTP/1.1\r\nHost: {PLAIN}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        client.sendall(b"frames")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert client.recv(100) == b"frames"


def test_openssl_gets_the_certificate_of_the_host_it_names(shop: Shop) -> None:
    for host in (site.HOST, OTHER):
        said = site.openssl(shop.proxy, host)
        assert f"DNS:{host}" in _names(said)
        assert "TLSv1.3" in said


def test_a_host_without_a_certificate_gets_our_own(shop: Shop) -> None:
    assert certificates.COMMON_NAME in site.openssl(shop.proxy, "unknown.example")


def test_curl_trusts_the_secret(shop: Shop) -> None:
    host, port = site.place(shop.proxy, "ingress_https")
    flags = ("--cacert", str(shop.folder / "shop.pem"), "--connect-to", f"::{host}:{port}")

    assert '"path": "/"' in programs.curl(f"https://{site.HOST}/", *flags)
    assert "certificate" in programs.curl(f"https://{OTHER}/", *flags)


def test_plain_http_is_sent_to_https(shop: Shop) -> None:
    answer = programs.curl(
        f"http://{shop.proxy.ready['ingress_http']}/cart",
        *("-H", f"Host: {site.HOST}", "-o", os.devnull, "-w", "%{http_code} %{redirect_url}"),
    )

    assert re.fullmatch(rf"308 https://{site.HOST}(:\d+)?/cart", answer)


def test_clients_are_asked_to_close_before_a_reload(shop: Shop) -> None:
    """By HTTP/1.1 only: HTTP/2 forbids the header, and has a frame for it."""
    host, port = site.place(shop.proxy, "ingress_https")
    plain = (f"http://{shop.proxy.ready['ingress_http']}/", "-H", f"Host: {PLAIN}")
    secure = (f"https://{PLAIN}/", "-k", "--http2", "--connect-to", f"::{host}:{port}")
    (master,) = site.nginx_of(shop.proxy)
    arguments = Path(f"/proc/{master}/cmdline").read_text().split()
    ending = Path(arguments[arguments.index("-p") + 1], nginx.ENDING)

    def answers() -> tuple[bool, bool]:
        found = (programs.curl(*each, "-i").lower() for each in (plain, secure))
        by_http1, by_http2 = found
        assert by_http2.startswith("http/2 200")
        assert "connection:" not in by_http2.partition("{")[0]
        return "connection: close" in by_http1.partition("{")[0], '"pod"' in by_http2

    assert answers() == (False, True)
    ending.touch()
    assert answers() == (True, True)
    ending.unlink()
    assert answers() == (False, True)


def test_get_shows_what_is_served(shop: Shop) -> None:
    host, port = site.place(shop.proxy)
    _, secure = site.place(shop.proxy, "ingress_https")
    heading, _blog, lost, plain, _shop = _kproxy(shop, "get", "ing").splitlines()

    assert heading.split() == ["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"]
    assert lost.split()[:3] == ["lost", "kproxy", "lost.example"]
    assert plain.split()[:5] == ["plain", "kproxy", PLAIN, host, f"{port},{secure}"]


@pytest.mark.extra
def test_get_names_problems_and_status_counts_them(shop: Shop) -> None:
    assert _kproxy(shop, "get", "ingress", "plain", "-o", "name") == "ingress/plain\n"
    item = json.loads(_kproxy(shop, "get", "ingress", "lost", "-o", "json"))["items"][0]
    said = _kproxy(shop, "status")

    assert "missing" in item["problems"][0]
    assert "Ingresses:    4 served at" in said
    assert "1 problem" in said


@pytest.mark.extra
def test_a_browser_shows_the_page(shop: Shop) -> None:
    host, port = site.place(shop.proxy, "ingress_https")
    command = [
        *(programs.need("chromium"), "--headless", "--no-sandbox", "--disable-gpu"),
        *("--ignore-certificate-errors", f"--user-data-dir={shop.folder / 'browser'}"),
        f"--host-resolver-rules=MAP {site.HOST}:443 {host}:{port}",
        *("--dump-dom", f"https://{site.HOST}/cart"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert '"path": "/cart"' in done.stdout, done.stderr


def _kproxy(shop: Shop, *arguments: str) -> str:
    """What a command prints about the proxy."""
    command = (*daemon.PROGRAM, *arguments, "--control", shop.proxy.ready["control"])
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _names(said: str) -> str:
    """The names of a certificate that `openssl s_client` shows."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    pem = said[said.index(begin) : said.index(end) + len(end)]
    command = [programs.need("openssl"), "x509", "-noout", "-ext", "subjectAltName"]
    done = subprocess.run(command, input=pem, capture_output=True, text=True, check=True)
    return done.stdout
