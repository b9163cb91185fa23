"""The tools of a real host read what is rendered, and keep it as it is."""

import dataclasses
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.model import addresses
from kproxy.modes import nftables, registry, userspace, world
from kproxy.modes.iptables import iptables_mode
from kproxy.modes.mode import Mode
from tests.modes import worlds

pytestmark = [
    pytest.mark.skipif(
        shutil.which("iptables-restore") is None or shutil.which("nft") is None,
        reason="needs the packages iptables and nftables",
    ),
    pytest.mark.xdist_group("netfilter"),
]
IPV6_NODE = world.Node(
    name="node1",
    address="fd00::10",
    cluster_cidr="fd00:244::/64",
    family=addresses.Family.IPV6,
)
FEW = hypothesis.settings(max_examples=40)


@pytest.fixture
def flushed() -> Iterator[None]:
    """Nothing is in the tables afterwards: this test process has a namespace of its own."""
    yield
    for tool in ("iptables", "ip6tables"):
        for table in ("nat", "filter"):
            for what in ("-F", "-X"):
                subprocess.run([tool, "-t", table, what], check=False, capture_output=True)


def load(loader: str, text: str, *options: str) -> None:
    done = subprocess.run(
        [*loader.split(), *options], input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def kept(family: addresses.Family) -> list[str]:
    """What the kernel has now, as far as a ruleset says it."""
    tool = "iptables-save" if family is addresses.Family.IPV4 else "ip6tables-save"
    saved = subprocess.run([tool], text=True, capture_output=True, check=True).stdout
    return comparable(saved)


def comparable(text: str) -> list[str]:
    """Rules in order, chains in an order of their own, no counters."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    chains = sorted(line.split(" [")[0] for line in lines if line.startswith(":"))
    rules = sorted(
        ((line.split()[1], at, line) for at, line in enumerate(lines) if line.startswith("-A")),
    )
    return chains + [line for _, _, line in rules]


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("release", world.Release)
@pytest.mark.parametrize(
    "mode", [iptables_mode.IptablesMode(), userspace.UserspaceMode()], ids=lambda mode: mode.name
)
def test_iptables_keeps_the_recorded_objects_rules_as_they_are(
    mode: Mode, release: world.Release
) -> None:
    text = worlds.text(mode, worlds.recorded(release), comments=True)
    load("iptables-restore", text)
    assert kept(addresses.Family.IPV4) == comparable(text)


@pytest.mark.parametrize("path", worlds.manifests(), ids=lambda path: path.stem)
def test_every_sample_file_loads_in_every_mode(path: Path) -> None:
    for release in world.Release:
        seen = worlds.from_file(path, dataclasses.replace(worlds.NODE, release=release))
        for mode in (iptables_mode.IptablesMode(), userspace.UserspaceMode()):
            load("iptables-restore", worlds.text(mode, seen, comments=True), "--test")
        load("nft -c -f -", worlds.text(nftables.NftablesMode(), seen, comments=True))


@FEW
@hypothesis.given(
    st.sampled_from([worlds.NODE, IPV6_NODE]),
    st.sampled_from(world.Release),
    st.data(),
)
def test_any_service_loads_in_every_mode(
    node: world.Node, release: world.Release, data: st.DataObject
) -> None:
    node = dataclasses.replace(node, release=release)
    ports = data.draw(st.lists(worlds.ports(node.family), max_size=4, unique_by=_places))
    seen = world.World(node, tuple(ports))
    tool = "iptables-restore" if node.family is addresses.Family.IPV4 else "ip6tables-restore"
    for mode in (iptables_mode.IptablesMode(), userspace.UserspaceMode()):
        load(tool, worlds.text(mode, seen), "--test")
    load("nft -c -f -", worlds.text(nftables.NftablesMode(), seen))


def _places(port: world.Port) -> tuple[object, ...]:
    return port.name.service, port.name.port


def test_ten_thousand_services_are_rendered_by_every_mode() -> None:
    """Every one of them is in the text: how long that takes is a matter of benchmarks."""
    ports = tuple(worlds.plain(number) for number in range(10_000))
    seen = world.World(worlds.NODE, ports)
    for mode in registry.MODES.values():
        text = worlds.text(mode, seen)
        assert all(f"{port.cluster_ip}" in text for port in (ports[0], ports[-1]))
        assert text.count("\n") > len(ports)
