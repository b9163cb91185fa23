"""A real DNS server behind a Service on port 53, asked by dig over UDP and TCP."""

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.model.addresses import Family
from tests.e2e.local import catalogue
from tests.e2e.local.conftest import Cluster
from tests.e2e.rig import daemon, namespaces
from tests.e2e.rig.published import of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.extra,
    namespaces.needs_root,
    namespaces.needs_programs,
    pytest.mark.skipif(not shutil.which("nsd"), reason="needs the package nsd"),
    pytest.mark.skipif(not shutil.which("dig"), reason="needs the package dnsutils"),
]

_SERVER = """
server:
    ip-address: 0.0.0.0@{port}
    ip-address: ::0@{port}
    server-count: 1
    username: ""
    pidfile: ""
    zonesdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
remote-control:
    control-enable: no
zone:
    name: "cluster.local"
    zonefile: "zone"
"""

_ZONE = """$ORIGIN cluster.local.
@ 60 SOA ns admin 1 60 60 60 60
@ 60 NS ns
ns 60 A 10.96.0.53
web 60 A 10.96.0.10
web 60 AAAA fd00:10:96::a
"""
_LONG = [f"{number:02d}" + "x" * 200 for number in range(40)]
"""Texts of one name: 8 KiB in all, more than an answer over UDP may have."""


@pytest.fixture(scope="module")
def served(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server in each pod, for the same zone."""
    with contextlib.ExitStack() as stack:
        for pod, host in (
            (cluster.network.pod_a, namespaces.POD_A),
            (cluster.network.pod_b, namespaces.POD_B),
        ):
            folder = tmp_path_factory.mktemp("nsd")
            stack.enter_context(_serving(pod, folder))
            answers = functools.partial(_answers, pod, host.v4)
            daemon.wait_until(answers, f"nsd answers at {host.v4}")
        yield cluster


@contextlib.contextmanager
def _serving(pod: namespaces.Namespace, folder: Path) -> Iterator[None]:
    configuration = folder / "nsd.conf"
    configuration.write_text(_SERVER.format(port=catalogue.NAMES.target, folder=folder))
    texts = "".join(f'long 60 TXT "{text}"\n' for text in _LONG)
    (folder / "zone").write_text(_ZONE + texts)
    command = [*namespaces.program, "nsd", "-d", "-c", str(configuration)]
    with pod.inside(), (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        daemon.end(process)


def _answers(pod: namespaces.Namespace, address: str) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        return bool(_dig(pod, address, "web", "A", "-p", str(catalogue.NAMES.target)))
    return False


def _dig(place: namespaces.Namespace, server: str, name: str, kind: str, *how: str) -> list[str]:
    """The answers, sorted. A packet may be lost on a busy machine: dig asks again."""
    question = ("+short", "+tries=5", "+time=2", *how, f"{name}.cluster.local", kind)
    return sorted(place.run("dig", f"@{server}", *question).split("\n"))[1:]


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
@pytest.mark.parametrize(("kind", "answer"), [("A", "10.96.0.10"), ("AAAA", "fd00:10:96::a")])
def test_names_are_looked_up(
    served: Cluster, family: Family, transport: str, kind: str, answer: str
) -> None:
    server = of(catalogue.NAMES.cluster_ips, family)
    for place in (served.network.pod_a, served.network.pod_b, served.network.node_a):
        for _ in range(4):
            assert _dig(place, server, "web", kind, transport) == [answer]


def test_a_long_answer_is_cut_over_udp_and_whole_over_tcp(served: Cluster, family: Family) -> None:
    server = of(catalogue.NAMES.cluster_ips, family)
    place = served.network.pod_a
    whole = sorted(f'"{text}"' for text in _LONG)
    assert _dig(place, server, "long", "TXT", "+notcp", "+ignore") != whole
    assert _dig(place, server, "long", "TXT", "+notcp") == whole
