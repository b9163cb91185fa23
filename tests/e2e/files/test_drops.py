"""Rows 17, 26 and 28 of docs/behaviour.md: clients that are dropped, of a proxy without privileges.

The proxy is started as any user would: what root may do is given up.
"""

from pathlib import Path
from typing import Any

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

INSIDE, OUTSIDE = "127.1.8.5", "127.1.9.5"
PORT = manifests.PORT


def test_row_17_clients_outside_of_the_ranges_meet_silence_at_the_load_balancers_address(
    tmp_path: Path, run: conftest.Run
) -> None:
    cluster_ip, vip, pod = manifests.fresh_ip(), manifests.fresh_ip(), manifests.fresh_ip(127)

    def written(**spec: Any) -> Path:
        service = manifests.service("web", cluster_ip, PORT, type="LoadBalancer", **spec)
        service["status"] = {"loadBalancer": {"ingress": [{"ip": vip}]}}
        endpoints = manifests.endpoints("web", [namer.address])
        return manifests.write(tmp_path / "web.yaml", service, endpoints)

    def soon(inside: str, outside: str) -> None:
        expected = inside, outside
        at = manifests.bound(vip), PORT
        daemon.wait_until(
            lambda: (sockets.outcome(at, INSIDE), sockets.outcome(at, OUTSIDE)) == expected,
            str(expected),
        )

    with sockets.namers((pod, "pod")) as (namer,):
        run(written(loadBalancerSourceRanges=[" 127.1.8.0/24 ", "fd00::/8"]))
        soon("reached", "silence")
        for other in (OUTSIDE, INSIDE):
            place = (manifests.bound(cluster_ip), PORT), other
            daemon.wait_until(lambda at=place: sockets.outcome(*at) == "reached", f"{place}")  # type: ignore[misc]  # a default binds it
        written(loadBalancerSourceRanges=["127.1.9.0/24"])
        soon("silence", "reached")
        written()
        soon("reached", "reached")


def test_rows_26_and_28_a_local_policy_without_a_local_endpoint_is_silence_until_one_comes(
    tmp_path: Path, run: conftest.Run
) -> None:
    cluster_ip, vip, pod = manifests.fresh_ip(), manifests.fresh_ip(), manifests.fresh_ip(127)
    local = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}

    def written(node: str) -> Path:
        service = manifests.service("web", cluster_ip, PORT, type="LoadBalancer", **local)
        service["status"] = {"loadBalancer": {"ingress": [{"ip": vip}]}}
        endpoints = manifests.endpoints("web", [namer.address])
        endpoints["subsets"][0]["addresses"][0]["nodeName"] = node
        return manifests.write(tmp_path / "web.yaml", service, endpoints)

    def soon(expected: str) -> None:
        places = [(manifests.bound(each), PORT) for each in (cluster_ip, vip)]
        daemon.wait_until(
            lambda: {sockets.outcome(at, INSIDE) for at in places} == {expected}, expected
        )

    with sockets.namers((pod, "pod")) as (namer,):
        proxy = run(written("node-b"), "--hostname-override", "node-a")
        assert {each["state"] for each in proxy.service("web")["frontends"][:1]} == {"dropped"}
        soon("silence")
        written("node-a")
        soon("reached")
        assert sockets.ask((manifests.bound(cluster_ip), PORT)) == "pod"
        written("node-b")
        soon("silence")
