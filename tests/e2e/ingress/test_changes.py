"""A site whose objects, pods, nginx and proxy change, or are killed, while clients ask."""

import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.ingress import site
from tests.e2e.rig import daemon, manifests


@pytest.fixture
def shop(tmp_path: Path) -> site.Site:
    """Manifests without pods."""
    return site.Site(tmp_path / "m", [])


@pytest.mark.extra
def test_a_service_without_endpoints_is_unavailable_until_it_has_some(
    shop: site.Site, run: conftest.Run
) -> None:
    shop.put("ingress", site.ingress("web"))
    proxy = run(shop.folder, *site.FLAGS, "--metrics-bind-address", "127.0.0.1:0")
    assert site.ask(proxy)[0] == 503

    with site.pods("one") as pods:
        shop.give(*pods)
        daemon.wait_until(lambda: site.ask(proxy)[0] == 200, "a pod answers")

    assert proxy.samples("kproxy_ingress_reloads_total") == [0]


@pytest.mark.extra
def test_endpoints_may_be_the_upstreams_themselves(shop: site.Site, run: conftest.Run) -> None:
    with site.pods("one", "two") as (one, two):
        shop.give(one)
        shop.put("ingress", site.ingress("web"))
        flags = ("--ingress-upstream", "endpoints", "--metrics-bind-address", "127.0.0.1:0")
        proxy = run(shop.folder, *site.FLAGS, *flags)
        assert site.ask(proxy)[1]["pod"] == "one"
        shop.give(two)
        daemon.wait_until(lambda: site.ask(proxy)[1].get("pod") == "two", "the other pod answers")

        assert proxy.samples("kproxy_ingress_reloads_total") == [1]


def test_a_killed_nginx_is_started_again_and_refuses_no_connection(
    shop: site.Site, run: conftest.Run
) -> None:
    with site.pods("one") as pods:
        shop.give(*pods)
        shop.put("ingress", site.ingress("web"))
        proxy = run(shop.folder, *site.FLAGS)
        (master,) = site.nginx_of(proxy)
        with site.load(site.place(proxy), clients=2) as asked:
            os.kill(master, signal.SIGKILL)
            proxy.wait_logged("nginx has ended, and is started again", "signal 9")
            daemon.wait_until(
                lambda: site.nginx_of(proxy) not in ([], [master]), "another nginx is there"
            )
            before = asked.answered
            daemon.wait_until(lambda: asked.answered > before + 20, "clients are answered")

        assert asked.failures == []
        daemon.wait_until(lambda: not daemon.group(master), "workers of the first one have ended")


def test_a_killed_proxy_leaves_no_nginx_and_the_next_one_starts(
    shop: site.Site, run: conftest.Run
) -> None:
    with site.pods("one") as pods:
        shop.give(*pods)
        shop.put("ingress", site.ingress("web"))
        proxy = run(shop.folder, *site.FLAGS)
        (master,) = site.nginx_of(proxy)
        host, port = site.place(proxy)
        proxy.signal(signal.SIGKILL)
        proxy.wait()
        daemon.wait_until(lambda: not daemon.group(master), "no process of nginx is left")

        again = run(shop.folder, "--ingress", "--ingress-http", f"{host}:{port}", *site.FLAGS[3:])
        assert site.ask(again)[0] == 200
        assert again.stop() == 0
        assert not daemon.group(master)


@pytest.mark.extra
def test_sigterm_answers_what_was_asked(shop: site.Site, run: conftest.Run) -> None:
    with site.pods("one") as pods:
        shop.give(*pods)
        shop.put("ingress", site.ingress("web"))
        proxy = run(shop.folder, *site.FLAGS)
        with contextlib.closing(socket.create_connection(site.place(proxy), 10)) as client:
            client.sendall(f"POST / HTTP/1.1\r\nHost: {site.HOST}\r\n".encode())
            client.sendall(b"Content-Length: 4\r\nConnection: close\r\n\r\n12")
            daemon.wait_until(lambda: site.ask(proxy)[0] == 200, "the workers are busy")
            proxy.signal(signal.SIGTERM)
            proxy.wait_logged("stopping")
            client.sendall(b"34")
            answer = b"".join(iter(lambda: client.recv(65536), b""))

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert proxy.wait() == 0


@pytest.mark.parametrize("changes", [20, pytest.param(1000, marks=pytest.mark.extra)])
def test_changes_of_endpoints_reload_nothing_and_fail_no_request(
    shop: site.Site, run: conftest.Run, changes: int
) -> None:
    with site.pods("one", "two", "three") as pods:
        shop.give(*pods)
        shop.put("ingress", site.ingress("web"))
        proxy = run(shop.folder, *site.FLAGS, "--metrics-bind-address", "127.0.0.1:0")
        with site.load(site.place(proxy), clients=2) as asked:
            for number in range(changes):
                before = asked.answered
                shop.give(pods[number % 3], pods[(number + 1) % 3])
                daemon.wait_until(lambda: asked.answered > before, "requests go on")  # noqa: B023

        assert asked.failures == []
        assert proxy.samples("kproxy_ingress_reloads_total") == [0]


@pytest.mark.parametrize("changes", [6, pytest.param(100, marks=pytest.mark.extra)])
def test_changes_of_ingresses_and_secrets_fail_no_request(
    shop: site.Site, run: conftest.Run, changes: int
) -> None:
    with site.pods("one") as pods:
        shop.give(*pods)
        shop.put("ingress", site.ingress("web", secret="cert"))
        shop.put("secret", site.secret("cert"))
        shop.put("plain", site.ingress("plain", "plain.example"))
        proxy = run(shop.folder, *site.FLAGS, "--metrics-bind-address", "127.0.0.1:0")
        place, host = site.place(proxy), "plain.example"
        with (
            site.load(place, 1, host) as asked,
            site.load(place, 2, host, keeps=True) as kept,
        ):
            for number in range(changes):
                if number % 2:
                    made = site.secret("cert")
                    wanted = site.fingerprint(made)
                    shop.put("secret", made)
                    daemon.wait_until(
                        lambda: site.served_certificate(proxy, site.HOST) == wanted,  # noqa: B023
                        "the new certificate is served",
                    )
                else:
                    new = f"shop-{number}.example"
                    shop.put("more", site.ingress("more", new))
                    daemon.wait_until(
                        lambda: site.ask(proxy, host=new)[0] == 200,  # noqa: B023
                        "the new host is served",
                    )

        assert asked.failures == kept.failures == []
        assert kept.answered > changes
        assert proxy.samples("kproxy_ingress_refusals_total") == [0]


@pytest.mark.extra
def test_without_nginx_the_user_reads_what_to_do(shop: site.Site, run: conftest.Run) -> None:
    proxy = run(shop.folder, *site.FLAGS, "--nginx", "/nowhere/nginx", await_ready=False)

    assert proxy.wait() == 2
    assert "--nginx /nowhere/nginx: there is no program that can be run" in proxy.log()


@pytest.mark.extra
def test_what_is_no_nginx_is_refused(shop: site.Site, run: conftest.Run) -> None:
    proxy = run(shop.folder, *site.FLAGS, "--nginx", "/bin/true", await_ready=False)

    assert proxy.wait() == 2
    assert "/bin/true is no nginx" in proxy.log()


@pytest.mark.extra
def test_a_taken_address_ends_the_proxy(shop: site.Site, run: conftest.Run) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        proxy = run(shop.folder, "--ingress", "--ingress-http", taken, await_ready=False)

        assert proxy.wait() == 1
    said = f"cannot listen on {taken} for Ingresses: address already in use"
    assert f"{said}; give --ingress-http an address that is free" in proxy.log()


@pytest.mark.extra
def test_the_address_of_an_ingress_is_no_endpoint(shop: site.Site, run: conftest.Run) -> None:
    """A Service that led to it would send requests round in circles."""
    free = manifests.free_port("127.0.0.1")
    shop.put("ingress", site.ingress("web"))
    shop.put("endpoints", manifests.endpoints("web", [("127.0.0.1", free)]))
    proxy = run(shop.folder, "--ingress", "--ingress-http", f"127.0.0.1:{free}", *site.FLAGS[3:])

    assert site.ask(proxy)[0] in (502, 503, 504)
    (endpoint,) = json.loads(proxy.ready_file.read_text())["services"][0]["endpoints"]
    assert endpoint["own_address_of"] == "kproxy's ingress_http"
