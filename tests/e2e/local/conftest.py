"""`kproxy run --portal local` on the nodes of a network of namespaces, both ways."""

import contextlib
import dataclasses
import enum
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from tests.e2e.local import catalogue
from tests.e2e.rig import daemon, manifests, namespaces, pods


class Way(enum.StrEnum):
    """How the local portal gives clients to the data plane."""

    FAST = "sk_lookup"
    PLAIN = "a socket per frontend"

    @property
    def flags(self) -> Sequence[str]:
        """What asks for it. The fast way is taken wherever it can be."""
        return () if self is Way.FAST else ("--no-bpf",)


@contextlib.contextmanager
def on_node(
    folder: Path, network: namespaces.Network, node: str, path: Path, *flags: str
) -> Iterator[daemon.Daemon]:
    """Run the proxy of a node; its name is "node-a" or "node-b".

    This process itself stays where it is: a fixture that yields would take other tests there.
    """
    place = network.node_a if node == "node-a" else network.node_b
    always = (
        *("--portal", "local", "--hostname-override", node),
        *("--nodeport-addresses", namespaces.NODES),
        *("--external-ip-cidrs", namespaces.EXTERNAL),
    )
    with contextlib.ExitStack() as stack:
        with place.inside():
            proxy = stack.enter_context(
                daemon.running(
                    folder, path, *always, *flags, wrapper=namespaces.program, allow_loopback=False
                )
            )
        yield proxy


RANGES = ("--service-cluster-ip-range", namespaces.SERVICES)


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """A network whose nodes have a proxy each, for the Services of `catalogue`."""

    network: namespaces.Network
    way: Way
    proxies: dict[str, daemon.Daemon]


@pytest.fixture(scope="package", params=Way, ids=str)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Both nodes, with all Services of the catalogue. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("c")
    objects = [each for service in catalogue.ALL for each in service.objects()]
    path = manifests.write(folder / "services.yaml", *objects)
    way: Way = request.param
    with namespaces.network() as network, pods.pods(network), contextlib.ExitStack() as stack:
        proxies = {
            node: stack.enter_context(
                on_node(folder / node, network, node, path, *RANGES, *way.flags)
            )
            for node in ("node-a", "node-b")
        }
        yield Cluster(network, way, proxies)
        for proxy in proxies.values():
            assert proxy.stop() == 0, proxy.log()
            assert "Traceback" not in proxy.log()


@pytest.fixture(params=(Protocol.TCP, Protocol.UDP), ids=str)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    """Each protocol that is served."""
    asked: Protocol = request.param
    return asked


@pytest.fixture(params=Family, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family."""
    asked: Family = request.param
    return asked
