"""`kproxy run --dns`, as the programs of others ask it: dig, glibc, unbound; and as it asks nsd."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, programs, resolving

ZONE = "default.svc.cluster.local"
HEADLESS = {"kubernetes.io/service-name": "db", "service.kubernetes.io/headless": ""}


def objects(folder: Path, web: str) -> Path:
    """A Service with this ClusterIP, a headless one, and one that stands for another name."""
    folder.mkdir(exist_ok=True)
    manifests.write(
        folder / "objects.yaml",
        manifests.service("web", web, 80, ports=[{"name": "http", "port": 8080}]),
        manifests.service("db", "None", 5432, ports=[{"name": "pg", "port": 5432}]),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "db-1", "labels": HEADLESS},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.3"], "hostname": "db-0"}],
            "ports": [{"name": "pg", "port": 5432}],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "theirs"},
            "spec": {"type": "ExternalName", "externalName": "www.example.org"},
        },
    )
    return folder


def served(cluster_ip: str) -> str:
    """Where the loopback portal has it."""
    return f"127.{cluster_ip.partition('.')[2]}"


def test_no_name_leads_to_another_service(tmp_path: Path, run: conftest.Run) -> None:
    """Two ClusterIPs can meet at one address of 127/8; one Service has it."""
    first = manifests.fresh_ip()
    second = f"172.{first.partition('.')[2]}"
    one, other = (
        manifests.service(name, ip, 80, ports=[{"name": "http", "port": 8080}])
        for name, ip in (("one", first), ("other", second))
    )
    (tmp_path / "m").mkdir()
    manifests.write(tmp_path / "m" / "other.yaml", other)
    proxy = run(tmp_path / "m", "--dns", "127.0.0.1:0", "--dns-upstream", "none")

    def ask(*words: str) -> str:
        return programs.dig(proxy.place("dns"), "+short", *words)

    assert ask(f"other.{ZONE}") == served(first)
    manifests.write(tmp_path / "m" / "one.yaml", one)
    daemon.wait_until(lambda: ask(f"one.{ZONE}") == served(first), "the new name is known")
    daemon.wait_until(lambda: not ask(f"other.{ZONE}"), "its name leads nowhere")
    assert not ask(f"_http._tcp.other.{ZONE}", "SRV")

    (tmp_path / "m" / "one.yaml").unlink()
    daemon.wait_until(lambda: ask(f"other.{ZONE}") == served(first), "the address is its own")
    assert ask(f"_http._tcp.other.{ZONE}", "SRV") == f"0 100 8080 other.{ZONE}."


def test_dig_gets_every_type_by_udp_and_tcp(tmp_path: Path, run: conftest.Run) -> None:
    web = manifests.fresh_ip()
    proxy = run(objects(tmp_path / "m", web), "--dns", "127.0.0.1:0", "--dns-upstream", "none")
    address = proxy.place("dns")
    reverse = ".".join(reversed(served(web).split(".")))

    for way in ("+notcp", "+tcp"):

        def ask(*words: str, way: str = way) -> str:
            return programs.dig(address, way, "+short", *words)

        assert ask(f"web.{ZONE}") == served(web)
        assert ask("WEB.default.svc") == served(web)
        assert ask(f"_http._tcp.web.{ZONE}", "SRV") == f"0 100 8080 web.{ZONE}."
        assert ask(f"{reverse}.in-addr.arpa", "PTR") == f"web.{ZONE}."
        assert ask(f"db.{ZONE}") == "10.244.0.3"
        assert ask(f"db-0.db.{ZONE}") == "10.244.0.3"
        assert ask(f"_pg._tcp.db.{ZONE}", "SRV") == f"0 100 5432 db-0.db.{ZONE}."
        assert ask("3.0.244.10.in-addr.arpa", "PTR") == f"db-0.db.{ZONE}."
        assert ask(f"theirs.{ZONE}", "CNAME") == "www.example.org."
        assert ask("dns-version.cluster.local", "TXT") == '"1.1.0"'
    assert "status: NXDOMAIN" in programs.dig(address, f"nope.{ZONE}")
    assert "status: REFUSED" in programs.dig(address, "www.example.org")
    assert "status: BADVERS" in programs.dig(address, "+edns=1", "+noednsneg", f"web.{ZONE}")
    assert "Transfer failed" in programs.dig(address, "cluster.local", "AXFR")


@pytest.mark.extra
def test_names_of_elsewhere_are_asked_of_nsd(tmp_path: Path, run: conftest.Run) -> None:
    upstream = (manifests.fresh_ip(127), manifests.free_port("127.0.0.1"))
    text = "\n".join(f'big 60 IN TXT "{number}{"x" * 200}"' for number in range(12))
    with programs.nsd(tmp_path / "nsd", upstream, f"www 60 IN A 192.0.2.2\n{text}"):
        given = f"{upstream[0]}:{upstream[1]}"
        flags = ("--dns", "127.0.0.1:0", "--dns-upstream", given)
        address = run(objects(tmp_path / "m", manifests.fresh_ip()), *flags).place("dns")

        assert programs.dig(address, "+short", "www.example.org") == "192.0.2.2"
        assert programs.dig(address, "+short", f"theirs.{ZONE}").split() == [
            "www.example.org.",
            "192.0.2.2",
        ]
        # Cut by both servers for a datagram, and whole by TCP.
        assert len(programs.dig(address, "+short", "big.example.org", "TXT").splitlines()) == 12
        assert "status: NXDOMAIN" in programs.dig(address, "nope.example.org")


@pytest.mark.extra
@pytest.mark.netns
@resolving.needs_root
def test_glibc_finds_services_by_its_search_list(tmp_path: Path, run: conftest.Run) -> None:
    web = manifests.fresh_ip()
    host = manifests.fresh_ip(127)
    run(objects(tmp_path / "m", web), "--dns", f"{host}:53", "--dns-upstream", "none")
    pod = resolving.Resolver(
        tmp_path / "pod",
        f"nameserver {host}\nsearch {ZONE} svc.cluster.local cluster.local\noptions ndots:5\n",
    )

    for name in ("web", "web.default", "web.default.svc", f"web.{ZONE}", f"web.{ZONE}."):
        assert pod.addresses(name) == {served(web)}
    assert pod.addresses("db-0.db") == {"10.244.0.3"}
    assert pod.addresses("nope") == set()
    assert pod.addresses("www.example.org") == set()
    assert served(web) in pod.run("getent", "hosts", served(web))
    assert f"web.{ZONE}" in pod.run("getent", "hosts", served(web))


_UNBOUND = """
server:
  directory: "{folder}"
  pidfile: ""
  username: ""
  chroot: ""
  interface: {host}@{port}
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  module-config: "iterator"
  local-zone: "cluster.local." nodefault
  qname-minimisation: yes
  use-caps-for-id: yes
forward-zone:
  name: "cluster.local"
  forward-addr: {to[0]}@{to[1]}
forward-zone:
  name: "svc"
  forward-addr: {to[0]}@{to[1]}
"""


@contextlib.contextmanager
def unbound(folder: Path, to: daemon.Address) -> Iterator[daemon.Address]:
    """A caching resolver that asks another server for the cluster's names, in mixed case."""
    folder.mkdir()
    host = manifests.fresh_ip(127)
    port = manifests.free_port(host)
    config = folder / "unbound.conf"
    config.write_text(_UNBOUND.format(folder=folder, host=host, port=port, to=to))
    command = [programs.need("unbound"), "-d", "-c", str(config)]
    with programs.started(command, folder, (host, port)):
        yield host, port


@pytest.mark.extra
def test_unbound_forwards_to_it(tmp_path: Path, run: conftest.Run) -> None:
    web = manifests.fresh_ip()
    proxy = run(objects(tmp_path / "m", web), "--dns", "127.0.0.1:0", "--dns-upstream", "none")
    with unbound(tmp_path / "unbound", proxy.place("dns")) as address:
        assert programs.dig(address, "+short", f"web.{ZONE}") == served(web)
        assert programs.dig(address, "+short", "web.default.svc") == served(web)
        assert programs.dig(address, "+short", f"_pg._tcp.db.{ZONE}", "SRV")
        assert "status: NXDOMAIN" in programs.dig(address, f"nope.{ZONE}")
        assert "ANSWER: 0" in programs.dig(address, f"web.{ZONE}", "AAAA")


def test_an_address_that_is_taken_ends_it_with_a_sentence(
    tmp_path: Path, run: conftest.Run
) -> None:
    folder = objects(tmp_path / "m", manifests.fresh_ip())
    first = run(folder, "--dns", "127.0.0.1:0")

    second = run(folder, "--dns", first.ready["dns"], await_ready=False)

    assert second.wait() == 1
    assert f"cannot answer DNS at {first.ready['dns']}" in second.log()
    assert "Traceback" not in second.log()


@pytest.mark.extra
def test_what_it_was_asked_is_counted(tmp_path: Path, run: conftest.Run) -> None:
    metrics = f"127.0.0.1:{manifests.free_port('127.0.0.1')}"
    flags = ("--dns", "127.0.0.1:0", "--dns-upstream", "none", "--metrics-bind-address", metrics)
    proxy = run(objects(tmp_path / "m", manifests.fresh_ip()), *flags)
    for _ in range(3):
        programs.dig(proxy.place("dns"), f"web.{ZONE}")
    programs.dig(proxy.place("dns"), f"nope.{ZONE}", "AAAA")

    assert proxy.samples("kproxy_dns_requests_total", type="A", rcode="NOERROR") == [3]
    assert proxy.samples("kproxy_dns_requests_total", type="AAAA", rcode="NXDOMAIN") == [1]
