"""Forwarding by netfilter, with rules as kube-proxy writes them, beside proxies.

Five network namespaces, made for a run and removed after it:

    clients ──┬── node ─────────┬── pods        plain forwarding; here proxies run
              ├── node-iptables ┤               10.96.1.10 by DNAT, iptables
              └── node-nftables ┘               10.96.2.10 by DNAT, nftables

Each set of rules has a node of its own: rules make the kernel track every connection of their
namespace, at a cost to all of them. kproxy's frontends are in 127.0.0.0/8, which clients reach
over the wire here (route_localnet), as they would a real ClusterIP.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kproxy import errors
from kproxy.bench.lab import network, processes, rig
from kproxy.bench.subjects import subject

_NODES = ("node", "node-iptables", "node-nftables")
_POD_HOST = "10.202.100.1"
_VIRTUAL_HOSTS = {"iptables": "10.96.1.10", "nftables": "10.96.2.10"}
_PORT = 80
_SVC = "KUBE-SVC-KPROXYBENCH00000"
_SEP = "KUBE-SEP-KPROXYBENCH0000"


def check_possible() -> None:
    """Raise ConfigError, saying what is missing, when namespaces or rules cannot be made."""
    if os.geteuid() != 0:
        raise errors.ConfigError("--kernel makes network namespaces: run it as root")
    try:
        for name, package in (("ip", "iproute2"), ("iptables", "iptables"), ("nft", "nftables")):
            processes.find_program(name, package)
    except errors.KproxyError as error:
        raise errors.ConfigError(f"--kernel: {error}") from error


def company(subjects: Sequence[subject.Subject]) -> list[subject.Subject]:
    """The subjects, and the kernel's two kinds of rules."""
    return [*subjects, *NETFILTER]


@contextlib.contextmanager
def namespaces() -> Iterator[rig.Topology]:
    """Make the namespaces; they are removed, with all that is in them, when the context ends.

    Raises KproxyError when one cannot be made.
    """
    with contextlib.ExitStack() as stack:
        for role in ("clients", *_NODES, "pods"):
            _ip("netns", "add", _name(role))
            stack.callback(_ip, "netns", "delete", _name(role))
            _inside(role, "ip", "link", "set", "lo", "up")
            _inside(role, "sysctl", "-qw", *_SYSCTLS)
        _inside("pods", "ip", "address", "add", f"{_POD_HOST}/32", "dev", "lo")
        for number, node in enumerate(_NODES):
            _connect_node(number, node)
        for number, host in enumerate(_VIRTUAL_HOSTS.values(), start=1):
            _inside("clients", "ip", "route", "add", host, "via", f"10.201.{number}.1")
        _inside("clients", "ip", "route", "add", _POD_HOST, "via", "10.201.0.1")
        # A route of the local table keeps 127.0.0.0/8 on the host: remove it.
        local = ("127.0.0.0/8", "dev", "lo", "table", "local")
        _inside("clients", "ip", "route", "delete", *local)
        _inside("clients", "ip", "route", "add", "127.96.0.0/16", "via", "10.201.0.1")
        yield rig.Topology(
            clients=_exec("clients"),
            node=_exec("node"),
            pods=_exec("pods"),
            frontend_host="10.201.0.1",
            backend_host=_POD_HOST,
        )


_SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.route_localnet=1",
    "net.ipv4.conf.default.route_localnet=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
)


def _connect_node(number: int, node: str) -> None:
    """A wire from the clients to a node and one from there to the pods, with routes."""
    for side, subnet in (("clients", 201), ("pods", 202)):
        link, peer = f"{side}{number}", f"to-{side}"
        _ip("link", "add", link, "netns", _name(side), "type", "veth",
            "peer", "name", peer, "netns", _name(node))  # fmt: skip
        for role, device, last in ((node, peer, 1), (side, link, 2)):
            address = f"10.{subnet}.{number}.{last}/24"
            _inside(role, "ip", "address", "add", address, "dev", device)
            _inside(role, "ip", "link", "set", device, "up")
    _inside("pods", "ip", "route", "add", f"10.201.{number}.0/24", "via", f"10.202.{number}.1")
    _inside(node, "ip", "route", "add", _POD_HOST, "via", f"10.202.{number}.2")


def _name(role: str) -> str:
    return f"kproxy-bench-{os.getpid()}-{role}"


def _exec(role: str) -> tuple[str, ...]:
    return (processes.find_program("ip", "iproute2"), "netns", "exec", _name(role))


def _ip(*arguments: str) -> None:
    _command([processes.find_program("ip", "iproute2"), *arguments])


def _inside(role: str, program: str, *arguments: str, stdin: str = "") -> None:
    _command([*_exec(role), processes.find_program(program, program), *arguments], stdin)


def _command(argv: list[str], stdin: str = "") -> None:
    """Run a program. Raises KproxyError with its error output if it fails."""
    done = subprocess.run(  # noqa: S603 (programs found by us, arguments made by us)
        argv, input=stdin, capture_output=True, text=True, timeout=20, check=False
    )
    if done.returncode != 0:
        printed = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise errors.KproxyError(f"{' '.join(argv[-6:])} failed: {printed[0]}")


def iptables_rules(host: str, endpoints: Sequence[network.Address]) -> str:
    """One Service, as kube-proxy 1.20 writes it for iptables-restore (KUBE-SVC, KUBE-SEP)."""
    chains = [f"{_SEP}{index:X}" for index in range(len(endpoints))]
    comment = '-m comment --comment "default/bench:tcp"'
    lines = ["*nat", *(f":{name} - [0:0]" for name in ("KUBE-SERVICES", _SVC, *chains))]
    lines += [
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        f"-A KUBE-SERVICES -d {host}/32 -p tcp {comment} -m tcp --dport {_PORT} -j {_SVC}",
    ]
    for index, chain in enumerate(chains):
        left = len(chains) - index
        choice = f" -m statistic --mode random --probability {1 / left:.11f}" if left > 1 else ""
        lines.append(f"-A {_SVC} {comment}{choice} -j {chain}")
    lines += [
        f"-A {chain} -p tcp {comment} -m tcp -j DNAT --to-destination {endpoint}"
        for chain, endpoint in zip(chains, endpoints, strict=True)
    ]
    return "\n".join([*lines, "COMMIT", ""])


def nftables_rules(host: str, endpoints: Sequence[network.Address]) -> str:
    """One Service: a map leads from its address to a chain, and a random number to an endpoint."""
    chains = "".join(
        f"  chain endpoint-{index} {{ meta l4proto tcp dnat to {endpoint}; }}\n"
        for index, endpoint in enumerate(endpoints)
    )
    choices = ", ".join(f"{index} : goto endpoint-{index}" for index in range(len(endpoints)))
    return f"""table ip kproxy-bench {{
{chains}  chain service {{ numgen random mod {len(endpoints)} vmap {{ {choices} }}; }}
  map service-ips {{
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = {{ {host} . tcp . {_PORT} : goto service }}
  }}
  chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    jump services
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Netfilter:
    """DNAT by rules that `program` loads; `package` is the Debian package that has it.

    `rules` makes them for an address and its endpoints. The command `load` takes them on standard
    input, and `flush` removes them.
    """

    name: str
    program: str
    package: str
    rules: Callable[[str, Sequence[network.Address]], str]
    load: Sequence[str]
    flush: Sequence[str]

    def measures(self, scenario: str) -> bool:
        """One endpoint behind an address that the rules forward."""
        return scenario in subject.ONE_ENDPOINT

    @contextlib.contextmanager
    def start(
        self,
        services: subject.Services,
        place: subject.Place,  # noqa: ARG002 (the protocol)
    ) -> Iterator[subject.Running]:
        """Load the rules on their own node; they are flushed at the end."""
        node, host = f"node-{self.name}", _VIRTUAL_HOSTS[self.name]
        _inside(node, *self.load, stdin=self.rules(host, services[0]))
        try:
            yield subject.Running((network.Address(host, _PORT),))
        finally:
            _inside(node, *self.flush)

    def version(self) -> str:
        """That of the program that loads the rules. Raises KproxyError if it is not installed."""
        return processes.first_line(processes.find_program(self.program, self.package), "--version")


NETFILTER = (
    Netfilter(
        name="iptables",
        program="iptables",
        package="iptables",
        rules=iptables_rules,
        load=["iptables-restore"],
        flush=["iptables", "-t", "nat", "-F"],
    ),
    Netfilter(
        name="nftables",
        program="nft",
        package="nftables",
        rules=nftables_rules,
        load=["nft", "-f", "-"],
        flush=["nft", "flush", "ruleset"],
    ),
)
"""Rules as kube-proxy writes them in its iptables mode and in its nftables mode."""
