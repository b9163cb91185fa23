"""The rules that a published walk through kube-proxy v1.12.4 lists for its Services.

It shows the rules of Services alone, on two nodes: one without and one with local endpoints.
"""

import pytest
import yaml

from kproxy.modes import world
from kproxy.modes.iptables import iptables_mode
from tests.modes import worlds

LISTED = worlds.FIXTURES / "recordings" / "kube-proxy-v1.12.4"
OF_ALL = "-j KUBE-NODEPORTS"
"""In a chain of Services, the one rule that is of no Service."""


@pytest.mark.parametrize("node", ["node-1", "node-2"])
def test_the_rules_of_services_are_those_that_it_lists(node: str) -> None:
    documents = yaml.safe_load_all((LISTED / "objects.yaml").read_text())
    on = world.Node(name=node, cluster_cidr="10.244.0.0/16", release=world.Release.V1_12)
    seen = worlds.seen(worlds.kept(documents), on)
    rendered = worlds.text(iptables_mode.IptablesMode(), seen).splitlines()
    prefixes = ["KUBE-SERVICES ", "KUBE-EXTERNAL-SERVICES ", "KUBE-NODEPORTS "]
    prefixes += ["KUBE-SVC-", "KUBE-SEP-", "KUBE-XLB-"]
    of_services = [
        line
        for line in rendered
        if line.startswith(tuple(f"-A {prefix}" for prefix in prefixes)) and OF_ALL not in line
    ]
    listed = (LISTED / f"{node}.rules").read_text().splitlines()
    assert sorted(of_services) == sorted(listed)
    for line in listed:
        chain = line.split()[1]
        assert _of(chain, of_services, line) == _of(chain, listed, line)


def _of(chain: str, lines: list[str], like: str) -> list[str]:
    """The lines of a chain of one service port, in order; those of a chain of all are apart."""
    if not chain.startswith(("KUBE-SVC", "KUBE-SEP", "KUBE-XLB")):
        return [like]
    return [line for line in lines if line.split()[1] == chain]
