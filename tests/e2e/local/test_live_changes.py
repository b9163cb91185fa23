"""Changes of every field while traffic runs, in both families and protocols.

Whatever the history, connections that were made go on, and it ends where a fresh start of the same
manifests begins: in what `kproxy get` shows, in the kernel's routes, and in what clients meet.
Two Services want two ClusterIPs, node ports and external addresses, so that these change hands.
"""

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.model.addresses import Family
from kproxy.model.names import Protocol
from kproxy.ops.views import control_client
from tests.e2e.local import catalogue, conftest
from tests.e2e.local.conftest import Way
from tests.e2e.rig import daemon, manifests, namespaces, pods, sockets
from tests.e2e.rig.published import EVERY, Service, of

pytestmark = [pytest.mark.netns, namespaces.needs_root, namespaces.needs_programs]

_NAMES = ("one", "two")
_NUMBERS = (41, 42)
_CIDRS = (f"{namespaces.CLIENT.v4}/32", f"{namespaces.CLIENT.v6}/128")
_SPECS: tuple[dict[str, object], ...] = (
    {},
    {"sessionAffinity": "ClientIP"},
    {"internalTrafficPolicy": "Local"},
    {"externalIPs": [*catalogue.outside(41)]},
    {"externalIPs": [*catalogue.outside(42)], "externalTrafficPolicy": "Local"},
    {"type": "LoadBalancer", "loadBalancerSourceRanges": [*_CIDRS]},
    {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 31041,
        "loadBalancerSourceRanges": [*_CIDRS],
    },
    {"type": "ExternalName", "externalName": "example.com", "clusterIP": "", "clusterIPs": []},
)


def _service(name: str, number: int, chosen: tuple[str, ...], port: int, spec: Any) -> Service:
    is_balanced = spec.get("type") == "LoadBalancer"
    return Service(
        name=name,
        number=number,
        pods=chosen,
        port=port,
        has_node_ports=is_balanced or "externalTrafficPolicy" in spec,
        ingress=(*catalogue.outside(number), *catalogue.outside_b(41)) if is_balanced else (),
        spec=spec,
    )


_services = st.builds(
    _service,
    st.sampled_from(_NAMES),
    st.sampled_from(_NUMBERS),
    st.sampled_from([EVERY, EVERY, ("pod-a",), ("pod-b",), ()]),
    st.sampled_from([80, 81]),
    st.sampled_from(_SPECS),
)
_edits = st.one_of(_services, _services, _services, st.sampled_from(_NAMES))
"""A Service as it is from now on, or the name of one that goes."""


@dataclasses.dataclass
class Live:
    """A proxy whose manifests change, and what clients hold."""

    network: namespaces.Network
    path: Path
    folder: Path
    way: Way
    present: dict[str, Service] = dataclasses.field(default_factory=dict)
    streams: list[socket.socket] = dataclasses.field(default_factory=list)
    starts: int = 0

    def edit(self, change: Service | str) -> None:
        """Make one change."""
        if isinstance(change, str):
            self.present.pop(change, None)
        else:
            self.present[change.name] = change
        objects = [each for one in self.present.values() for each in one.objects()]
        manifests.write(self.path, *objects)

    def connect(self) -> None:
        """Make a connection to each address that takes one; each reaches a pod."""
        for address in _probes():
            try:
                made = pods.connect(self.network.pod_a, address, patience=0.2)
            except OSError:
                continue
            made.settimeout(sockets.SECONDS)
            try:
                assert pods.name(made) in EVERY, address
            except ConnectionError:  # the address has just gone
                made.close()
            except TimeoutError:
                made.close()
                raise AssertionError(f"{address} accepts, and nothing comes of it") from None
            else:
                self.streams.append(made)
        for old in self.streams[:-24]:
            old.close()
        del self.streams[:-24]

    def check(self) -> None:
        """What is connected goes on."""
        for stream in self.streams:
            assert pods.exchange(stream, b"ping") == b"ping"


def _probes() -> Iterator[daemon.Address]:
    """The ClusterIPs and ports that Services of this module may have."""
    for number in _NUMBERS:
        for family in Family:
            for port in (80, 81):
                yield of(Service(name="", number=number).cluster_ips, family), port


@pytest.fixture(scope="module", params=Way, ids=str)
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A proxy that goes on through all histories."""
    folder = tmp_path_factory.mktemp("l")
    path = manifests.write(folder / "services.yaml")
    way: Way = request.param
    with (
        namespaces.network() as network,
        pods.pods(network),
        conftest.on_node(
            folder / "k", network, "node-a", path, *conftest.RANGES, *way.flags
        ) as proxy,
    ):
        made = Live(network, path, folder, way)
        yield made
        for stream in made.streams:
            stream.close()
        assert proxy.stop() == 0
        assert "Traceback" not in proxy.log()


def _shown(control: Path) -> dict[str, Any]:
    """What `kproxy get` shows of the Services, without what was counted."""
    views = control_client.fetch(control, "services")
    kept = ("protocol", "cluster_ip", "port", "type", "session_affinity", "frontends")
    return {
        f"{view['name']}:{view['port_name']}": {
            **{key: view[key] for key in kept},
            "endpoints": sorted(each["address"] for each in view["endpoints"]),
        }
        for view in views
    }


def _routes(node: namespaces.Namespace) -> list[str]:
    """kproxy's routes."""
    return sorted(
        line
        for family in ("-4", "-6")
        for line in node.run("ip", "-N", family, "route", "show", "table", "all").splitlines()
        if "proto 75" in line
    )


def _meets(network: namespaces.Network) -> dict[tuple[daemon.Address, Protocol], bool | str]:
    """What clients in a pod meet at each ClusterIP: what is not served, or that it is."""
    found: dict[tuple[daemon.Address, Protocol], bool | str] = {}
    for address in _probes():
        for protocol in (Protocol.TCP, Protocol.UDP):
            try:
                met = pods.meet(network.pod_a, address, protocol, patience=0.6)
            except OSError as error:
                met = str(error.strerror)
            found[address, protocol] = met in EVERY or met
    return found


def _try(live: Live, history: list[Service | str]) -> None:
    for change in history:
        live.edit(change)
        live.connect()
        live.check()
    live.starts += 1
    folder = live.folder / f"fresh-{live.starts}"
    with (
        namespaces.network() as network,
        pods.pods(network),
        conftest.on_node(folder, network, "node-a", live.path, *conftest.RANGES, *live.way.flags),
    ):
        wanted = _shown(folder / "kproxy.sock"), _routes(network.node_a)

        def is_equal() -> bool:
            now = _shown(live.folder / "k/kproxy.sock"), _routes(live.network.node_a)
            return now == wanted

        try:
            daemon.wait_until(is_equal, "as after a fresh start")
        except daemon.NotInTimeError:
            assert _shown(live.folder / "k/kproxy.sock") == wanted[0]
            assert _routes(live.network.node_a) == wanted[1]
        met = _meets(network)
        try:
            daemon.wait_until(lambda: _meets(live.network) == met, "clients meet the same")
        except daemon.NotInTimeError:
            assert _meets(live.network) == _meets(network)
    live.check()


_history = hypothesis.given(history=st.lists(_edits, min_size=1, max_size=6))
_relaxed = hypothesis.settings(
    max_examples=8,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.extra
@_relaxed
@_history
def test_live_changes_end_as_a_fresh_start_and_connections_go_on(
    live: Live, history: list[Service | str]
) -> None:
    _try(live, history)


@pytest.mark.long
@hypothesis.settings(_relaxed, max_examples=100)
@_history
def test_many_live_changes_end_as_a_fresh_start_and_connections_go_on(
    live: Live, history: list[Service | str]
) -> None:
    _try(live, history)
