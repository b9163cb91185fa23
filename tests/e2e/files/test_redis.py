"""redis-server behind the ClusterIP and the NodePort scenarios, asked with redis-cli.

Behaviour: rows 22 and 25 of docs/behaviour.md.
"""

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e.rig import daemon, manifests, programs, sockets

FIRST, SECOND = "127.244.1.69", "127.244.1.70"
NODE_A, NODE_A_TOO, NODE_B = "127.244.0.4", "127.244.0.5", "127.244.1.4"
PORT = 6379


@pytest.fixture(scope="module")
def clusterip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    folder = tmp_path_factory.mktemp("clusterip")
    path = manifests.write(
        folder / "five.yaml", *manifests.example("five-clusterip-scenarios.yaml")
    )
    with contextlib.ExitStack() as stack:
        for ip in (FIRST, SECOND):
            stack.enter_context(programs.redis(folder / ip, (ip, PORT)))
        allowed = ("--external-ip-cidrs", "192.0.2.0/24")
        yield stack.enter_context(daemon.running(folder / "kproxy", path, *allowed))


@pytest.fixture(scope="module")
def nodeport(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    folder = tmp_path_factory.mktemp("nodeport")
    path = manifests.write(folder / "five.yaml", *manifests.example("five-nodeport-scenarios.yaml"))
    with contextlib.ExitStack() as stack:
        for ip in (NODE_A, NODE_A_TOO, NODE_B):
            stack.enter_context(programs.redis(folder / ip, (ip, PORT)))
        starting = daemon.running(folder / "kproxy", path, "--hostname-override", "node-a")
        yield stack.enter_context(starting)


def servers(address: daemon.Address, connections: int) -> list[str]:
    """Which redis-server answers each of so many connections."""
    return [programs.redis_cli(address, "GET", "who") for _ in range(connections)]


@pytest.mark.parametrize(
    ("service", "kind", "expected"),
    [
        pytest.param("redis", "cluster-ip", ("127.0.19.85", PORT), id="plain"),
        pytest.param("redis-sa", "cluster-ip", ("127.0.219.234", PORT), id="affinity"),
        pytest.param("redis-external", "cluster-ip", ("127.0.20.1", PORT), id="with-external-ip"),
        pytest.param("redis-external", "external-ip", ("127.0.2.10", PORT), id="external-ip"),
    ],
)
def test_redis_answers_a_ping_through_each_virtual_address(
    clusterip: daemon.Daemon, service: str, kind: str, expected: daemon.Address
) -> None:
    address = clusterip.address(service, kind)

    assert address == expected
    assert programs.redis_cli(address, "PING") == "PONG"


def test_a_service_without_affinity_spreads_evenly_over_both_servers(
    clusterip: daemon.Daemon,
) -> None:
    found = servers(clusterip.address("redis"), 10)

    assert sorted(found) == [FIRST] * 5 + [SECOND] * 5


def test_affinity_keeps_a_client_at_one_server(clusterip: daemon.Daemon) -> None:
    found = servers(clusterip.address("redis-sa"), 15)

    assert len(found) == 15
    assert set(found) in ({FIRST}, {SECOND})


def test_a_service_without_endpoints_refuses(clusterip: daemon.Daemon) -> None:
    address = clusterip.address("redis-empty")

    assert clusterip.service("redis-empty")["frontends"][0]["state"] == "no-endpoints"
    assert sockets.is_refused(address)
    assert "Connection refused" in programs.redis_cli(address, "PING")


def test_a_headless_service_is_listed_and_not_served(clusterip: daemon.Daemon) -> None:
    states = {
        view["name"]: {frontend["state"] for frontend in view["frontends"]}
        for view in clusterip.ready["services"]
    }

    assert states.pop("redis-empty") == {"no-endpoints"}
    assert states.pop("redis-headless") == {"not-served"}
    assert states.keys() == {"redis", "redis-external", "redis-sa"}
    assert all(each == {"bound"} for each in states.values())
    assert clusterip.listening() == {
        ("127.0.19.85", PORT),
        ("127.0.219.234", PORT),
        ("127.0.20.1", PORT),
        ("127.0.2.10", PORT),
    }


def test_a_node_port_reaches_its_server_on_the_node(nodeport: daemon.Daemon) -> None:
    address = nodeport.address("redis-nodeport", "node-port")

    assert address == ("127.0.0.1", 30001)
    assert programs.redis_cli(address, "PING") == "PONG"
    assert programs.redis_cli(nodeport.address("redis-nodeport"), "PING") == "PONG"


def test_the_local_policy_keeps_a_node_port_on_its_node(nodeport: daemon.Daemon) -> None:
    outside = servers(nodeport.address("redis-np-local", "node-port"), 6)
    inside = servers(nodeport.address("redis-np-local"), 6)

    assert set(outside) == {NODE_A}
    assert set(inside) == {NODE_A, NODE_B}


def test_a_node_port_without_endpoints_refuses(nodeport: daemon.Daemon) -> None:
    assert sockets.is_refused(nodeport.address("redis-np-empty", "node-port"))


def test_affinity_holds_on_a_node_port_and_is_shared_with_the_cluster_ip(
    nodeport: daemon.Daemon,
) -> None:
    first = servers(nodeport.address("redis-np-sa", "node-port"), 8)
    second = servers(nodeport.address("redis-np-sa"), 4)

    assert len({*first, *second}) == 1
    assert {*first} <= {NODE_A, NODE_B}


def test_affinity_and_the_local_policy_work_together(nodeport: daemon.Daemon) -> None:
    found = servers(nodeport.address("redis-np-local-sa", "node-port"), 8)

    assert set(found) in ({NODE_A}, {NODE_A_TOO})
