"""Live changes of every field of a Service, of its endpoints and of the node, in both families.

A random sequence of edits ends as a fresh start does, with whatever an API server would have
refused left out. The first tests are edits that Kubernetes' own tests make (docs/behaviour.md
rows 6, 9, 14 to 16 and 39).

Behaviour: row 10 of docs/behaviour.md.
"""

import copy
from typing import Any, TypeAlias

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.model import addresses, admission, forwarding, names
from kproxy.portal import loopback, portal
from kproxy.reconcile import proxier
from kproxy.sources import store
from tests.reconcile import builders, recording

Document: TypeAlias = dict[str, Any]
NAMES = ("a", "b")
NODE, ZONE = "n1", "z1"
NODES = (
    portal.Node(("192.0.2.5", "2001:db8::5"), ("192.0.2.5/32", "10.244.0.0/16"), ("192.0.2.5",)),
    portal.Node(("192.0.2.6",), ("192.0.2.6/32",), ("192.0.2.6", "2001:db8::5")),
    portal.Node(),
)


class RealAddresses(loopback.LoopbackPortal):
    """Binds every address as it is, in both families, as the local portal does."""

    families = frozenset(addresses.Family)

    def __init__(self, node: portal.Node = NODES[0]) -> None:
        super().__init__(1, portal.Settings())
        self.node = node

    def locate(self, frontend: forwarding.Frontend) -> forwarding.PortalAddress:
        if not frontend.address:
            return super().locate(frontend)
        return forwarding.PortalAddress(frontend.address, frontend.port, frontend.protocol)


class World:
    """Documents into a Store, as admission judges them; messages out of a proxier."""

    def __init__(self, node: portal.Node = NODES[0]) -> None:
        self.documents: dict[tuple[str, str], Document] = {}
        self.store = store.Store()
        self.plane = recording.RecordingPlane()
        self.portal = RealAddresses(node)
        options = builders.options(portal=self.portal, node=NODE, zone=ZONE)
        self.proxier = proxier.Proxier(self.store, self.plane, options)
        self.told: dict[names.ServicePortName, forwarding.SetLocalEndpoints] = {}
        self.near: tuple[str, ...] = ()

    def put(self, document: Document) -> bool:
        """Whether an API server would have taken it; the last good version stays otherwise."""
        (admitted,) = admission.admit(copy.deepcopy(document))
        if admitted.accepted is None:
            return False
        self.documents[document["kind"], document["metadata"]["name"]] = document
        self.proxier.mark(self.store.apply(admitted.accepted))
        return True

    def remove(self, kind: str, name: str) -> None:
        if self.documents.pop((kind, name), None) is not None:
            self.proxier.mark(self.store.delete(kind, builders.named(name)))

    def move(self, node: portal.Node) -> None:
        """The node's addresses have changed."""
        self.portal.node = node
        self.proxier.mark_all()

    def sync(self) -> None:
        self.proxier.sync()
        for message in self.plane.drain():
            match message:
                case forwarding.SetLocalEndpoints(name):
                    self.told[name] = message
                case forwarding.SetNear(networks):
                    self.near = networks
                case forwarding.Forget(name):
                    self.told.pop(name, None)

    def state(self) -> dict[str, object]:
        """All that clients, load balancers and users can see."""
        asked = {
            each.name
            for each in self.plane.open.values()
            if each.frontend.kind is forwarding.FrontendKind.HEALTH_CHECK
        }
        return {
            "open": self.plane.open,
            "backends": self.plane.backends,
            "near": self.near,
            "health": {name: self.told[name] for name in asked},
            "frontends": {
                each.rule.name: self.proxier.frontends(each.rule.name)
                for each in self.proxier.known()
            },
        }

    def open_at(self) -> set[str]:
        return {str(each) for each in self.plane.open}


def service(name: str = "a", /, **spec: Any) -> Document:
    """A dual-stack Service; a value of None takes a field away."""
    number = NAMES.index(name) + 1
    whole = {
        "type": "ClusterIP",
        "clusterIP": f"10.96.0.{number}",
        "clusterIPs": [f"10.96.0.{number}", f"fd00:96::{number}"],
        "ports": [{"name": "http", "port": 80}],
        **spec,
    }
    status = whole.pop("status", None)
    metadata = {"name": name, **(whole.pop("metadata", None) or {})}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {field: value for field, value in whole.items() if value is not None},
        **({"status": status} if status else {}),
    }


def slice_of(
    name: str, family: str, listed: list[Document], ports: list[Document] | None = None
) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{family.lower()}",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family,
        "ports": ports or [{"name": "http", "port": 8080}, {"name": "dns", "port": 53}],
        "endpoints": listed,
    }


def pods(name: str = "a") -> list[Document]:
    """A pod in both families on this node."""
    return [
        slice_of(name, family, [{"addresses": [address], "nodeName": NODE}])
        for family, address in (("IPv4", "10.244.0.1"), ("IPv6", "fd00:244::1"))
    ]


def started(document: Document) -> World:
    world = World()
    for each in (document, *pods()):
        assert world.put(each)
    world.sync()
    return world


def ingress(*entries: Document) -> Document:
    return {"loadBalancer": {"ingress": list(entries)}}


EVERYWHERE = service(
    type="LoadBalancer",
    ports=[{"name": "http", "port": 80, "nodePort": 30080}],
    externalIPs=["203.0.113.1", "2001:db8:1::1"],
    status=ingress(
        {"ip": "198.51.100.1"},
        {"ip": "2001:db8:2::1", "ipMode": "VIP"},
        {"ip": "198.51.100.2", "ipMode": "Proxy"},
        {"hostname": "lb.example.org"},
    ),
)


def test_rows_12_14_15_16_and_39_every_address_of_both_families_is_a_frontend() -> None:
    world = started(EVERYWHERE)
    assert world.open_at() == {
        *("10.96.0.1:80", "[fd00:96::1]:80"),
        *("192.0.2.5:30080", "[2001:db8::5]:30080"),
        *("203.0.113.1:80", "[2001:db8:1::1]:80"),
        *("198.51.100.1:80", "[2001:db8:2::1]:80"),
    }
    for address, opened in world.plane.open.items():
        pool = forwarding.backends_of(
            world.plane.backends[opened.name].pools,
            forwarding.Scope.CLUSTER,
            addresses.family(address.address),
        )
        expected = "fd00:244::1" if ":" in address.address else "10.244.0.1"
        assert pool == (addresses.SocketAddress(expected, 8080),)


def test_row_39_a_service_of_one_family_has_no_node_port_in_the_other() -> None:
    world = started(
        service(
            type="NodePort",
            clusterIPs=["10.96.0.1"],
            ports=[{"name": "http", "port": 80, "nodePort": 30080}],
        )
    )
    assert world.open_at() == {"10.96.0.1:80", "192.0.2.5:30080"}


def test_row_39_a_service_of_one_family_has_no_external_address_of_the_other() -> None:
    both = service(
        type="LoadBalancer",
        clusterIPs=["10.96.0.1", "fd00::1"],
        externalIPs=["203.0.113.1", "2001:db8:113::1"],
        status=ingress({"ip": "198.51.100.1"}, {"ip": "2001:db8:100::1"}),
    )
    one = copy.deepcopy(both)
    one["spec"]["clusterIPs"] = ["10.96.0.1"]
    of_one = {"10.96.0.1:80", "203.0.113.1:80", "198.51.100.1:80"}
    world = started(one)
    assert world.open_at() == of_one
    world.put(both)
    world.sync()
    assert world.open_at() == of_one | {
        "[fd00::1]:80",
        "[2001:db8:113::1]:80",
        "[2001:db8:100::1]:80",
    }
    world.put(one)
    world.sync()
    assert world.open_at() == of_one
    (row,) = (each for each in world.proxier.known() if each.rule.name.port)
    shown = world.proxier.frontends(row.rule.name)
    assert {
        (each.frontend.address, each.state.value)
        for each in shown
        if each.frontend.family is addresses.Family.IPV6
    } == {("2001:db8:113::1", "not-served"), ("2001:db8:100::1", "not-served")}


def test_row_16_an_address_whose_mode_becomes_proxy_is_given_back() -> None:
    vip = {"ip": "198.51.100.1"}
    world = started(service(type="LoadBalancer", status=ingress(vip)))
    assert "198.51.100.1:80" in world.open_at()
    for mode, is_served in (("Proxy", False), ("VIP", True), ("Proxy", False)):
        world.put(service(type="LoadBalancer", status=ingress({**vip, "ipMode": mode})))
        world.sync()
        assert ("198.51.100.1:80" in world.open_at()) is is_served


def test_row_6_of_one_number_in_two_protocols_each_comes_and_goes_alone() -> None:
    tcp = {"name": "http", "port": 53, "protocol": "TCP"}
    udp = {"name": "dns", "port": 53, "protocol": "UDP"}
    world = World()
    endpoints = slice_of(
        "a",
        "IPv4",
        [{"addresses": ["10.244.0.1"]}],
        [{"name": "http", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    )
    world.put(endpoints)
    both = {"10.96.0.1:53", "10.96.0.1:53/UDP"}
    for ports, expected in (
        ([tcp], {"10.96.0.1:53"}),
        ([tcp, udp], both),
        ([udp], {"10.96.0.1:53/UDP"}),
        ([udp, tcp], both),
    ):
        world.put(service(clusterIPs=["10.96.0.1"], ports=ports))
        world.sync()
        assert world.open_at() == expected


def test_row_9_an_address_that_is_taken_away_and_given_back() -> None:
    world = started(service())
    world.put(service(clusterIP="None", clusterIPs=["None"]))
    world.sync()
    assert world.open_at() == set()
    world.put(service())
    world.sync()
    assert world.open_at() == {"10.96.0.1:80", "[fd00:96::1]:80"}


@pytest.mark.parametrize("other", ["ClusterIP", "NodePort", "LoadBalancer"])
def test_row_8_an_external_name_becomes_another_type_and_back(other: str) -> None:
    away = service(
        type="ExternalName", externalName="example.org", clusterIP=None, clusterIPs=None, ports=None
    )
    back = service(type=other, ports=[{"name": "http", "port": 80}])
    if other != "ClusterIP":
        back["spec"]["ports"][0]["nodePort"] = 30080
    world = started(away)
    assert world.open_at() == set()
    for document in (back, away, back):
        world.put(document)
        world.sync()
        assert ("10.96.0.1:80" in world.open_at()) is (document is back)
        is_at_node = document is back and other != "ClusterIP"
        assert ("192.0.2.5:30080" in world.open_at()) is is_at_node


def test_an_address_passes_to_another_service_in_one_sync() -> None:
    world = started(service("a"))
    for each in pods("b"):
        world.put(each)
    world.remove("Service", "a")
    world.put(service("b", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1", "fd00:96::1"]))
    world.sync()
    owners = {str(at): str(opened.name.service) for at, opened in world.plane.open.items()}
    assert owners == {"10.96.0.1:80": "default/b", "[fd00:96::1]:80": "default/b"}


def test_the_proxy_name_label_and_both_policies_are_followed_both_ways() -> None:
    world = started(service())
    elsewhere = {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}
    for metadata, expected in ((elsewhere, 0), (None, 2), (elsewhere, 0)):
        world.put(service(metadata=metadata))
        world.sync()
        assert len(world.open_at()) == expected


# Edits of one field at a time; a value may be wrong beside the other fields, and is left out then.

IPS = ["10.96.0.1", "10.96.0.2", "10.96.0.3"]
FIELDS: dict[str, list[Any]] = {
    "type": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
    "clusterIP": [*IPS, "fd00:96::1", "None", None],
    "clusterIPs": [None, *([ip, "fd00:96::1"] for ip in IPS), ["fd00:96::1", "10.96.0.1"]],
    "ports": [
        [{"name": "http", "port": 80}],
        [{"name": "http", "port": 80, "nodePort": 30080}],
        [{"name": "http", "port": 80, "nodePort": 30081}, {"name": "dns", "port": 53}],
        [
            {"name": "http", "port": 53},
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30080},
        ],
        None,
    ],
    "externalIPs": [None, ["203.0.113.1"], ["203.0.113.1", "2001:db8:1::1"], ["10.96.0.2"]],
    "internalTrafficPolicy": [None, "Cluster", "Local"],
    "externalTrafficPolicy": [None, "Cluster", "Local"],
    "sessionAffinity": [None, "ClientIP", "None"],
    "sessionAffinityConfig": [None, {"clientIP": {"timeoutSeconds": 5}}],
    "loadBalancerSourceRanges": [None, ["192.0.2.0/24"], [" 203.0.113.0/24", "fd00::/8"]],
    "healthCheckNodePort": [None, 30080, 30999],
    "status": [
        None,
        ingress({"ip": "198.51.100.1"}),
        ingress({"ip": "198.51.100.1", "ipMode": "Proxy"}, {"ip": "2001:db8:2::1"}),
    ],
    "metadata": [
        None,
        {"annotations": {"kproxy.io/strategy": "random"}},
        {"labels": {"service.kubernetes.io/service-proxy-name": "other"}},
    ],
}
field_edits = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda field: st.tuples(
        st.just("field"), st.sampled_from(NAMES), st.just(field), st.sampled_from(FIELDS[field])
    )
)
LOCAL = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
TOGETHER: list[Document] = [
    {**LOCAL, "status": FIELDS["status"][1], "healthCheckNodePort": 30999},
    {**LOCAL, "status": FIELDS["status"][2], "loadBalancerSourceRanges": ["192.0.2.0/24"]},
    {"type": "NodePort", "externalTrafficPolicy": "Local", "ports": FIELDS["ports"][1]},
    {"type": "ExternalName", "clusterIP": None, "clusterIPs": None, "ports": None},
    {field: None for field in FIELDS if field not in ("clusterIP", "clusterIPs", "ports")},
]
"""Edits of several fields, for what is allowed together only."""
several_edits = st.tuples(st.just("fields"), st.sampled_from(NAMES), st.sampled_from(TOGETHER))
endpoints = st.fixed_dictionaries(
    {
        "addresses": st.sampled_from([1, 2, 3]),
        "nodeName": st.sampled_from([NODE, "n2"]),
        "conditions": st.sampled_from(
            [{}, {}, {"ready": False}, {"ready": False, "serving": True, "terminating": True}]
        ),
        "hints": st.sampled_from([None, None, {"forZones": [{"name": ZONE}]}]),
    }
)
slice_edits = st.tuples(
    st.just("slice"),
    st.sampled_from(NAMES),
    st.sampled_from(["IPv4", "IPv6"]),
    st.lists(endpoints, max_size=3),
)
other_edits = st.one_of(
    st.tuples(st.just("node"), st.sampled_from(NODES)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES)),
    st.tuples(st.just("sync")),
)
edits = st.one_of(field_edits, field_edits, several_edits, slice_edits, other_edits)


class Edited:
    """A world whose Services are edited field by field."""

    def __init__(self) -> None:
        self.world = World()
        full = {**TOGETHER[0], "ports": FIELDS["ports"][1], "externalIPs": FIELDS["externalIPs"][2]}
        self.specs: dict[str, Document] = {"a": full, "b": dict(TOGETHER[2])}
        for name in NAMES:
            assert self.world.put(service(name, **self.specs[name]))
            for each in pods(name):
                self.world.put(each)

    def edit(self, what: str, *rest: Any) -> None:
        match what, *rest:
            case "field", name, field, value:
                self.edit("fields", name, {field: value})
            case "fields", name, values:
                wanted = {**self.specs[name], **values}
                if self.world.put(service(name, **wanted)):
                    self.specs[name] = wanted
            case "slice", name, family, listed:
                prefix = "10.244.0." if family == "IPv4" else "fd00:244::"
                written = [
                    {**each, "addresses": [f"{prefix}{each['addresses']}"]} for each in listed
                ]
                self.world.put(slice_of(name, family, written))
            case "node", node:
                self.world.move(node)
            case "remove", name:
                self.world.remove("Service", name)
            case "sync":
                self.world.sync()


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.lists(edits, min_size=1, max_size=25))
def test_any_sequence_of_edits_ends_as_a_fresh_start_does(history: list[Any]) -> None:
    edited = Edited()
    edited.world.sync()
    for each in history:
        edited.edit(*each)
    edited.world.sync()

    fresh = World(edited.world.portal.node)
    for document in edited.world.documents.values():
        assert fresh.put(document)
    fresh.sync()
    assert edited.world.state() == fresh.state()
