"""The Local policy on a node that has no endpoint of a Service: clients meet silence."""

from pathlib import Path

from tests.e2e import conftest
from tests.e2e.rig import manifests, sockets


def test_the_local_policy_drops_where_the_node_has_no_endpoint(
    tmp_path: Path, run: conftest.Run
) -> None:
    documents = manifests.example("five-nodeport-scenarios.yaml")
    path = manifests.write(tmp_path / "five.yaml", *documents)

    proxy = run(path, "--hostname-override", "node-c")

    for service in ("redis-np-local", "redis-np-local-sa"):
        assert sockets.outcome(proxy.address(service, "node-port")) == "silence"
    assert ("127.0.118.144", 6379) in proxy.listening()
