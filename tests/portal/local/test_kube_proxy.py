"""What a kube-proxy leaves on a host, made with the programs that it uses."""

import ctypes
import os
import subprocess
import sys

import pytest

from kproxy.portal.local import kube_proxy

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace"),
]
PROGRAM = "from kproxy.portal.local import kube_proxy; print(*kube_proxy.traces(), sep='; ')"


def traces_after(command: str) -> str:
    """What is found in a network namespace of its own after a shell command there."""

    def enter() -> None:
        assert ctypes.CDLL(None).unshare(0x40000000) == 0

    done = subprocess.run(
        ["sh", "-ec", f'{command}\nexec "$0" -c "$1"', sys.executable, PROGRAM],
        preexec_fn=enter,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot be made here: {done.stderr.strip()[:200]}")
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("command", "found"),
    [
        pytest.param("true", "", id="nothing"),
        pytest.param(
            "iptables-legacy -t nat -N KUBE-SERVICES", "iptables chains KUBE-*", id="iptables"
        ),
        pytest.param(
            "ip6tables-legacy -t nat -N KUBE-SERVICES", "ip6tables chains KUBE-*", id="ip6tables"
        ),
        pytest.param(
            "iptables-nft -t nat -N KUBE-SERVICES",
            "iptables-nft chains KUBE-*",
            id="iptables on nftables",
        ),
        pytest.param("nft add table ip kube-proxy", "nftables table kube-proxy", id="nftables"),
        pytest.param(
            "ip link add kube-ipvs0 type veth peer name other", "interface kube-ipvs0", id="ipvs"
        ),
        pytest.param(
            "nft add table ip mine; nft add chain ip mine KUBE-MINE", "", id="another program's"
        ),
    ],
)
def test_each_mode_is_recognised(command: str, found: str) -> None:
    assert traces_after(command) == found


def test_looking_makes_no_table() -> None:
    look = f'"{sys.executable}" -c "{PROGRAM}"'
    assert traces_after(f'{look}; test -z "$(cat /proc/net/ip_tables_names)"') == ""


def test_here_is_none() -> None:
    assert kube_proxy.traces() == []
