"""Network namespaces: a client, two nodes with a pod each, and the network that joins them.

No namespace has a name. Each lives as long as a descriptor of this process, or a program that was
started in it: when the tests are killed, at whatever moment, nothing of it is left. The programs
end with this process, see `program`.

```
              client ──┐                    client: CLIENT, and STRANGER as a second address
                       │
     pod-a ── node-a ──┼── node-b ── pod-b  the nodes route each other's pods
                      lan
```
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pytest

from kproxy.bench.lab import namespace
from tests.e2e.rig import daemon

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
needs_programs = pytest.mark.skipif(
    not (shutil.which("ip") and shutil.which("setpriv")),
    reason="needs the packages iproute2 and util-linux",
)


class Host(NamedTuple):
    """The addresses of one host, or of one Service, in both families."""

    v4: str
    v6: str


CLIENT: Final = Host("192.0.2.10", "2001:db8::10")
STRANGER: Final = Host("192.0.2.77", "2001:db8::77")
NODE_A: Final = Host("192.0.2.1", "2001:db8::1")
NODE_B: Final = Host("192.0.2.2", "2001:db8::2")
POD_A: Final = Host("10.244.1.2", "fd00:10:244:1::2")
POD_B: Final = Host("10.244.2.2", "fd00:10:244:2::2")

NODES: Final = "192.0.2.0/24,2001:db8::/64"
"""The network of the nodes and the client, for --nodeport-addresses."""
SERVICES: Final = "10.96.0.0/16,fd00:10:96::/112"
"""ClusterIPs, for --service-cluster-ip-range."""
TO_A: Final = ("203.0.113.0/25", "2001:db8:113::/64")
"""External addresses that the client's network brings to node-a."""
TO_B: Final = ("203.0.113.128/25", "2001:db8:113:1::/64")
"""The same of node-b."""
EXTERNAL: Final = ",".join((*TO_A, *TO_B))
"""Both, for --external-ip-cidrs."""

program: Final = ("setpriv", "--pdeathsig", "KILL")
"""Starts a program that ends with the thread that started it, however that ends."""


class Namespace(namespace.Namespace):
    """A network namespace in which tests run programs. Must be closed."""

    def run(self, *command: str, text: str = "") -> str:
        """Run a program in it, and return what it prints. CalledProcessError when it fails."""
        with self.inside():
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, input=text
            )
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Run these commands of ip(8) in it."""
        self.run("ip", "-batch", "-", text="\n".join(lines))


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """The namespaces of the picture above."""

    client: Namespace
    node_a: Namespace
    node_b: Namespace
    pod_a: Namespace
    pod_b: Namespace


@contextlib.contextmanager
def network(mtu: int = 1500) -> Iterator[Network]:
    """Make the network; `mtu` is that of all its links."""
    with contextlib.ExitStack() as stack:

        def make(**values: object) -> Namespace:
            made = Namespace()
            stack.callback(made.close)
            # Addresses are usable at once: nothing else can have them.
            made.set(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0, **values)
            return made

        # A refusal by ICMP is never left out: the kernel limits their rate otherwise.
        answering = {"ipv4__icmp_ratelimit": 0, "ipv6__icmp__ratelimit": 0}
        routing = {"ipv4__ip_forward": 1, "ipv6__conf__all__forwarding": 1, **answering}
        lan = make()
        lan.ip("link add br0 type bridge mcast_snooping 0", "link set br0 up")
        made = Network(make(), make(**routing), make(**routing), make(), make())
        _join(lan, made, mtu)
        nodes = (
            (made.node_a, made.pod_a, NODE_A, POD_A, NODE_B, POD_B),
            (made.node_b, made.pod_b, NODE_B, POD_B, NODE_A, POD_A),
        )
        for node, pod, own, behind, other, elsewhere in nodes:
            gateway = _gateway(behind)
            node.ip(
                *_up("eth0", mtu, own),
                *_up("pod0", mtu, gateway),
                f"route add {_network(elsewhere).v4} via {other.v4}",
                f"route add {_network(elsewhere).v6} via {other.v6}",
            )
            pod.ip(
                *_up("eth0", mtu, behind),
                f"route add default via {gateway.v4}",
                f"route add default via {gateway.v6}",
            )
        made.client.ip(
            *_up("eth0", mtu, CLIENT, STRANGER),
            *(
                f"route add {target} via {via}"
                for targets, node in ((TO_A, NODE_A), (TO_B, NODE_B))
                for target, via in zip(targets, node, strict=True)
            ),
        )
        for node in (made.node_a, made.node_b):
            daemon.wait_until(lambda at=node: _has_routes(at), "links are ready")  # type: ignore[misc]  # a default binds it
        yield made


def _has_routes(node: Namespace) -> bool:
    """Whether the kernel has made the routes to all addresses of a node's two links.

    It does so a moment after a link is up, and gives it an address of its own then.
    """
    addresses = json.loads(node.run("ip", "-json", "-6", "address", "show"))
    own = {each["local"]: each["scope"] for link in addresses for each in link["addr_info"]}
    routes = json.loads(node.run("ip", "-json", "-6", "route", "show", "table", "local"))
    return list(own.values()).count("link") == 2 and own.keys() - {"::1"} <= {
        each["dst"] for each in routes
    }


def _join(lan: Namespace, made: Network, mtu: int) -> None:
    ends = {"client": made.client, "node-a": made.node_a, "node-b": made.node_b}
    lan.ip(
        *(
            f"link add name {name} mtu {mtu} master br0 up "
            f"type veth peer name eth0 netns {each.path}"
            for name, each in ends.items()
        ),
    )
    for node, pod in ((made.node_a, made.pod_a), (made.node_b, made.pod_b)):
        node.ip(f"link add pod0 type veth peer name eth0 netns {pod.path}")


def _up(device: str, mtu: int, *hosts: Host) -> Sequence[str]:
    added = [
        command
        for host in hosts
        for command in (
            f"address add {host.v4}/24 dev {device}",
            f"address add {host.v6}/64 dev {device} nodad",
        )
    ]
    return ["link set lo up", f"link set {device} mtu {mtu} up", *added]


def _gateway(pod: Host) -> Host:
    """Its node's address on the link to it."""
    return Host(pod.v4.removesuffix("2") + "1", pod.v6.removesuffix("2") + "1")


def _network(pod: Host) -> Host:
    """The pods of its node."""
    return Host(pod.v4.removesuffix("2") + "0/24", pod.v6.removesuffix("2") + "/64")
