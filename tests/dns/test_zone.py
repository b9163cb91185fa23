"""Every record of kubernetes/dns's specification 1.1.0, as dnspython reads the answers."""

import ipaddress
import itertools
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from kproxy.dns import index, wire, zone
from kproxy.model.kinds import service_kind
from kproxy.portal import loopback
from tests.dns import test_located
from tests.dns.rig import lab

OBJECTS = """
apiVersion: v1
kind: Service
metadata: {name: redis}
spec:
  clusterIP: 10.96.0.20
  ports: [{name: main, port: 6379}, {name: sync, port: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.21
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  ports: [{name: pg, port: 5432}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-1
  labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ""}
addressType: IPv4
ports: [{name: pg, port: 15432}]
endpoints:
- {addresses: [10.244.0.3], hostname: db-0}
- {addresses: [10.244.0.4]}
- {addresses: [10.244.0.5], hostname: db-2, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-6
  labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ""}
addressType: IPv6
ports: [{name: pg, port: 15432}]
endpoints:
- {addresses: ["fd00::3"], hostname: db-0}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Service
metadata: {name: ours}
spec: {type: ExternalName, externalName: redis.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: theirs}
spec: {type: ExternalName, externalName: www.Example.com}
---
apiVersion: v1
kind: Service
metadata: {name: round}
spec: {type: ExternalName, externalName: about.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: about}
spec: {type: ExternalName, externalName: round.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {clusterIP: 10.96.0.22, ports: [{port: 80}]}
"""
SERVED = "127.96.0.20"
NX = ["NXDOMAIN"]


@pytest.fixture(scope="module")
def names() -> lab.Lab:
    """A name server for `OBJECTS`. Nothing is changed in it."""
    return lab.Lab(OBJECTS)


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        ("dns-version.cluster.local", "TXT", ['"1.1.0"']),
        # 2.3: Services with a ClusterIP, at the address that this proxy serves.
        ("redis.default.svc.cluster.local", "A", [SERVED]),
        ("redis.default.svc.cluster.local", "AAAA", []),
        ("redis.default.svc", "A", [SERVED]),
        ("web.shop.svc.cluster.local", "A", ["127.96.0.21"]),
        ("elsewhere.default.svc.cluster.local", "A", ["10.96.0.22"]),
        (
            "_main._tcp.redis.default.svc.cluster.local",
            "SRV",
            ["0 100 6379 redis.default.svc.cluster.local."],
        ),
        (
            "_sync._udp.redis.default.svc.cluster.local",
            "SRV",
            ["0 100 7000 redis.default.svc.cluster.local."],
        ),
        (
            "redis.default.svc.cluster.local",
            "SRV",
            [
                "0 100 6379 redis.default.svc.cluster.local.",
                "0 100 7000 redis.default.svc.cluster.local.",
            ],
        ),
        ("_main._udp.redis.default.svc.cluster.local", "SRV", NX),
        ("_._tcp.web.shop.svc.cluster.local", "SRV", NX),
        ("20.0.96.127.in-addr.arpa", "PTR", ["redis.default.svc.cluster.local."]),
        ("20.0.96.10.in-addr.arpa", "PTR", ["redis.default.svc.cluster.local."]),
        ("99.0.96.127.in-addr.arpa", "PTR", NX),
        # 2.4: headless Services, at their endpoints' own addresses.
        ("db.default.svc.cluster.local", "A", ["10.244.0.3", "10.244.0.4"]),
        ("db.default.svc.cluster.local", "AAAA", ["fd00::3"]),
        ("db-0.db.default.svc.cluster.local", "A", ["10.244.0.3"]),
        ("db-0.db.default.svc.cluster.local", "AAAA", ["fd00::3"]),
        ("10-244-0-4.db.default.svc.cluster.local", "A", ["10.244.0.4"]),
        ("10-244-0-4.db.default.svc.cluster.local", "AAAA", []),
        ("db-2.db.default.svc.cluster.local", "A", NX),
        (
            "_pg._tcp.db.default.svc.cluster.local",
            "SRV",
            [
                "0 100 15432 10-244-0-4.db.default.svc.cluster.local.",
                "0 100 15432 db-0.db.default.svc.cluster.local.",
            ],
        ),
        ("3.0.244.10.in-addr.arpa", "PTR", ["db-0.db.default.svc.cluster.local."]),
        ("4.0.244.10.in-addr.arpa", "PTR", ["10-244-0-4.db.default.svc.cluster.local."]),
        (
            ipaddress.ip_address("fd00::3").reverse_pointer,
            "PTR",
            ["db-0.db.default.svc.cluster.local."],
        ),
        ("empty.default.svc.cluster.local", "A", NX),
        # 2.5: names of elsewhere.
        ("ours.default.svc.cluster.local", "A", [SERVED, "redis.default.svc.cluster.local."]),
        ("ours.default.svc.cluster.local", "CNAME", ["redis.default.svc.cluster.local."]),
        ("theirs.default.svc.cluster.local", "A", ["www.example.com."]),
        ("x.theirs.default.svc.cluster.local", "A", NX),
        # 2.6: pods.
        ("10-1-2-3.default.pod.cluster.local", "A", ["10.1.2.3"]),
        ("fd00--7.default.pod.cluster.local", "AAAA", ["fd00::7"]),
        ("10-1-2-300.default.pod.cluster.local", "A", NX),
        ("010-1-2-3.default.pod.cluster.local", "A", NX),
        # What is no name, or only a part of one.
        ("nope.default.svc.cluster.local", "A", NX),
        ("redis.nope.svc.cluster.local", "A", NX),
        ("nope.svc.cluster.local", "A", NX),
        ("x.redis.default.svc.cluster.local", "A", NX),
        ("x.y.redis.default.svc.cluster.local", "A", NX),
        ("redis.default.cluster.local", "A", NX),
        ("default.svc.cluster.local", "A", []),
        ("svc.cluster.local", "A", []),
        ("svc", "A", []),
        ("pod.cluster.local", "A", []),
        ("default.pod.cluster.local", "A", []),
        ("_tcp.redis.default.svc.cluster.local", "A", []),
        ("_tcp.db.default.svc.cluster.local", "A", []),
        ("dns.cluster.local", "A", []),
        ("ns.dns.cluster.local", "A", ["127.0.0.1"]),
        ("cluster.local", "NS", ["ns.dns.cluster.local."]),
        ("cluster.local", "A", []),
        # Wildcards mean nothing.
        ("*.default.svc.cluster.local", "A", NX),
        ("redis.*.svc.cluster.local", "A", NX),
        ("redis.any.svc.cluster.local", "A", NX),
        ("any.default.svc.cluster.local", "A", NX),
        ("_any._tcp.redis.default.svc.cluster.local", "SRV", NX),
        ("_main._any.redis.default.svc.cluster.local", "SRV", NX),
        # RFC 8482.
        ("redis.default.svc.cluster.local", "ANY", ['"RFC8482" ""']),
        # Not this server's.
        ("www.example.com", "A", ["REFUSED"]),
        ("local", "A", ["REFUSED"]),
        ("xcluster.local", "A", ["REFUSED"]),
        ("9.9.9.9.in-addr.arpa", "PTR", ["REFUSED"]),
        (".", "NS", ["REFUSED"]),
    ],
)
def test_records(names: lab.Lab, name: str, type_: str, expected: list[str]) -> None:
    assert names.records(name, type_) == expected


@pytest.mark.parametrize("name", ["nope.default.svc.cluster.local", "default.svc.cluster.local"])
def test_what_is_not_there_comes_with_the_zones_soa(names: lab.Lab, name: str) -> None:
    response = names.ask(name)

    (soa,) = response.authority
    assert soa.name.to_text() == "cluster.local."
    assert soa.rdtype == dns.rdatatype.SOA
    assert not response.answer


def test_without_the_zone_the_soa_is_that_of_svc(names: lab.Lab) -> None:
    (soa,) = names.ask("nope.default.svc").authority

    assert soa.name.to_text() == "svc."


def test_the_letters_of_the_question_stay(names: lab.Lab) -> None:
    for name in ("ReDiS.DEFAULT.svc.cluster.LOCAL.", "redis.Default.svc.cluster.local."):
        response = names.ask(name)

        assert response.question[0].name.to_text() == name
        assert response.answer[0].name.to_text() == name
        assert response.flags & dns.flags.AA


def test_srv_records_come_with_the_addresses_of_their_targets(names: lab.Lab) -> None:
    response = names.ask("_pg._tcp.db.default.svc.cluster.local", "SRV")

    found = {
        (rrset.name.to_text(), data.to_text()) for rrset in response.additional for data in rrset
    }
    assert found == {
        ("db-0.db.default.svc.cluster.local.", "10.244.0.3"),
        ("db-0.db.default.svc.cluster.local.", "fd00::3"),
        ("10-244-0-4.db.default.svc.cluster.local.", "10.244.0.4"),
    }


def test_a_port_that_the_portal_has_moved_is_said_by_srv() -> None:
    moved = lab.Lab(
        """
        apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec: {clusterIP: 10.96.0.21, ports: [{name: http, port: 80}]}
        """,
        through=loopback.LoopbackPortal(1024),
    )

    assert moved.records("_http._tcp.web.default.svc.cluster.local", "SRV") == [
        "0 100 10080 web.default.svc.cluster.local."
    ]


@pytest.mark.parametrize("type_", ["A", "AAAA"])
def test_the_addresses_of_a_headless_service_take_turns_at_being_the_first(type_: str) -> None:
    numbers = itertools.count()
    names = lab.Lab(OBJECTS, turn=lambda: next(numbers))
    labels = {"kubernetes.io/service-name": "db", "service.kubernetes.io/headless": ""}
    found = ["fd00::3", "fd00::4"] if type_ == "AAAA" else ["10.244.0.3", "10.244.0.4"]
    names.put(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": labels},
            "addressType": family,
            "endpoints": [{"addresses": [each]} for each in listed],
        }
        for name, family, listed in (
            ("db-1", "IPv4", ["10.244.0.3", "10.244.0.4"]),
            ("db-6", "IPv6", ["fd00::3", "fd00::4"]),
        )
    )

    firsts = [
        names.ask("db.default.svc.cluster.local", type_).answer[0][0].to_text() for _ in range(4)
    ]

    assert firsts == found * 2


def test_cnames_in_a_circle_end(names: lab.Lab) -> None:
    response = names.ask("round.default.svc.cluster.local")

    assert response.rcode() == dns.rcode.NOERROR
    assert [rrset.name.to_text() for rrset in response.answer] == [
        "round.default.svc.cluster.local.",
        "about.default.svc.cluster.local.",
    ]


@pytest.mark.parametrize(
    "service",
    [
        {"metadata": {}, "spec": {"publishNotReadyAddresses": True}},
        {"metadata": {"annotations": {service_kind.ANNOTATION_TOLERATE_UNREADY: "true"}}},
    ],
)
def test_endpoints_that_are_not_ready_have_names_where_a_service_says_so(
    service: dict[str, Any],
) -> None:
    names = lab.Lab(OBJECTS)
    metadata = {"name": "db", **service["metadata"]}
    spec = {"clusterIP": "None", **service.get("spec", {})}
    names.put([{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}])

    assert names.records("db-2.db.default.svc.cluster.local") == ["10.244.0.5"]
    assert len(names.records("db.default.svc.cluster.local")) == 3


def test_a_headless_service_needs_no_ports_and_no_label_at_its_slices() -> None:
    names = lab.Lab(
        """
        apiVersion: v1
        kind: Service
        metadata: {name: peers}
        spec: {clusterIP: None}
        ---
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata: {name: peers-1, labels: {kubernetes.io/service-name: peers}}
        addressType: IPv4
        endpoints: [{addresses: [10.244.0.9]}]
        """.replace("\n        ", "\n")
    )

    assert names.records("peers.default.svc.cluster.local") == ["10.244.0.9"]
    assert names.records("10-244-0-9.peers.default.svc.cluster.local") == ["10.244.0.9"]


def test_endpoints_objects_count_where_there_are_no_slices() -> None:
    names = lab.Lab(
        """
        apiVersion: v1
        kind: Service
        metadata: {name: old}
        spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
        ---
        apiVersion: v1
        kind: Endpoints
        metadata: {name: old, labels: {service.kubernetes.io/headless: ""}}
        subsets:
        - addresses: [{ip: 10.244.0.7, hostname: old-0}]
          notReadyAddresses: [{ip: 10.244.0.8, hostname: old-1}]
          ports: [{name: pg, port: 5432}]
        """.replace("\n        ", "\n")
    )

    assert names.records("old.default.svc.cluster.local") == ["10.244.0.7"]
    assert names.records("_pg._tcp.old.default.svc.cluster.local", "SRV") == [
        "0 100 5432 old-0.old.default.svc.cluster.local."
    ]


def test_a_dual_stack_service_has_addresses_of_both_families() -> None:
    names = lab.Lab(
        """
        apiVersion: v1
        kind: Service
        metadata: {name: both}
        spec:
          clusterIP: 10.96.0.40
          clusterIPs: [10.96.0.40, "fd00:10:96::40"]
          ports: [{name: http, port: 80}]
        """,
        through=test_located.Everywhere(1),
    )
    name = "both.default.svc.cluster.local"
    reverse = ipaddress.ip_address("fd00:10:96::40").reverse_pointer

    assert names.records(name, "A") == ["10.96.0.40"]
    assert names.records(name, "AAAA") == ["fd00:10:96::40"]
    assert names.records(reverse, "PTR") == [f"{name}."]
    assert names.records(f"_http._tcp.{name}", "SRV") == [f"0 100 80 {name}."]


def test_another_zone() -> None:
    names = lab.Lab(OBJECTS, domain="k8s.example")

    assert names.records("redis.default.svc.k8s.example") == [SERVED]
    assert names.records("redis.default.svc.cluster.local") == ["REFUSED"]


def test_a_name_that_no_message_can_hold_is_left_out() -> None:
    names = lab.Lab(OBJECTS, domain=".".join(["d" * 60] * 3))
    names.apply(
        f"""
        apiVersion: v1
        kind: Service
        metadata: {{name: {"s" * 63}, namespace: {"n" * 10}}}
        spec: {{clusterIP: 10.96.0.30, ports: [{{name: http, port: 80}}]}}
        """
    )

    assert names.records("30.0.96.127.in-addr.arpa", "PTR") == NX


def test_the_records_of_a_huge_headless_service_are_bounded() -> None:
    labels = {"kubernetes.io/service-name": "db"}
    ports = [{"name": f"p{number}", "port": number} for number in range(1, 101)]
    hosts = [
        {"addresses": [f"10.9.{number // 250}.{number % 250}"], "hostname": f"h{number % 2500}"}
        for number in range(5000)
    ]
    made = lab.Lab()
    made.apply("{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: None}}")
    made.put(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"db-{part}", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": hosts[part : part + 1000],
        }
        for part in range(0, 5000, 1000)
    )

    def found(name: str) -> zone.Answer:
        question = wire.read(dns.message.make_query(name, "SRV").to_wire()).name
        answer = made.zone.answer(question, wire.Type.SRV)
        assert answer is not None
        return answer

    every = found("db.default.svc.cluster.local")
    last = found("_p100._tcp.db.default.svc.cluster.local")

    assert len(every.answers) == zone.MOST_SRV
    assert 2000 <= len(last.answers) <= zone.MOST_SRV
    assert len(last.additional) <= index.MOST_READY
    response = made.ask("_p100._tcp.db.default.svc.cluster.local", "SRV")
    assert response.flags & dns.flags.TC
    assert {data.port for rrset in response.answer for data in rrset} == {100}
