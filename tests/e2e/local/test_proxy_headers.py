"""PROXY headers at real addresses: a backend learns the ClusterIP or node port, in both families.

Behaviour: row 43 of docs/behaviour.md.
"""

import contextlib
from pathlib import Path

import pytest

from kproxy.model.addresses import Family
from tests.e2e.local import conftest
from tests.e2e.local.conftest import Way
from tests.e2e.rig import daemon, manifests, namespaces, pods, published
from tests.e2e.rig.published import of

pytestmark = [pytest.mark.netns, namespaces.needs_root, namespaces.needs_programs]

_PORT = published.Service(
    name="told",
    number=70,
    pods=["pod-a"],
    has_node_ports=True,
    metadata={"annotations": {"kproxy.io/proxy-protocol": "v1"}},
)


def _header(client: daemon.Address, frontend: daemon.Address) -> bytes:
    kind = "TCP6" if ":" in frontend[0] else "TCP4"
    return f"PROXY {kind} {client[0]} {frontend[0]} {client[1]} {frontend[1]}\r\n".encode()


def _echoed(
    namespace: namespaces.Namespace, address: daemon.Address, source: str, *, first: bytes = b""
) -> tuple[bytes, daemon.Address]:
    """What a pod was sent for a client that sent `first` and "x", and that client's address."""
    with contextlib.closing(pods.connect(namespace, address, source=source)) as client:
        client.sendall(first + b"x")
        assert pods.name(client) == "pod-a"
        echoed = b""
        while not echoed.endswith(b"x"):
            echoed += client.recv(1024)
        return echoed, client.getsockname()[:2]


@pytest.mark.parametrize("way", Way, ids=str)
def test_a_backend_learns_its_client_and_the_address_that_it_used(tmp_path: Path, way: Way) -> None:
    path = manifests.write(tmp_path / "services.yaml", *_PORT.objects())
    upstream = namespaces.STRANGER
    flags = (*conftest.RANGES, *way.flags, "--proxy-protocol-from", ",".join(upstream))
    with (
        namespaces.network() as network,
        pods.pods(network),
        conftest.on_node(tmp_path / "k", network, "node-a", path, *flags) as proxy,
    ):
        for family in Family:
            cluster_ip = _PORT.at(family)
            echoed, pod = _echoed(network.pod_a, cluster_ip, of(namespaces.POD_A, family))
            assert echoed == _header(pod, cluster_ip) + b"x"

            node_port = _PORT.on(namespaces.NODE_A, family)
            echoed, client = _echoed(network.client, node_port, of(namespaces.CLIENT, family))
            assert echoed == _header(client, node_port) + b"x"

            behind = (of(namespaces.CLIENT, family), 5), (of(namespaces.NODE_B, family), 443)
            told = _header(*behind)
            echoed, _ = _echoed(network.client, node_port, of(upstream, family), first=told)
            assert echoed == told + b"x"
        assert proxy.stop() == 0
        assert "Traceback" not in proxy.log()
