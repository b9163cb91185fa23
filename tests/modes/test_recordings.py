"""What kube-proxy v1.20.2 made of the recorded objects, rule by rule, no rule left out."""

import re

import pytest

from kproxy.model import names
from kproxy.modes import userspace, world
from kproxy.modes.iptables import iptables_mode
from tests.modes import worlds

_BUILT_IN = re.compile(r"^(:\S+ \S+) \[\d+:\d+\]$")


def canonical(text: str) -> list[str]:
    """The lines of a ruleset in an order of their own, without counters.

    The order within one chain is kept: it means something. kube-proxy goes over Services in the
    order of a Go map, so in chains that all Services share it is that of the destinations.
    """
    lines = [_BUILT_IN.sub(r"\1", line) for line in text.splitlines() if line]
    return sorted(lines, key=lambda line: _place(line, lines))


def _place(line: str, lines: list[str]) -> tuple[str, str, int]:
    if not line.startswith("-A "):
        return line, "", 0
    chain = line.split()[1]
    shared = re.search(r"-d (\S+) .*--dport (\d+)", line) or re.search(r"()--dport (\d+)", line)
    return chain, " ".join(shared.groups()) if shared else "", lines.index(line)


@pytest.mark.parametrize("table", ["filter", "nat"])
def test_iptables_rules_are_those_that_were_recorded(table: str) -> None:
    rendered = worlds.text(iptables_mode.IptablesMode(), worlds.recorded(world.Release.V1_20))
    recorded = (worlds.RECORDED / f"iptables-mode.{table}.rules").read_text()
    assert canonical(_table(rendered, table)) == canonical(recorded)


@pytest.mark.parametrize("table", ["filter", "nat"])
def test_userspace_rules_are_those_that_were_recorded(table: str) -> None:
    """The proxy ports are what the kernel gave kube-proxy then."""
    seen = worlds.recorded(world.Release.V1_20)
    nat = (worlds.RECORDED / "userspace-mode.nat.rules").read_text()
    mode = userspace.UserspaceMode(_proxy_ports(seen, nat))
    recorded = (worlds.RECORDED / f"userspace-mode.{table}.rules").read_text()
    assert canonical(_table(worlds.text(mode, seen), table)) == canonical(recorded)


def _table(text: str, name: str) -> str:
    (found,) = (each for each in text.split("COMMIT\n") if each.startswith(f"*{name}\n"))
    return f"{found}COMMIT\n"


def _proxy_ports(seen: world.World, nat: str) -> dict[names.ServicePortName, int]:
    found = {
        (address, protocol, int(number)): int(proxy_port)
        for address, protocol, number, proxy_port in re.findall(
            r"-A KUBE-PORTALS-CONTAINER -d (\S+)/32 -p (\w+) .*--dport (\d+) .*--to-ports (\d+)",
            nat,
        )
    }
    return {port.name: found[port.cluster_ip, port.protocol, port.number] for port in seen.ports}
