"""Endpoints that the network says cannot be reached: D05."""

from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import manifests, sockets
from tests.relay import netns

pytestmark = [pytest.mark.netns, netns.needs_root, netns.needs_tools]

FAILURES = "kproxy_dial_failures_total"

ANSWERS = {
    "net-unreachable": "ENETUNREACH",
    "host-unreachable": "EHOSTUNREACH",
    "prot-unreachable": "ENOPROTOOPT",
    "port-unreachable": "ECONNREFUSED",
    "net-prohibited": "ENETUNREACH",
    "host-prohibited": "EHOSTUNREACH",
    "admin-prohibited": "EHOSTUNREACH",
}
"""What a connect(2) fails with after each ICMP message (icmp_err_convert in net/ipv4/icmp.c)."""


def test_after_each_icmp_answer_the_next_endpoint_serves_and_the_reason_is_shown(
    tmp_path: Path, run: conftest.Run
) -> None:
    unreachable = {icmp: f"10.77.9.{number}" for number, icmp in enumerate(ANSWERS, 1)}
    rules = "type filter hook input priority 0;\n" + "".join(
        f"ip daddr {address} tcp dport 80 reject with icmp type {icmp}\n"
        for icmp, address in unreachable.items()
    )
    with netns.namespace() as place, netns.inside(place):
        netns.run("ip", "addr", "add", "10.77.9.0/24", "dev", "lo")
        netns.run("nft", f"table ip t {{\nchain i {{\n{rules}}}\n}}")
        with sockets.namers(("127.0.0.1", "pod")) as (pod,):
            objects = [
                each
                for icmp, address in unreachable.items()
                for each in (
                    manifests.service(icmp, manifests.fresh_ip(), 80),
                    manifests.endpoints(icmp, [(address, 80), pod.address]),
                )
            ]
            path = manifests.write(tmp_path / "services.yaml", *objects)
            proxy = run(path, "--metrics-bind-address", "127.0.0.1:0")

            answers = [sockets.ask(proxy.address(icmp)) for icmp in ANSWERS for _ in range(4)]

            assert answers == ["pod"] * len(answers)
            for icmp, errno_name in ANSWERS.items():
                failed = proxy.samples(FAILURES, service=icmp)
                assert failed
                assert failed == proxy.samples(FAILURES, service=icmp, reason=errno_name)
