"""Worlds for the tests of this folder: from recorded objects, from manifests, or by chance."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import yaml
from hypothesis import strategies as st

from kproxy.model import addresses, admission, names
from kproxy.model.kinds import services
from kproxy.modes import world
from kproxy.modes.mode import Mode
from kproxy.sources import store

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECORDED = FIXTURES / "recordings" / "kube-proxy-v1.20.2"
NODE = world.Node(name="node1", address="10.0.0.10", cluster_cidr="10.244.0.0/16")
V1_12, V1_20, V1_33 = world.Release


def kept(documents: Iterable[object]) -> store.Store:
    """A Store of the objects in these documents that are accepted."""
    made = store.Store()
    for each in documents:
        for admitted in admission.admit(each):
            if admitted.accepted is not None:
                made.apply(admitted.accepted)
    return made


def seen(held: store.Store, node: world.Node = NODE) -> world.World:
    """What kube-proxy on `node` sees of them."""
    found = []
    for name in sorted(held.service_names()):
        service = held.service(name)
        assert service is not None
        found.append((service, held.sources(name)))
    return world.world(found, node)


def recorded(release: world.Release) -> world.World:
    """The objects of which kube-proxy's rules were recorded."""
    paths = RECORDED / "objects.json", RECORDED / "endpointslices-v1beta1.json"
    held = kept(json.loads(path.read_bytes()) for path in paths)
    return seen(held, dataclasses.replace(NODE, release=release))


def manifests() -> Iterable[Path]:
    """Every file of sample manifests."""
    return sorted((FIXTURES.parents[1] / "examples").glob("*.yaml"))


def from_file(path: Path, node: world.Node = NODE) -> world.World:
    """The objects of a file. Services without a cluster IP are not among them."""
    return seen(kept(yaml.safe_load_all(path.read_text())), node)


def text(mode: Mode, of: world.World, *, comments: bool = False) -> str:
    """The main part of what a mode renders."""
    return "".join(f"{line}\n" for line in mode.render(of)[0].text(comments=comments))


def plain(number: int) -> world.Port:
    """The service port of this number, with two endpoints."""
    name = names.ServicePortName(names.NamespacedName("many", f"svc-{number}"), "http")
    high, low = divmod(number, 250)
    backends = tuple(
        world.Backend(addresses.SocketAddress(f"10.244.{high}.{low}", 8000 + each))
        for each in range(2)
    )
    return world.Port(
        name=name,
        text=world.written_name(name, V1_33),
        cluster_ip=f"10.96.{high}.{low}",
        number=80,
        everywhere=backends,
    )


_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_NAMES = st.text(_LETTERS, min_size=1, max_size=63)


def _is_ordinary(text: str) -> bool:
    parsed = addresses.parse(text)
    return parsed is not None and parsed.use is addresses.Use.ORDINARY and parsed.text == text


_IPV4 = st.ip_addresses(v=4).map(str).filter(_is_ordinary)
_IPV6 = st.ip_addresses(v=6).map(str).filter(_is_ordinary)


@st.composite
def ports(draw: st.DrawFn, family: addresses.Family = addresses.Family.IPV4) -> world.Port:
    """Any service port that the model accepts, with endpoints of one family."""
    address = _IPV4 if family is addresses.Family.IPV4 else _IPV6
    numbers = st.integers(1, 65535)
    networks = st.tuples(address, st.integers(0, 32)).map(_network)
    backends = st.builds(
        world.Backend, st.builds(addresses.SocketAddress, address, numbers), st.booleans()
    )
    everywhere = tuple(
        draw(st.lists(backends, max_size=5, unique_by=lambda backend: backend.address))
    )
    name = names.ServicePortName(
        names.NamespacedName(draw(_NAMES), draw(_NAMES)),
        draw(st.just("") | _NAMES),
        draw(st.sampled_from(names.Protocol)),
    )
    return world.Port(
        name=name,
        text=world.written_name(name, V1_33),
        cluster_ip=draw(address),
        number=draw(numbers),
        node_port=draw(st.just(0) | numbers),
        external_ips=tuple(draw(st.lists(address, max_size=2, unique=True))),
        load_balancer_ips=tuple(draw(st.lists(address, max_size=2, unique=True))),
        source_ranges=tuple(draw(st.lists(networks, max_size=3, unique=True))),
        health_check_port=draw(st.just(0) | numbers),
        affinity_seconds=draw(st.none() | st.integers(1, services.MAX_AFFINITY_SECONDS)),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
        everywhere=everywhere,
        here=tuple(backend for backend in everywhere if backend.is_local),
    )


def _network(drawn: tuple[str, int]) -> str:
    address, length = drawn
    return world.ranges([f"{address}/{length}"], addresses.family(address))[0]
