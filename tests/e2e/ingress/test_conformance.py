"""The 25 scenarios of Kubernetes' Ingress conformance (release 1.19), restated.

===================== =========================================================================
*.feature             here
===================== =========================================================================
default_backend       test_an_ingress_without_rules_gets_all_requests
host_rules (6)        TestHostRules
ingress_class         test_an_ingress_of_an_unknown_class_is_not_served
load_balancing        test_requests_reach_all_pods
path_rules (16)       TestPathRules; the suite has prefix /foo with request /foo/ twice
===================== =========================================================================

Hosts with TLS are asked by HTTP too, and must not be redirected: an annotation has to say so, here
as with ingress-nginx.
"""

import base64
import contextlib
import dataclasses
import http.client
import itertools
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from kproxy.demo import stage
from kproxy.simulator import certificates
from kproxy.simulator.kinds.configuration import secret_rules
from tests.e2e.cluster import deployed
from tests.e2e.rig import daemon, simulation
from tests.e2e.rig.simulation import HOST, PORT, Address, Api, Object, Simulation
from tests.ingress.rig import nginx_rig

pytestmark = [pytest.mark.extra, nginx_rig.needs_nginx]

SECONDS = 30.0

_numbers = itertools.count(1)


class Answer(NamedTuple):
    """The status, and what the pod says it was asked: {} if no pod was."""

    status: int
    said: Mapping[str, str]

    @property
    def service(self) -> str:
        """The Deployment of the pod that answered, which has its Service's name."""
        return self.said.get("pod", "").rsplit("-", 2)[0]

    @property
    def path(self) -> str:
        return self.said["request"].split(" ")[1]

    @property
    def method(self) -> str:
        return self.said["request"].split(" ")[0]

    @property
    def host(self) -> str:
        return self.said["header Host"]


class Site(NamedTuple):
    """Where a proxy serves Ingresses."""

    http: Address
    https: Address

    def ask(self, host: str, path: str, method: str = "GET") -> Answer:
        """Ask by HTTP, on a connection of its own."""
        connection = http.client.HTTPConnection(*self.http, timeout=SECONDS)
        return answer(connection, host, path, method)


def answer(
    connection: http.client.HTTPConnection, host: str, path: str, method: str = "GET"
) -> Answer:
    """The answer to one request."""
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Host": host} if host else {})
        got = connection.getresponse()
        text = got.read().decode()
    if not text.startswith("pod: "):
        return Answer(got.status, {})
    return Answer(got.status, dict(line.split(": ", 1) for line in text.splitlines()))


@pytest.fixture(scope="module")
def site() -> Site:
    """Two places that are free."""
    return Site((HOST, simulation.free_node_port()), (HOST, simulation.free_node_port()))


@pytest.fixture(scope="module")
def beside(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulation]:
    """A cluster, and a proxy that serves its Ingresses."""
    places = ("--ingress-http", _spelled(site.http), "--ingress-https", _spelled(site.https))
    portal = dataclasses.replace(simulation.LOOPBACK, flags=("--ingress", *places))
    folder = tmp_path_factory.mktemp("ingress")
    with (
        stage.claimed_ranges() as ranges,
        simulation.simulation(folder, ranges, "node-1", portal) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def api(beside: Simulation) -> Iterator[Api]:
    """A namespace of the tests of a feature's Ingress."""
    made = beside.api(f"ingress-conformance-{next(_numbers)}")
    made.create("Namespace", made.namespace, {})
    yield made
    made.delete("Namespace", made.namespace)


def _spelled(place: Address) -> str:
    return f"{place[0]}:{place[1]}"


def backend(service: str, port: Object | None = None) -> Object:
    return {"service": {"name": service, "port": port or {"number": 8080}}}


def path(kind: str, text: str, service: str, port: Object | None = None) -> Object:
    return {"path": text, "pathType": kind, "backend": backend(service, port)}


def rule(host: str, *paths: Object) -> Object:
    return {"host": host, "http": {"paths": list(paths)}}


def serve(api: Api, *services: str) -> None:
    """A pod and a Service for each of these."""
    for each in services:
        deployed.deploy(api, each, replicas=1)
        ports = [{"name": "http", "port": 8080, "targetPort": PORT}]
        api.create("Service", each, {"spec": {"selector": {"app": each}, "ports": ports}})


@contextlib.contextmanager
def ingress(api: Api, name: str, body: Object) -> Iterator[None]:
    """An Ingress, from when its status says where it is, to the end of the block."""
    api.create("Ingress", name, body)
    daemon.wait_until(lambda: published(api, name) == [HOST], "the status says where it is")
    yield
    api.delete("Ingress", name)


def published(api: Api, name: str) -> list[str]:
    """The addresses in the status of an Ingress."""
    status = api.get("Ingress", name).get("status") or {}
    balancer = status.get("loadBalancer") or {}
    return [each["ip"] for each in balancer.get("ingress") or ()]


@pytest.fixture(scope="class")
def default_backend(api: Api) -> Iterator[None]:
    serve(api, "echo-service")
    spec = {"defaultBackend": backend("echo-service")}
    with ingress(api, "default-backend", {"spec": spec}):
        yield


@pytest.mark.usefixtures("default_backend")
class TestDefaultBackend:
    @pytest.mark.parametrize(
        ("method", "host", "path"),
        [
            ("GET", "my-host", "/"),
            ("GET", "my-host", "/sub-path"),
            ("POST", "some-host", "/"),
            ("PUT", "", "/resource"),
            ("DELETE", "some-host", "/resource"),
            ("PATCH", "my-host", "/resource"),
        ],
    )
    def test_an_ingress_without_rules_gets_all_requests(
        self, site: Site, method: str, host: str, path: str
    ) -> None:
        found = site.ask(host, path, method)
        assert (found.status, found.service) == (200, "echo-service")
        assert (found.method, found.path) == (method, path)
        assert host in found.host

    def test_requests_reach_all_pods(self, site: Site, api: Api) -> None:
        pods = deployed.scale(api, "echo-service", 10)

        def reached() -> set[str]:
            answers = [site.ask("load-balancing", "/") for _ in range(100)]
            assert {each.status for each in answers} == {200}
            return {each.said["pod"] for each in answers}

        daemon.wait_until(lambda: reached() == pods, "100 requests reach 10 pods")


@pytest.fixture(scope="class")
def host_rules(api: Api) -> Iterator[None]:
    serve(api, "wildcard-foo-com", "foo-bar-com")
    made = certificates.self_signed([], ["foo.bar.com"], datetime.now(UTC))
    name = "conformance-tls"
    api.create("Secret", name, secret_rules.tls_secret(name, made.pem, made.key))
    body = {
        "metadata": {"annotations": {"nginx.ingress.kubernetes.io/ssl-redirect": "false"}},
        "spec": {
            "tls": [{"hosts": ["foo.bar.com"], "secretName": name}],
            "rules": [
                rule("*.foo.com", path("Prefix", "/", "wildcard-foo-com")),
                rule("foo.bar.com", path("Prefix", "/", "foo-bar-com", {"name": "http"})),
            ],
        },
    }
    with ingress(api, "host-rules", body):
        yield


@pytest.mark.usefixtures("host_rules")
class TestHostRules:
    def test_a_host_is_served_by_tls(self, site: Site, api: Api) -> None:
        secret = api.get("Secret", "conformance-tls")
        trusted = base64.b64decode(secret["data"]["tls.crt"]).decode()
        context = ssl.create_default_context(cadata=trusted)
        with socket.create_connection(site.https, SECONDS) as plain:
            connection = http.client.HTTPSConnection("foo.bar.com", timeout=SECONDS)
            connection.sock = context.wrap_socket(plain, server_hostname="foo.bar.com")
            found = answer(connection, "foo.bar.com", "/")
        assert (found.status, found.service, found.host) == (200, "foo-bar-com", "foo.bar.com")

    @pytest.mark.parametrize(
        ("host", "service"),
        [
            ("foo.bar.com", "foo-bar-com"),
            ("subdomain.bar.com", ""),
            ("bar.foo.com", "wildcard-foo-com"),
            ("baz.bar.foo.com", ""),
            ("foo.com", ""),
        ],
    )
    def test_a_host_is_served_by_http(self, site: Site, host: str, service: str) -> None:
        found = site.ask(host, "/")
        assert (found.status, found.service) == (200 if service else 404, service)
        if service:
            assert found.host == host


def test_an_ingress_of_an_unknown_class_is_not_served(
    site: Site, beside: Simulation, api: Api
) -> None:
    serve(api, "ingress-class-prefix")
    rules = [rule("ingress-class", path("Prefix", "/", "ingress-class-prefix"))]
    spec = {"ingressClassName": "some-invalid-class-name", "rules": rules}
    api.create("Ingress", "test-ingress-class", {"spec": spec})
    daemon.wait_until(lambda: "some-invalid-class-name" in beside.log(), "the log says so")
    assert published(api, "test-ingress-class") == []
    assert site.ask("ingress-class", "/").status == 404


@pytest.fixture(scope="class")
def path_rules(api: Api) -> Iterator[None]:
    rules = [
        rule("exact-path-rules", path("Exact", "/foo", "foo-exact")),
        rule(
            "prefix-path-rules",
            path("Prefix", "/foo", "foo-prefix"),
            path("Prefix", "/aaa/bbb", "aaa-slash-bbb-prefix"),
            path("Prefix", "/aaa", "aaa-prefix"),
        ),
        rule(
            "mixed-path-rules",
            path("Prefix", "/foo", "foo-prefix"),
            path("Exact", "/foo", "foo-exact"),
        ),
        rule(
            "trailing-slash-path-rules",
            path("Prefix", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
            path("Exact", "/foo/", "foo-slash-exact"),
        ),
    ]
    serve(
        api,
        *("foo-exact", "foo-prefix", "foo-slash-exact", "aaa-prefix"),
        *("aaa-slash-bbb-prefix", "aaa-slash-bbb-slash-prefix"),
    )
    with ingress(api, "path-rules", {"spec": {"rules": rules}}):
        yield


@pytest.mark.usefixtures("path_rules")
class TestPathRules:
    @pytest.mark.parametrize(
        ("host", "asked", "service"),
        [
            ("exact", "/foo", "foo-exact"),
            ("exact", "/foo/", ""),
            ("exact", "/FOO", ""),
            ("exact", "/bar", ""),
            ("prefix", "/foo", "foo-prefix"),
            ("prefix", "/foo/", "foo-prefix"),
            ("prefix", "/FOO", ""),
            ("prefix", "/aaa/bbb", "aaa-slash-bbb-prefix"),
            ("prefix", "/aaa/bbb/ccc", "aaa-slash-bbb-prefix"),
            ("prefix", "/aaa/ccc", "aaa-prefix"),
            ("prefix", "/aaaccc", ""),
            ("mixed", "/foo", "foo-exact"),
            ("trailing-slash", "/aaa/bbb", "aaa-slash-bbb-slash-prefix"),
            ("trailing-slash", "/aaa/bbb/", "aaa-slash-bbb-slash-prefix"),
            ("trailing-slash", "/foo", ""),
        ],
    )
    def test_a_path_chooses_the_service(
        self, site: Site, host: str, asked: str, service: str
    ) -> None:
        found = site.ask(f"{host}-path-rules", asked)
        assert (found.status, found.service) == (200 if service else 404, service)
        if service:
            assert found.path == asked
