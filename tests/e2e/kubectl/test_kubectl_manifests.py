"""The example manifests through kubectl, and who answers then.

They are applied as they are, but for their addresses, which are moved to ones of the test's own:
10.0.x.y to 10.N.x.y, and pods from 10.244.x.y to 127.N.x.y, where redis-servers stand for them.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kproxy.demo import stage
from tests import kubectl as kubectls
from tests.e2e.rig import daemon, manifests, programs, simulation, sockets
from tests.e2e.rig.simulation import HOST, Address, Object
from tests.kubectl import Kubectl

PROGRAMS = kubectls.last()
NODE = "node-a"
"""A node of the manifests' hand-made EndpointSlices; the proxy is on it."""

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="no kubectl: install kubernetes-client")


class Lab:
    """A kubectl, a cluster and the proxy of a node, in addresses with `octet` as their second."""

    def __init__(
        self, kubectl: Kubectl, beside: simulation.Simulation, octet: str, folder: Path
    ) -> None:
        self.kubectl = kubectl
        self._beside = beside
        self._octet = octet
        self._folder = folder

    def manifest(self, name: str) -> str:
        """An example in addresses of ours."""
        text = (manifests.EXAMPLES / name).read_text()
        moved = re.sub(r"\b(10|192)\.0\.", rf"\1.{self._octet}.", text)
        return moved.replace("10.244.", f"127.{self._octet}.")

    @contextlib.contextmanager
    def applied(self, name: str) -> Iterator[None]:
        """Apply an example; it is deleted at the end."""
        text = self.manifest(name)
        self.kubectl("apply", "-f", "-", stdin=text)
        try:
            yield
        finally:
            self.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=text)

    def service(self, name: str) -> Object:
        """A Service as kubectl prints it."""
        found: Object = self.kubectl.json("get", "service", name)
        return found

    def cluster_ip(self, name: str) -> Address:
        """Where its cluster IP is bound."""
        spec = self.service(name)["spec"]
        return manifests.bound(spec["clusterIP"]), spec["ports"][0]["port"]

    def node_port(self, name: str) -> Address:
        """Where its node port is bound."""
        return HOST, self.service(name)["spec"]["ports"][0]["nodePort"]

    def pods(self, deployment: str) -> set[str]:
        """The names of a Deployment's pods, once it is rolled out."""
        self.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=60s")
        names = self.kubectl("get", "pods", "-o", "name").split()
        return {name.removeprefix("pod/") for name in names if f"/{deployment}-" in name}

    @contextlib.contextmanager
    def redis(self, *pods: str, port: int = 6379) -> Iterator[None]:
        """redis-servers in the place of pods, of which the last two octets are given."""
        with contextlib.ExitStack() as stack:
            for pod in pods:
                address = self.moved(pod), port
                stack.enter_context(programs.redis(self._folder / f"redis-{pod}", address))
            yield

    def wait_redis(self, address: Address, pods: Iterable[str]) -> None:
        """Return when these pods answer, and no other ones."""
        expected = {self.moved(pod) for pod in pods}
        daemon.wait_until(
            lambda: {programs.redis_cli(address, "GET", "who") for _ in range(6)} == expected,
            f"{expected} answer at {address}",
        )

    def wait_empty(self, name: str) -> None:
        """Return when the proxy knows that a Service has no endpoints."""
        self._beside.wait_state(self._beside.api("default"), name, "no-endpoints", 0)

    def answers(self, address: Address) -> set[str]:
        """The pods that answer, once one does."""
        daemon.wait_until(lambda: sockets.is_open(address), f"{address} is open")
        return {programs.redis_cli(address, "GET", "who") for _ in range(6)}

    def moved(self, pod: str) -> str:
        """The address of a hand-made pod."""
        return f"127.{self._octet}.{pod}"


@pytest.fixture(scope="module", params=PROGRAMS)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Kubectl, simulation.Simulation, str]]:
    """A kubectl, its cluster with a proxy, and the second octet of their addresses."""
    folder = tmp_path_factory.mktemp("manifests")
    with stage.claimed_ranges() as ranges:
        octet = ranges.services.split(".")[1]
        classic = replace(ranges, services=f"10.{octet}.0.0/16")
        with simulation.simulation(folder, classic, NODE) as beside:
            yield Kubectl(request.param, folder), beside, octet


@pytest.fixture
def lab(cluster: tuple[Kubectl, simulation.Simulation, str], tmp_path: Path) -> Lab:
    return Lab(*cluster, tmp_path)


def curl(address: Address) -> str:
    """Which pod curl meets, or what it says instead."""
    host, port = address
    return programs.curl(f"http://{host}:{port}/").partition("\n")[0].removeprefix("pod: ")


def wait_curl(address: Address, pods: set[str]) -> None:
    """Return when curl meets these pods, and no other ones."""
    daemon.wait_until(
        lambda: {curl(address) for _ in range(2 * len(pods))} == pods, f"{pods} at {address}"
    )


def test_the_lab_of_two_httpds(lab: Lab) -> None:
    with lab.applied("httpd-service.yaml"):
        pods, address = lab.pods("my-apache"), lab.cluster_ip("httpd-service")
        assert len(pods) == 2
        wait_curl(address, pods)
        answers = [curl(address) for _ in range(4)]
        assert set(answers[:2]) == pods
        assert answers[:2] == answers[2:]
        again = lab.kubectl("apply", "-f", "-", stdin=lab.manifest("httpd-service.yaml"))
        assert len(again.splitlines()) == 2


def test_two_microservices(lab: Lab) -> None:
    with lab.applied("two-microservices.yaml"):
        users, orders = lab.pods("usermgr"), lab.pods("ordermgr")
        assert (len(users), len(orders)) == (3, 3)
        wait_curl(lab.cluster_ip("usermgr"), users)
        wait_curl(lab.cluster_ip("ordermgr"), orders)
        assert lab.node_port("usermgr") == (HOST, 30801)
        wait_curl(lab.node_port("usermgr"), users)
        assert "nodePort" not in lab.service("ordermgr")["spec"]["ports"][0]


def test_five_cluster_ip_scenarios(lab: Lab) -> None:
    both = ("1.69", "1.70")
    with lab.redis(*both), lab.applied("five-clusterip-scenarios.yaml"):
        lab.wait_redis(lab.cluster_ip("redis"), both)
        assert len(lab.answers(lab.cluster_ip("redis-sa"))) == 1
        lab.wait_redis(lab.cluster_ip("redis-external"), ["1.69"])
        (external,) = lab.service("redis-external")["spec"]["externalIPs"]
        lab.wait_redis((manifests.bound(external), 6379), ["1.69"])
        lab.wait_empty("redis-empty")
        assert sockets.is_refused(lab.cluster_ip("redis-empty"))
        assert lab.service("redis-headless")["spec"]["clusterIP"] == "None"


def test_five_node_port_scenarios(lab: Lab) -> None:
    here, elsewhere = ("0.4", "0.5"), "1.4"
    with lab.redis(*here, elsewhere), lab.applied("five-nodeport-scenarios.yaml"):
        for address in (lab.cluster_ip("redis-nodeport"), lab.node_port("redis-nodeport")):
            lab.wait_redis(address, ["0.4"])
        lab.wait_redis(lab.node_port("redis-np-local"), ["0.4"])
        lab.wait_redis(lab.cluster_ip("redis-np-local"), ["0.4", elsewhere])
        lab.wait_empty("redis-np-empty")
        assert sockets.is_refused(lab.cluster_ip("redis-np-empty"))
        assert sockets.is_refused(lab.node_port("redis-np-empty"))
        for name, pods in (("redis-np-sa", ("0.4", elsewhere)), ("redis-np-local-sa", here)):
            answers = lab.answers(lab.node_port(name))
            assert len(answers) == 1
            assert answers < {lab.moved(pod) for pod in pods}


def test_what_is_broken_is_refused_and_the_rest_serves(lab: Lab) -> None:
    text = lab.manifest("broken.yaml")
    with lab.redis("3.1", port=8080):
        applied = lab.kubectl.run("apply", "-f", "-", stdin=text)
        try:
            assert applied.returncode == 1
            for name, sentence in (
                ('Service "port-out-of-range"', "spec.ports[0].port: Invalid value: 70000"),
                ('Service "two-unnamed-ports"', "spec.ports[0].name: Required value"),
                ('Service "not-an-ip"', "must be a valid IP address"),
                ('Service "affinity-too-long"', "timeoutSeconds: Invalid value: 90000"),
                ('Service "same-ip-as-good-one"', "provided IP is already allocated"),
                ('Endpoints "bad-endpoints"', "may not be in the link-local range"),
            ):
                lines = applied.stderr.splitlines()
                (line,) = [each for each in lines if f"{name} is invalid" in each]
                assert sentence in line
            assert "invalid object to validate" in applied.stderr
            assert "service/good-one created" in applied.stdout
            lab.wait_redis(lab.cluster_ip("good-one"), ["3.1"])
            names = lab.kubectl("get", "services", "-o", "name").split()
            assert names == ["service/good-one", "service/kubernetes"]
        finally:
            lab.kubectl("delete", "service", "good-one")
