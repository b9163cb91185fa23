"""`kproxy explain`: the same answer from a running proxy, from files and from a cluster."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli import inside
from tests.e2e import conftest
from tests.e2e.rig import beside_cluster, daemon, manifests, sockets

NODE = ("--hostname-override", "node-a")


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `kproxy explain`."""
    return inside.run("explain", *arguments)


def answer(*arguments: str) -> dict[str, Any]:
    """What it says, as JSON; its exit code is 0 only if a connection would be served."""
    done = explain(*arguments, "-o", "json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["verdict"] == "served" else 1), done.stderr
    return found


def alike(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on whom one asks: a running proxy knows more, and has moved ports."""
    return {key: found[key] for key in ("verdict", "reason", "message", "endpoint", "candidates")}


def test_a_proxy_and_its_files_give_the_same_answer(tmp_path: Path, run: conftest.Run) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", manifests.fresh_ip(), manifests.PORT),
            manifests.endpoints("web", [pod.getsockname()]),
            manifests.service("idle", manifests.fresh_ip(), manifests.PORT),
        )
        control = run(path, *NODE).ready["control"]
        alone = ("--manifests", str(path), "--allow-loopback-endpoints", *NODE)
        for name, verdict, reason in (
            ("web", "served", "served"),
            ("idle", "refused", "no-endpoint-objects"),
            ("wep", "not-proxied", "no-such-service"),
        ):
            asked = answer(name, "--from", "127.0.0.7", "--control", control)
            assert (asked["verdict"], asked["reason"]) == (verdict, reason)
            from_files = answer(name, "--from", "127.0.0.7", *alone)
            if reason != "no-such-service":  # which says who was asked
                assert alike(from_files) == alike(asked)
        assert asked["advice"].startswith("namespace default has web")
        ruled = explain("--all", "--as", "nftables", "--control", control, *NODE)
        from_files_ruled = explain("--all", "--as", "nftables", *alone)
        assert ruled.returncode == 0
        assert ruled.stdout == from_files_ruled.stdout


def hinted(name: str, *homes: tuple[str, str, str]) -> dict[str, Any]:
    """An EndpointSlice of these endpoints: address, node, and the zone that each is for."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [
            {"addresses": [address], "nodeName": node, "hints": {"forZones": [{"name": zone}]}}
            for address, node, zone in homes
        ],
    }


def test_rules_are_for_the_node_and_the_zone_of_the_proxy(
    tmp_path: Path, run: conftest.Run
) -> None:
    homes = (("10.9.0.1", "node-a", "z2"), ("10.9.0.2", "node-b", "z1"))
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service(
            "local", manifests.fresh_ip(), manifests.PORT, internalTrafficPolicy="Local"
        ),
        hinted("local", *homes),
        manifests.service("near", manifests.fresh_ip(), manifests.PORT),
        hinted("near", *homes),
    )
    control = run(path, *NODE, "--node-zone", "z1").ready["control"]

    def endpoint_of(name: str, *flags: str) -> str:
        rules = explain(name, "--as", "iptables", "--no-comments", *flags, "--control", control)
        (found,) = {each for each, _, _ in homes if f"{each}:8080" in rules.stdout}
        return found

    assert endpoint_of("local") == "10.9.0.1"
    assert endpoint_of("near") == "10.9.0.2"
    assert endpoint_of("local", "--hostname-override", "node-b") == "10.9.0.2"
    assert endpoint_of("near", "--node-zone", "z2") == "10.9.0.1"
    trace = explain("local", "--trace", "--control", control)
    assert "10.9.0.1:8080" in trace.stdout


@pytest.mark.extra
def test_a_proxy_and_its_cluster_give_the_same_answer(tmp_path: Path) -> None:
    web = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "web", "image": "web", "ports": [{"containerPort": 8080}]}
                    ]
                },
            },
        },
    }
    service = manifests.service("web", "", manifests.PORT, selector={"app": "web"})
    del service["spec"]["clusterIP"]
    applied = manifests.write(tmp_path / "web.yaml", web, service)
    with (
        beside_cluster.simulating(tmp_path, applied) as simulated,
        beside_cluster.following(tmp_path / "proxy", simulated.kubeconfig) as follower,
    ):
        follower.wait_ready()
        control = ("--control", str(follower.control))
        daemon.wait_until(lambda: answer("web", *control)["verdict"] == "served", "it is served")
        asked = answer("web", *control)
        alone = ("--kubeconfig", str(simulated.kubeconfig), "--allow-loopback-endpoints")
        by_cluster = answer("web", *alone)
        assert alike(by_cluster) == alike(asked)
        findings = {step["name"]: step["finding"] for step in by_cluster["steps"]}
        assert findings["selector"] == "1 pod with app=web"
        assert asked["verdict"] == "served"
