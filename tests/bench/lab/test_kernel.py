"""The kernel's own forwarding: rules of kube-proxy's shape, in namespaces that vanish."""

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from kproxy import errors
from kproxy.bench.lab import kernel, network, rig, rounds
from kproxy.bench.load import messages
from kproxy.bench.subjects import kproxy_run, peers
from tests.bench import test_scenarios

pytestmark = pytest.mark.xdist_group("time")

ENDPOINTS = [network.Address(f"10.1.0.{i}", 8080) for i in (1, 2, 3)]
RECORDED = [  # kube-proxy 1.20.2, iptables mode: names and addresses replaced by their kind
    '-A PREROUTING -m comment --comment "" -j KUBE-SERVICES',
    '-A KUBE-SERVICES -d IP/32 -p tcp -m comment --comment "" -m tcp --dport N -j KUBE-SVC',
    '-A KUBE-SVC -m comment --comment "" -m statistic --mode random --probability P -j KUBE-SEP',
    '-A KUBE-SVC -m comment --comment "" -j KUBE-SEP',
    '-A KUBE-SEP -p tcp -m comment --comment "" -m tcp -j DNAT --to-destination IP:N',
]


def test_iptables_rules_have_the_shape_that_kube_proxy_writes() -> None:
    rules = kernel.iptables_rules("10.96.0.1", ENDPOINTS).splitlines()
    shapes = [_shape(line) for line in rules if line.startswith("-A")]
    assert list(dict.fromkeys(shapes)) == RECORDED
    assert rules[0] == "*nat"
    assert rules[-1] == "COMMIT"


def _shape(rule: str) -> str:
    rule = re.sub(r"KUBE-(SVC|SEP)-\w+", r"KUBE-\1", rule)
    rule = re.sub(r'"[^"]*"', '""', rule)
    rule = re.sub(r"\d+\.\d+\.\d+\.\d+", "IP", rule)
    rule = re.sub(r"0\.\d+", "P", rule)
    return re.sub(r"(--dport |:)\d+", r"\1N", rule)


def test_probabilities_give_every_endpoint_the_same_share() -> None:
    rules = kernel.iptables_rules("10.96.0.1", ENDPOINTS)
    probabilities = [float(p) for p in re.findall(r"--probability (\S+)", rules)]
    left, shares = 1.0, []
    for probability in [*probabilities, 1.0]:
        shares.append(left * probability)
        left -= shares[-1]
    assert shares == pytest.approx([1 / 3] * 3)


def test_without_root_the_kernel_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.ConfigError, match="--kernel makes network namespaces: run it as"):
        kernel.check_possible()


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    own = f"kproxy-bench-{os.getpid()}-"
    return {line.split()[0] for line in listed.stdout.splitlines() if line.startswith(own)}


def _skip_unless_possible() -> None:
    try:
        kernel.check_possible()
    except errors.ConfigError as error:
        pytest.skip(str(error))


@pytest.mark.netns
def test_every_way_through_the_node_leads_to_the_backends(tmp_path: Path) -> None:
    _skip_unless_possible()
    subjects = kernel.company([peers.Direct(), kproxy_run.Kproxy(), peers.Streams("asyncio")])
    shown = test_scenarios.Silent()
    with (
        kernel.namespaces() as topology,
        rig.start(subjects, test_scenarios.TINY, tmp_path, shown, [], topology) as lab,
    ):
        for each in subjects:
            with each.start([lab.endpoints[:1]], lab.place) as running:
                plan = messages.Plan(kind="connect", target=running.target, seconds=0.1)
                outcome = rounds.load(lab, "tried", each.name, running, plan).outcome
            assert outcome.done > 0, each.name
        accepted = lab.backends.served().accepted
        assert accepted[lab.endpoints[0].port] > 0
    assert lab.warnings == []
    assert _namespaces() == set()


@pytest.mark.netns
def test_namespaces_are_gone_after_a_failure() -> None:
    _skip_unless_possible()
    with contextlib.suppress(KeyboardInterrupt), kernel.namespaces():
        assert len(_namespaces()) == 5
        raise KeyboardInterrupt
    assert _namespaces() == set()
