"""The Gateway API's conformance tests of TCPRoutes and UDPRoutes (version 1.6), restated.

=============================================== ===============================================
tcproute-*.go
----------------------------------------------- -----------------------------------------------
invalid-backendref-nonexistent                  test_a_backend_that_does_not_exist
invalid-cross-namespace-backend-ref             test_a_backend_elsewhere_without_a_grant
invalid-non-tcp-listener                        test_a_listener_of_another_protocol
multiple-routes-attachment                      test_of_two_routes_the_oldest_has_the_listener
parentref-attach-all                            test_a_route_attaches_to_every_listener
parentref-port-and-section-name                 test_a_route_attaches_by_port_and_by_section
reference-grant                                 test_a_grant_permits_and_its_removal_revokes
weighted-routing                                test_connections_follow_the_weights
udproute-*.go
----------------------------------------------- -----------------------------------------------
invalid-backendref-nonexistent                  as for TCPRoutes
invalid-cross-namespace-backend-ref             as for TCPRoutes
multiple-routes-attachment                      as for TCPRoutes
not-allowed-by-listeners                        test_a_listener_of_another_protocol
parentref-attach-all-listeners                  as for TCPRoutes
parentref-port-and-section-name                 as for TCPRoutes
reference-grant                                 as for TCPRoutes
simple                                          test_a_grant_permits_and_its_removal_revokes
weighted-routing                                as for TCPRoutes
=============================================== ===============================================
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from kproxy.model.names import Protocol
from tests.e2e.cluster import deployed
from tests.e2e.rig import daemon, simulation
from tests.e2e.rig.simulation import HOST, PORT, Address, Api, Object, Simulation

pytestmark = pytest.mark.extra

GROUP = "gateway.networking.k8s.io"
CONTROLLER = "kproxy.io/gateway"
BOTH = pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
REQUESTS = 200
TOLERANCE = 0.05
"""Of the suite's own `weight.TestWeightedDistribution`."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def beside(beside: Simulation) -> Iterator[Simulation]:
    """The cluster of the package with the class `kproxy`, and the proxy that serves it.

    A second cluster is not possible beside it: a network namespace has one local portal.
    """
    everywhere = beside.api("")
    everywhere.create("GatewayClass", "kproxy", {"spec": {"controllerName": CONTROLLER}})
    yield beside
    everywhere.delete("GatewayClass", "kproxy")


@pytest.fixture
def infra(beside: Simulation) -> Iterator[Api]:
    """The namespace of Gateways and routes."""
    yield from namespace(beside, "infra")


@pytest.fixture
def elsewhere(beside: Simulation) -> Iterator[Api]:
    """Another namespace, with backends."""
    yield from namespace(beside, "backend")


def namespace(beside: Simulation, kind: str) -> Iterator[Api]:
    made = beside.api(f"gateway-conformance-{kind}-{next(_numbers)}")
    made.create("Namespace", made.namespace, {})
    yield made
    made.delete("Namespace", made.namespace)


def backend(api: Api, app: str, protocol: Protocol, replicas: int = 1) -> set[str]:
    """A Deployment and its Service; the names of the pods."""
    names = deployed.deploy(api, app, replicas, tuple(dict.fromkeys((Protocol.TCP, protocol))))
    ports = [{"name": protocol.lower(), "port": PORT, "protocol": protocol.value}]
    deployed.serve(api, app, ports=ports)
    return names


def gateway(api: Api, protocol: str, *listeners: str, kind: str = "") -> dict[str, Address]:
    """A Gateway called gw whose listeners take one kind of routes; where they are."""
    ports = {name: simulation.free_node_port() for name in listeners}
    allowed = {"kinds": [{"kind": kind or f"{protocol}Route"}]}
    spec = {
        "gatewayClassName": "kproxy",
        "listeners": [
            {
                "name": name,
                "protocol": protocol,
                "port": port,
                "allowedRoutes": allowed,
                **({"tls": {"mode": "Passthrough"}} if protocol == "TLS" else {}),
            }
            for name, port in ports.items()
        ],
    }
    api.create("Gateway", "gw", {"spec": spec})
    return {name: (HOST, port) for name, port in ports.items()}


def route(api: Api, protocol: Protocol, name: str, *backends: Object, **parent: Any) -> None:
    """A route of gw, or of the listener that `parent` says."""
    body = {
        "spec": {
            "parentRefs": [{"name": "gw", **parent}],
            "rules": [{"backendRefs": [{"port": PORT, **each} for each in backends]}],
        }
    }
    api.create(f"{protocol}Route", name, body)


def wait_route(
    api: Api, protocol: Protocol, name: str, kind: str, status: str, reason: str
) -> None:
    """Return when the only parent of a route has such a condition, of its generation."""
    expected = {"group": GROUP, "kind": "Gateway", "name": "gw", "namespace": api.namespace}

    def is_so() -> bool:
        found = api.get(f"{protocol}Route", name)
        parents = found.get("status", {}).get("parents", [])
        return any(
            expected.items() <= each["parentRef"].items()
            and each["controllerName"] == CONTROLLER
            and has(each["conditions"], kind, status, reason)
            and all(
                condition["observedGeneration"] == found["metadata"]["generation"]
                for condition in each["conditions"]
            )
            for each in parents
        )

    daemon.wait_until(is_so, f"{name} has {kind}={status} because of {reason}")


def has(conditions: list[Object], kind: str, status: str, reason: str = "") -> bool:
    """Whether one of these is so."""
    return any(
        (each["type"], each["status"]) == (kind, status) and reason in ("", each["reason"])
        for each in conditions
    )


def wait_listeners(
    api: Api, attached: dict[str, int], kinds: list[str], *conditions: tuple[str, str]
) -> None:
    """Return when the listeners of gw have so many routes, kinds and conditions."""

    def is_so() -> bool:
        found = api.get("Gateway", "gw").get("status", {}).get("listeners", [])
        return {each["name"]: each["attachedRoutes"] for each in found} == attached and all(
            [kind["kind"] for kind in each["supportedKinds"]] == kinds
            and all(kind["group"] == GROUP for kind in each["supportedKinds"])
            and all(has(each["conditions"], *condition) for condition in conditions)
            for each in found
        )

    daemon.wait_until(is_so, f"{attached} routes are attached")


def wait_address(api: Api) -> None:
    """Return when gw is accepted and programmed, at the node's address."""

    def is_so() -> bool:
        status = api.get("Gateway", "gw")["status"]
        return (
            {"type": "IPAddress", "value": HOST} in status.get("addresses", ())
            and has(status["conditions"], "Accepted", "True", "Accepted")
            and has(status["conditions"], "Programmed", "True", "Programmed")
        )

    daemon.wait_until(is_so, "gw is programmed")


@BOTH
def test_a_backend_that_does_not_exist(infra: Api, protocol: Protocol) -> None:
    gateway(infra, protocol, "one")
    route(infra, protocol, "lost", {"name": "nonexistent"}, sectionName="one")
    wait_route(infra, protocol, "lost", "ResolvedRefs", "False", "BackendNotFound")
    wait_route(infra, protocol, "lost", "Accepted", "True", "Accepted")


@BOTH
def test_a_backend_elsewhere_without_a_grant(
    infra: Api, elsewhere: Api, protocol: Protocol
) -> None:
    backend(elsewhere, "far", protocol)
    address = gateway(infra, protocol, "one")["one"]
    far = {"name": "far", "namespace": elsewhere.namespace}
    route(infra, protocol, "across", far, sectionName="one")
    wait_route(infra, protocol, "across", "Accepted", "True", "Accepted")
    wait_route(infra, protocol, "across", "ResolvedRefs", "False", "RefNotPermitted")
    simulation.wait_down(address, protocol)


@pytest.mark.parametrize(
    ("protocol", "other", "kind"),
    [(Protocol.TCP, "HTTP", "HTTPRoute"), (Protocol.UDP, "TLS", "TLSRoute")],
)
def test_a_listener_of_another_protocol(
    infra: Api, protocol: Protocol, other: str, kind: str
) -> None:
    gateway(infra, other, "only", kind=kind)
    route(infra, protocol, "stray", {"name": "web"}, sectionName="only")
    wait_route(infra, protocol, "stray", "Accepted", "False", "NotAllowedByListeners")
    wait_listeners(infra, {"only": 0}, [], ("Accepted", "False"))


@BOTH
def test_of_two_routes_the_oldest_has_the_listener(infra: Api, protocol: Protocol) -> None:
    older = backend(infra, "older", protocol)
    backend(infra, "newer", protocol)
    address = gateway(infra, protocol, "one")["one"]
    route(infra, protocol, "z-older", {"name": "older"}, sectionName="one")
    wait_route(infra, protocol, "z-older", "Accepted", "True", "Accepted")
    before = infra.get(f"{protocol}Route", "z-older")["metadata"]["creationTimestamp"]

    def is_newer() -> bool:
        route(infra, protocol, "a-newer", {"name": "newer"}, sectionName="one")
        made = infra.get(f"{protocol}Route", "a-newer")["metadata"]["creationTimestamp"]
        if made > before:
            return True
        infra.delete(f"{protocol}Route", "a-newer")
        return False

    daemon.wait_until(is_newer, "a route is made in a later second")
    for name in ("z-older", "a-newer"):
        wait_route(infra, protocol, name, "Accepted", "True", "Accepted")
    wait_listeners(infra, {"one": 2}, [f"{protocol}Route"], ("Accepted", "True"))
    simulation.wait_up(address, older, protocol=protocol)
    assert {simulation.who(address, protocol=protocol) for _ in range(100)} == older


@BOTH
def test_a_route_attaches_to_every_listener(infra: Api, protocol: Protocol) -> None:
    pods = backend(infra, "web", protocol)
    listeners = gateway(infra, protocol, "one", "two", "three")
    route(infra, protocol, "all", {"name": "web"})
    wait_route(infra, protocol, "all", "Accepted", "True", "Accepted")
    attached = dict.fromkeys(listeners, 1)
    accepted = ("Accepted", "True"), ("ResolvedRefs", "True")
    wait_listeners(infra, attached, [f"{protocol}Route"], *accepted)
    wait_address(infra)
    for address in listeners.values():
        simulation.wait_up(address, pods, protocol=protocol)


@BOTH
def test_a_route_attaches_by_port_and_by_section(infra: Api, protocol: Protocol) -> None:
    pods = {name: backend(infra, name, protocol) for name in ("one", "two", "three")}
    listeners = gateway(infra, protocol, "one", "two", "three")
    (_, first), _, (_, third) = listeners.values()
    parents: dict[str, dict[str, Any]] = {
        "one": {"port": first},
        "two": {"sectionName": "two"},
        "three": {"sectionName": "three", "port": third},
    }
    for name, parent in parents.items():
        route(infra, protocol, name, {"name": name}, **parent)
        wait_route(infra, protocol, name, "Accepted", "True", "Accepted")
        simulation.wait_only(listeners[name], pods[name], protocol)
    wait_listeners(infra, dict.fromkeys(listeners, 1), [f"{protocol}Route"])


@BOTH
def test_a_grant_permits_and_its_removal_revokes(
    infra: Api, elsewhere: Api, protocol: Protocol
) -> None:
    pods = backend(elsewhere, "far", protocol)
    address = gateway(infra, protocol, "one")["one"]
    origin = {"group": GROUP, "kind": f"{protocol}Route", "namespace": infra.namespace}
    target = {"group": "", "kind": "Service", "name": "far"}
    elsewhere.create("ReferenceGrant", "grant", {"spec": {"from": [origin], "to": [target]}})
    far = {"name": "far", "namespace": elsewhere.namespace}
    route(infra, protocol, "across", far, sectionName="one")
    wait_route(infra, protocol, "across", "ResolvedRefs", "True", "ResolvedRefs")
    simulation.wait_up(address, pods, protocol=protocol)
    elsewhere.delete("ReferenceGrant", "grant")
    wait_route(infra, protocol, "across", "ResolvedRefs", "False", "RefNotPermitted")
    simulation.wait_down(address, protocol)


@BOTH
def test_connections_follow_the_weights(infra: Api, protocol: Protocol) -> None:
    weights = {"v1": 70, "v2": 30, "v3": 0}
    pods = {name: backend(infra, name, protocol, 2) for name in weights}
    address = gateway(infra, protocol, "one")["one"]
    refs = [{"name": name, "weight": weight} for name, weight in weights.items()]
    route(infra, protocol, "split", *refs, sectionName="one")
    simulation.wait_up(address, pods["v1"] | pods["v2"], protocol=protocol)
    seen: collections.Counter[str] = collections.Counter()
    version = {pod: name for name, names in pods.items() for pod in names}
    for _ in range(REQUESTS):
        seen[version[simulation.who(address, protocol=protocol)]] += 1
    for name, weight in weights.items():
        assert abs(seen[name] / REQUESTS - weight / 100) <= TOLERANCE, seen


def test_the_class_is_accepted_and_others_are_let_alone(beside: Simulation, infra: Api) -> None:
    theirs = {"spec": {"controllerName": "example.org/gateway"}}
    infra.create("GatewayClass", "theirs", theirs)

    def is_accepted() -> bool:
        conditions = infra.get("GatewayClass", "kproxy")["status"]["conditions"]
        return has(conditions, "Accepted", "True", "Accepted")

    daemon.wait_until(is_accepted, "the class is accepted")
    spec = {
        "gatewayClassName": "theirs",
        "listeners": [{"name": "one", "protocol": "TCP", "port": simulation.free_node_port()}],
    }
    infra.create("Gateway", "gw", {"spec": spec})
    route(infra, Protocol.TCP, "web", {"name": "web"})
    assert has(infra.get("Gateway", "gw")["status"]["conditions"], "Accepted", "Unknown")
    assert "parents" not in infra.get("TCPRoute", "web").get("status", {})
    infra.delete("GatewayClass", "theirs")


def test_what_others_say_in_a_status_stays(beside: Simulation, infra: Api) -> None:
    pods = backend(infra, "web", Protocol.TCP)
    address = gateway(infra, "TCP", "one")["one"]
    theirs = {
        "parentRef": {"name": "mesh", "group": "", "kind": "Service"},
        "controllerName": "example.org/mesh",
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "reason": "Accepted",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    route(infra, Protocol.TCP, "web", {"name": "web"})
    simulation.wait_up(address, pods)
    wait_route(infra, Protocol.TCP, "web", "Accepted", "True", "Accepted")
    ours = infra.get("TCPRoute", "web")["status"]["parents"]
    infra.patch_status("TCPRoute", "web", {"parents": [theirs, *ours]})
    infra.patch("TCPRoute", "web", {"spec": {"parentRefs": [{"name": "gone"}]}})

    def is_left() -> bool:
        found = infra.get("TCPRoute", "web")["status"]["parents"]
        return [each["controllerName"] for each in found] == ["example.org/mesh"]

    daemon.wait_until(is_left, "only the other controller's entry is left")


def test_a_proxy_that_ends_takes_its_address_out_and_brings_it_back(
    beside: Simulation, infra: Api
) -> None:
    pods = backend(infra, "web", Protocol.TCP)
    address = gateway(infra, "TCP", "one")["one"]
    route(infra, Protocol.TCP, "web", {"name": "web"})
    simulation.wait_up(address, pods)
    wait_address(infra)
    beside.stop_proxy()
    assert infra.get("Gateway", "gw")["status"]["addresses"] == []
    beside.start_proxy("node-1")
    wait_address(infra)
    simulation.wait_up(address, pods)
