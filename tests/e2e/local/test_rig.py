"""The network of namespaces itself: who reaches what, and that nothing of it is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.rig import daemon, namespaces, pods
from tests.e2e.rig.published import of

pytestmark = [pytest.mark.netns, namespaces.needs_root, namespaces.needs_programs]

_DIES_IN_ITS_NETWORK = """
import os, subprocess, sys, time
from tests.e2e.rig import daemon, namespaces
def comm(pid):
    with open(f"/proc/{pid}/comm") as name:
        return name.read().strip()
with namespaces.network() as network, network.node_a.inside():
    program = subprocess.Popen([*namespaces.program, "sleep", "1000"], start_new_session=True)
    # Before it is what it is to be, setpriv may not have asked yet to be ended with this process.
    daemon.wait_until(lambda: comm(program.pid) == "sleep", "the program runs")
    print(program.pid, os.readlink("/proc/thread-self/ns/net"), flush=True)
    time.sleep(1000)
"""


def test_nodes_and_pods_reach_pods_and_the_client_does_not(
    protocol: Protocol, family: Family
) -> None:
    with namespaces.network() as network, pods.pods(network):
        for client in (network.node_a, network.node_b, network.pod_a, network.pod_b):
            for pod, name in ((namespaces.POD_A, "pod-a"), (namespaces.POD_B, "pod-b")):
                assert pods.meet(client, (of(pod, family), pods.PORT), protocol) == name
        with pytest.raises(OSError, match="unreachable"):
            pods.meet(network.client, (of(namespaces.POD_A, family), pods.PORT), protocol)
        closed = of(namespaces.NODE_A, family), pods.PORT
        assert pods.meet(network.client, closed, protocol) == pods.REFUSED
        network.node_a.run(
            "nft",
            "add table inet t; add chain inet t c "
            "{ type filter hook input priority 0; policy drop; }",
        )
        assert pods.is_dropped(network.client, closed, protocol)


@pytest.mark.parametrize("size", [1, 1472, 1500, 9000, 65507])
def test_links_of_a_small_mtu_carry_datagrams_of_any_size(size: int, family: Family) -> None:
    with namespaces.network(mtu=1280) as network, pods.pods(network):
        address = of(namespaces.POD_B, family), pods.PORT
        with pods.connect(network.pod_a, address, Protocol.UDP) as client:
            datagram = os.urandom(size)
            assert pods.exchange(client, datagram) == datagram


def test_nothing_is_left_of_a_network_whose_process_was_killed() -> None:
    command = [sys.executable, "-c", _DIES_IN_ITS_NETWORK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, name = process.stdout.readline().split()
        with Path("/proc", pid, "ns/net").open():  # no other namespace gets its number
            process.kill()
            daemon.wait_until(lambda: daemon.has_ended(int(pid)), "the program in it has ended")
            assert name not in _namespaces()


def _namespaces() -> set[str]:
    """The network namespaces in which any process is."""
    found = set()
    for each in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(each.readlink()))
        except OSError:  # it has ended
            continue
    return found
