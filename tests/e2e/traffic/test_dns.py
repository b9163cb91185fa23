"""A DNS server behind a Service of UDP and TCP on port 53, asked with dig.

Rows 6, 28 and 40 of docs/behaviour.md.
"""

from pathlib import Path
from typing import Any

import pytest

from kproxy.ops.views import control_client
from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, programs

TEXT = "x" * 200
RECORDS = "\n".join(["www 60 IN A 192.0.2.2", *(f'big 60 IN TXT "{n}{TEXT}"' for n in range(12))])
PORTS = [
    {"name": "dns", "port": 53, "protocol": "UDP"},
    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
]
ASKED = ("+short", "www.example.org", "A")
ONCE = ("+tries=1", "+time=30")
"""One datagram, however long its answer takes."""


def service(cluster_ip: str, *ports: dict[str, Any]) -> dict[str, Any]:
    return manifests.service("dns", cluster_ip, 53, ports=list(ports or PORTS))


def endpoints(*hosts: str, port: int) -> dict[str, Any]:
    listed = [{**each, "port": port} for each in PORTS]
    subset = {"addresses": [{"ip": host} for host in hosts], "ports": listed}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "dns"},
        "subsets": [subset] if hosts else [],
    }


def place(proxy: daemon.Daemon, port_name: str) -> daemon.Address:
    (frontend,) = proxy.service("dns", port_name)["frontends"]
    return frontend["bound_address"], frontend["bound_port"]


@pytest.fixture
def server(tmp_path: Path) -> Any:
    host = manifests.fresh_ip(127)
    port = manifests.free_port(host)
    with programs.nsd(tmp_path / "nsd", (host, port), RECORDS):
        yield host, port


def test_row_6_dns_over_udp_and_tcp_on_one_port(
    tmp_path: Path, run: conftest.Run, server: daemon.Address
) -> None:
    host, port = server
    folder = tmp_path / "objects"
    folder.mkdir()
    cluster_ip = manifests.fresh_ip()
    manifests.write(folder / "service.yaml", service(cluster_ip))
    manifests.write(folder / "endpoints.yaml", endpoints(host, port=port))
    control = tmp_path / "control"
    surfaces = (
        *("--control", str(control), "--metrics-bind-address", "127.0.0.1:0"),
        *("--udp-timeout", "1h"),
    )

    proxy = run(folder, *surfaces, "--allow-loopback-endpoints")

    udp, tcp = place(proxy, "dns"), place(proxy, "dns-tcp")
    assert udp == tcp
    assert programs.dig(udp, *ASKED, *ONCE) == "192.0.2.2"
    assert programs.dig(tcp, *ASKED, "+tcp") == "192.0.2.2"
    big = programs.dig(udp, "big.example.org", "TXT", "+ignore", "+notcp", "+bufsize=4096", *ONCE)
    assert big.count(TEXT) == 12
    assert "MSG SIZE  rcvd: 2" in big, "one datagram of more than two thousand bytes"
    flows = [
        view for view in control_client.fetch(control, "connections") if view["state"] == "answered"
    ]
    assert {(view["backend_address"], view["backend_port"]) for view in flows} == {server}
    assert len(flows) == 2
    labels = {"service": "dns", "port": "dns"}
    assert proxy.samples("kproxy_connections_active", **labels) == [2]
    assert proxy.samples("kproxy_udp_flows") == [2]

    manifests.write(folder / "service.yaml", service(cluster_ip, PORTS[1]))
    daemon.wait_until(lambda: not programs.dig(udp, *ASKED, "+notcp"), "UDP is refused")
    assert programs.dig(tcp, *ASKED, "+tcp") == "192.0.2.2"
    daemon.wait_until(lambda: proxy.samples("kproxy_udp_flows") == [0], "the flows have ended")
    manifests.write(folder / "service.yaml", service(cluster_ip))
    daemon.wait_until(lambda: programs.dig(udp, *ASKED, "+notcp") == "192.0.2.2", "UDP is back")

    manifests.write(folder / "endpoints.yaml", endpoints(port=port))
    daemon.wait_until(lambda: not programs.dig(udp, *ASKED, "+notcp"), "nothing listens")


def test_a_dead_dns_server_costs_no_client_anything(
    tmp_path: Path, run: conftest.Run, server: daemon.Address
) -> None:
    host, port = server
    dead = [manifests.fresh_ip(127) for _ in range(3)]
    path = manifests.write(
        tmp_path / "dns.yaml", service(manifests.fresh_ip()), endpoints(*dead, host, port=port)
    )

    proxy = run(path, "--allow-loopback-endpoints")

    udp = place(proxy, "dns")
    for _ in range(6):
        assert programs.dig(udp, *ASKED, *ONCE) == "192.0.2.2"


def test_row_40_kube_proxys_udp_timeout_ends_a_flow(
    tmp_path: Path, run: conftest.Run, server: daemon.Address
) -> None:
    host, port = server
    path = manifests.write(
        tmp_path / "dns.yaml", service(manifests.fresh_ip()), endpoints(host, port=port)
    )

    proxy = run(
        path,
        *("--allow-loopback-endpoints", "--udp-timeout=1s"),
        *("--metrics-bind-address", "127.0.0.1:0"),
    )

    assert programs.dig(place(proxy, "dns"), *ASKED, *ONCE) == "192.0.2.2"
    ended = {"service": "dns", "port": "dns", "result": "T/X"}
    daemon.wait_until(
        lambda: proxy.samples("kproxy_connections_total", **ended) == [1], "the flow has ended"
    )
    daemon.wait_until(lambda: proxy.samples("kproxy_udp_flows") == [0], "no flow is left")
