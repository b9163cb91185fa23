"""Services: API defaults and kube-apiserver's rules, as seen through `admission.admit`.

Behaviour: rows 2 and 16 of docs/behaviour.md.
"""

import json
from typing import Any

import pytest

from kproxy.model import admission, names, objects
from kproxy.model.kinds import services


def service(**spec: Any) -> dict[str, Any]:
    """A good Service with `spec` on top; a value of `...` takes the field away."""
    whole = {"clusterIP": "10.0.0.1", "ports": [{"port": 80}], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {field: value for field, value in whole.items() if value is not ...},
    }


def admit(raw: object) -> admission.Admission:
    (admitted,) = admission.admit(raw)
    return admitted


def accepted(raw: object) -> services.Service:
    admitted = admit(raw)
    assert isinstance(admitted.accepted, services.Service), admitted.finding
    return admitted.accepted


def complaint(raw: object) -> str:
    """What is said of an object that must be invalid."""
    admitted = admit(raw)
    assert admitted.accepted is None
    assert admitted.finding is not None
    assert admitted.finding.severity is admission.Severity.ERROR
    return admitted.finding.text


def two(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "a", "port": 80, **first}, {"name": "b", "port": 81, **second}]


def test_a_minimal_service_gets_the_api_defaults() -> None:
    assert accepted(service()) == services.Service(
        name=names.NamespacedName("default", "web"),
        type=services.ServiceType.CLUSTER_IP,
        cluster_ip="10.0.0.1",
        ports=(services.ServicePort("", names.Protocol.TCP, 80, 0),),
    )


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        pytest.param({}, None, id="nothing said"),
        pytest.param({"sessionAffinity": ""}, None, id="empty"),
        pytest.param({"sessionAffinity": None}, None, id="null"),
        pytest.param({"sessionAffinity": "None"}, None, id="None"),
        pytest.param({"sessionAffinity": "ClientIP"}, 10800, id="no config"),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": None}, 10800, id="null config"
        ),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {}}, 10800, id="empty config"
        ),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}},
            10800,
            id="null clientIP",
        ),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}},
            10800,
            id="empty clientIP",
        ),
        pytest.param(
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": None}},
            },
            10800,
            id="null timeout",
        ),
        *(
            pytest.param(
                {
                    "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
                },
                seconds,
                id=f"timeout {seconds}",
            )
            for seconds in (1, 60, 86400)
        ),
    ],
)
def test_affinity_timeout_defaults_at_every_level(
    spec: dict[str, Any], seconds: int | None
) -> None:
    assert accepted(service(**spec)).affinity_seconds == seconds


def test_an_affinity_config_without_affinity_is_cleared_and_noted() -> None:
    raw = service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 99}})
    assert accepted(raw).affinity_seconds is None
    finding = admit(raw).finding
    assert finding is not None
    assert finding.severity is admission.Severity.NOTE
    assert "sessionAffinityConfig has no effect" in finding.text


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        pytest.param({"ports": [{"port": 0}]}, "spec.ports[0].port is 0", id="port 0"),
        pytest.param({"ports": [{"port": -1}]}, "spec.ports[0].port is -1", id="port -1"),
        pytest.param({"ports": [{"port": 65536}]}, "spec.ports[0].port is 65536", id="port 65536"),
        pytest.param(
            {"ports": [{"port": 10**40}]}, "spec.ports[0].port is a huge number", id="huge port"
        ),
        pytest.param({"ports": [{}]}, "spec.ports[0].port is absent", id="no port"),
        pytest.param({"ports": [{"port": None}]}, "spec.ports[0].port is absent", id="port null"),
        pytest.param(
            {"ports": [{"port": "80"}]},
            'spec.ports[0].port is "80" but must be an integer',
            id="port a string",
        ),
        pytest.param(
            {"ports": [{"port": 80}, {"port": True}]},
            "spec.ports[1].port is true but must be an integer",
            id="port a boolean",
        ),
        pytest.param(
            {"ports": {"port": 80}},
            "spec.ports is a mapping but must be a list",
            id="ports a mapping",
        ),
        pytest.param({"ports": []}, "spec.ports is absent", id="empty ports"),
        pytest.param({"ports": ...}, "spec.ports is absent", id="no ports"),
        pytest.param(
            {"ports": [{"port": 80}, {"port": 81}]},
            "spec.ports[0].name is absent but must be given",
            id="two unnamed ports",
        ),
        pytest.param(
            {"ports": two({}, {"name": ""})}, "spec.ports[1].name is absent", id="one unnamed port"
        ),
        pytest.param(
            {"ports": two({}, {"name": "a"})},
            'spec.ports[1].name is "a" but must be unique',
            id="duplicate name",
        ),
        pytest.param(
            {"ports": two({}, {"port": 80})},
            "spec.ports[1].port is 80 but must be unique in TCP",
            id="duplicate port",
        ),
        pytest.param(
            {"type": "NodePort", "ports": two({"nodePort": 30000}, {"nodePort": 30000})},
            "spec.ports[1].nodePort is 30000 but must be unique in TCP",
            id="duplicate node port",
        ),
        pytest.param(
            {"ports": [{"name": "Web", "port": 80}]},
            'spec.ports[0].name is "Web"',
            id="port name in capitals",
        ),
        pytest.param(
            {"ports": [{"name": "a" * 64, "port": 80}]}, "spec.ports[0].name", id="long port name"
        ),
        pytest.param(
            {"ports": [{"name": "a-", "port": 80}]}, "spec.ports[0].name", id="hyphen at the end"
        ),
        pytest.param(
            {"ports": [{"name": "a\n", "port": 80}]}, 'name is "a\\n"', id="newline after the name"
        ),
        pytest.param(
            {"ports": [{"port": 80, "protocol": "tcp"}]},
            'spec.ports[0].protocol is "tcp" but must be TCP, UDP or SCTP',
            id="lower-case protocol",
        ),
        pytest.param(
            {"ports": [{"port": 80, "protocol": "ICMP"}]}, 'is "ICMP"', id="unknown protocol"
        ),
        pytest.param(
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 65536}]},
            "spec.ports[0].nodePort is 65536",
            id="node port too large",
        ),
        pytest.param(
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": -1}]},
            "spec.ports[0].nodePort is -1",
            id="node port negative",
        ),
        pytest.param(
            {"ports": [{"port": 80, "nodePort": 30000}]},
            "spec.ports[0].nodePort is 30000 but must be absent for type ClusterIP",
            id="node port without a node port type",
        ),
        pytest.param(
            {"clusterIP": "999.1.1.1"}, 'spec.clusterIP is "999.1.1.1"', id="clusterIP no address"
        ),
        pytest.param({"clusterIP": "none"}, 'spec.clusterIP is "none"', id="clusterIP none"),
        pytest.param({"clusterIP": " 10.0.0.1"}, 'is " 10.0.0.1"', id="clusterIP with a space"),
        pytest.param({"clusterIP": "fe80::1%eth0"}, "spec.clusterIP", id="clusterIP with a zone"),
        pytest.param(
            {"clusterIP": "0.0.0.0"}, "must not be an unspecified", id="clusterIP unspecified"
        ),
        pytest.param(
            {"clusterIP": "224.0.0.1"}, "must not be a multicast", id="clusterIP multicast"
        ),
        pytest.param(
            {"clusterIP": "None", "type": "NodePort"},
            'spec.clusterIP is "None" but must be an IP address for type NodePort',
            id="headless node port",
        ),
        pytest.param({"type": "clusterip"}, 'spec.type is "clusterip"', id="type in lower case"),
        pytest.param({"type": 1}, "spec.type is 1 but must be a string", id="type a number"),
        pytest.param(
            {"sessionAffinity": "Cookie"}, 'sessionAffinity is "Cookie"', id="unknown affinity"
        ),
        *(
            pytest.param(
                {
                    "sessionAffinity": "ClientIP",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
                },
                f"timeoutSeconds is {seconds} but must be from 1 to 86400",
                id=f"timeout {seconds}",
            )
            for seconds in (0, -1, 86401)
        ),
        pytest.param(
            {"externalIPs": ["192.0.2.1", "host"]},
            'spec.externalIPs[1] is "host" but must be an IP address',
            id="external IP a name",
        ),
        pytest.param(
            {"externalIPs": ["127.0.0.1"]},
            "spec.externalIPs[0]",
            id="external IP loopback",
        ),
        pytest.param(
            {"internalTrafficPolicy": "local"}, "spec.internalTrafficPolicy", id="internal policy"
        ),
        pytest.param(
            {"type": "NodePort", "externalTrafficPolicy": "Global"},
            "spec.externalTrafficPolicy",
            id="external policy",
        ),
        pytest.param(
            {"externalTrafficPolicy": "Local"},
            "spec.externalTrafficPolicy",
            id="external policy of an internal Service",
        ),
    ],
)
def test_a_broken_rule_names_field_and_value(spec: dict[str, Any], where: str) -> None:
    assert where in complaint(service(**spec))


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        pytest.param(None, "metadata.name is absent", id="no metadata"),
        pytest.param({}, "metadata.name is absent", id="empty metadata"),
        pytest.param({"name": ""}, "metadata.name is absent", id="empty name"),
        pytest.param({"name": 80}, "metadata.name is 80 but must be a string", id="number"),
        pytest.param({"name": "Web"}, "must be a DNS-1123 label", id="capital"),
        pytest.param({"name": "a.b"}, "must be a DNS-1123 label", id="dot"),
        pytest.param({"name": "a" * 64}, "must be a DNS-1123 label", id="too long"),
        pytest.param({"name": "web", "namespace": "A"}, "metadata.namespace", id="namespace"),
        pytest.param(
            {"name": "web", "labels": {"a": "b", "v": 1.1}},
            'metadata.labels["v"] is 1.1 but must be a string',
            id="label a number",
        ),
        pytest.param(
            {"name": "web", "labels": ["a"]},
            "metadata.labels is a list but must be a mapping",
            id="labels a list",
        ),
        pytest.param(
            {"name": "web", "annotations": {"kproxy.io/strategy": "fastest"}},
            'metadata.annotations["kproxy.io/strategy"] is "fastest"',
            id="strategy",
        ),
        pytest.param(
            {"name": "web", "annotations": {"kproxy.io/strategy": ""}},
            'metadata.annotations["kproxy.io/strategy"] is ""',
            id="empty strategy",
        ),
    ],
)
def test_broken_metadata_is_named(metadata: object, where: str) -> None:
    assert where in complaint({**service(), "metadata": metadata})


def test_an_object_with_several_faults_is_complained_of_once() -> None:
    raw = service(clusterIP="x", ports=[{"port": 0, "protocol": "tcp"}])
    text = complaint(raw)
    assert all(field in text for field in ("clusterIP", "ports[0].port", "ports[0].protocol"))


def test_a_flood_of_faults_is_counted_not_spelled_out() -> None:
    raw = service(ports=[{"name": f"p{n}", "port": 0} for n in range(1, 101)])
    text = complaint(raw)
    assert "; and 95 more" in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        pytest.param(
            {"ports": [{"port": 1, "protocol": None}]}, [("", "TCP", 1, 0)], id="protocol null"
        ),
        pytest.param({"ports": [{"port": 1, "protocol": ""}]}, [("", "TCP", 1, 0)], id="empty"),
        pytest.param(
            {"ports": [{"port": 65535, "protocol": "SCTP"}]}, [("", "SCTP", 65535, 0)], id="SCTP"
        ),
        pytest.param(
            {"ports": two({"port": 53}, {"port": 53, "protocol": "UDP"})},
            [("a", "TCP", 53, 0), ("b", "UDP", 53, 0)],
            id="one number on two protocols",
        ),
        pytest.param(
            {"type": "NodePort", "ports": two({"nodePort": 30000}, {"nodePort": 0})},
            [("a", "TCP", 80, 30000), ("b", "TCP", 81, 0)],
            id="node port",
        ),
        pytest.param(
            {"type": "NodePort", "ports": two({}, {})},
            [("a", "TCP", 80, 0), ("b", "TCP", 81, 0)],
            id="two ports without a node port",
        ),
        pytest.param(
            {"ports": [{"port": 80, "targetPort": "web", "appProtocol": 7}]},
            [("", "TCP", 80, 0)],
            id="fields a proxy does not read",
        ),
    ],
)
def test_ports_are_read(spec: dict[str, Any], ports: list[tuple[str, str, int, int]]) -> None:
    read = accepted(service(**spec)).ports
    assert [(port.name, port.protocol, port.port, port.node_port) for port in read] == ports


@pytest.mark.parametrize(
    ("spec", "cluster_ip"),
    [
        pytest.param({"clusterIP": "None"}, "", id="headless"),
        pytest.param({"clusterIP": "None", "ports": ...}, "", id="headless without ports"),
        pytest.param({"clusterIP": ...}, "", id="no clusterIP"),
        pytest.param({"clusterIP": ""}, "", id="empty clusterIP"),
        pytest.param({"type": "ExternalName", "ports": ...}, "", id="ExternalName"),
        pytest.param({"type": "ExternalName", "clusterIP": "10.0.0.1"}, "", id="ExternalName, IP"),
        pytest.param({"type": ""}, "10.0.0.1", id="empty type"),
        pytest.param({"clusterIP": "FD00::0:1"}, "fd00::1", id="IPv6"),
        pytest.param({"clusterIP": "127.96.0.1"}, "127.96.0.1", id="simulated cluster"),
    ],
)
def test_a_service_is_proxied_when_it_has_a_cluster_ip(
    spec: dict[str, Any], cluster_ip: str
) -> None:
    read = accepted(service(**spec))
    assert read.cluster_ip == cluster_ip
    assert read.is_proxied == bool(cluster_ip)


@pytest.mark.parametrize(
    ("spec", "wants"),
    [
        pytest.param({"clusterIP": ...}, (True, False), id="no cluster IP"),
        pytest.param({"clusterIP": ""}, (True, False), id="empty cluster IP"),
        pytest.param({"clusterIP": None}, (True, False), id="null cluster IP"),
        pytest.param({"clusterIP": "None"}, (False, False), id="headless"),
        pytest.param({"type": "NodePort"}, (False, True), id="node port"),
        pytest.param({"type": "LoadBalancer", "clusterIP": ...}, (True, True), id="balancer"),
        pytest.param(
            {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False},
            (False, False),
            id="balancer without node ports",
        ),
        pytest.param(
            {"type": "ExternalName", "clusterIP": ..., "ports": ...}, (False, False), id="name"
        ),
    ],
)
def test_what_an_api_server_would_allocate_is_wanted(
    spec: dict[str, Any], wants: tuple[bool, bool]
) -> None:
    read = accepted(service(**spec))
    assert (read.wants_cluster_ip, read.wants_node_ports) == wants


def test_names_may_start_with_a_digit_as_since_kubernetes_1_34() -> None:
    raw = {**service(), "metadata": {"name": "3scale"}}
    assert accepted(raw).name.name == "3scale"


@pytest.mark.parametrize("spec", ["clusterIP", "sessionAffinity", "externalIPs", "type"])
def test_null_means_absent_in_a_service(spec: str) -> None:
    assert accepted(service(**{spec: None})) == accepted(service(**{spec: ...}))


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"annotations": {"a": None}}, id="annotation"),
        pytest.param({"labels": {"a": None, "b": "c"}}, id="label"),
        pytest.param({"labels": None, "annotations": None}, id="all"),
        pytest.param({"annotations": {"kproxy.io/strategy": None}}, id="one of ours"),
        pytest.param({"namespace": None, "creationTimestamp": None}, id="fields"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_null_means_absent_in_metadata(metadata: dict[str, Any], *, as_json: bool) -> None:
    raw: Any = {**service(), "metadata": {"name": "web", **metadata}, "status": None}
    if as_json:
        raw = objects.json_object(json.dumps(raw).encode())
    assert accepted(raw).strategy is None


@pytest.mark.parametrize("as_json", [False, True])
def test_a_number_that_is_integral_is_an_integer_and_no_other(*, as_json: bool) -> None:
    def raw(port: float) -> Any:
        made = service(ports=[{"port": port}])
        return objects.json_object(json.dumps(made).encode()) if as_json else made

    assert [port.port for port in accepted(raw(80.0)).ports] == [80]
    assert "spec.ports[0].port is 80.5 but must be an integer" in complaint(raw(80.5))


@pytest.mark.parametrize(
    ("labels", "proxied"),
    [
        pytest.param(
            {"service.kubernetes.io/service-proxy-name": "other"}, False, id="other proxy"
        ),
        pytest.param({"service.kubernetes.io/service-proxy-name": ""}, False, id="any value"),
        pytest.param({"service.kubernetes.io/headless": ""}, True, id="headless counts on slices"),
        pytest.param({"app": "web"}, True, id="unrelated"),
        pytest.param(None, True, id="null"),
    ],
)
def test_labels_decide_whose_service_it_is(labels: object, proxied: bool) -> None:
    raw = {**service(), "metadata": {"name": "web", "labels": labels}}
    assert accepted(raw).is_proxied is proxied


def test_external_and_load_balancer_addresses_are_virtual_addresses_too() -> None:
    raw = service(type="LoadBalancer", externalIPs=["192.0.2.10", "2001:DB8::1"])
    raw["status"] = {
        "loadBalancer": {
            "ingress": [
                {"ip": "203.0.113.7"},
                {"hostname": "lb.example.net"},
                {"ip": "203.0.113.8", "ipMode": "Proxy"},
                {"ip": "203.0.113.9", "ipMode": "VIP"},
            ]
        }
    }
    read = accepted(raw)
    assert read.external_ips == ("192.0.2.10", "2001:db8::1")
    assert read.load_balancer_ips == ("203.0.113.7", "203.0.113.9")


def test_an_address_that_is_named_twice_is_one_address() -> None:
    twice = ["2001:db8::1", "192.0.2.10", "2001:DB8:0::1", "::ffff:192.0.2.10"]
    raw = service(type="LoadBalancer", externalIPs=twice)
    raw["status"] = {"loadBalancer": {"ingress": [{"ip": each} for each in twice]}}
    read = accepted(raw)
    assert read.external_ips == read.load_balancer_ips == ("2001:db8::1", "192.0.2.10")


@pytest.mark.parametrize("ip", ["lb", "0.0.0.0", "224.0.0.1"])
def test_a_load_balancer_address_must_be_one_hosts(ip: str) -> None:
    raw = {**service(), "status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}
    assert "status.loadBalancer.ingress[0].ip" in complaint(raw)


def test_policies_and_strategy_are_read() -> None:
    raw = service(type="NodePort", externalTrafficPolicy="Local", internalTrafficPolicy="Local")
    raw["metadata"]["annotations"] = {"kproxy.io/strategy": "random"}
    read = accepted(raw)
    assert read.external_policy is services.TrafficPolicy.LOCAL
    assert read.internal_policy is services.TrafficPolicy.LOCAL
    assert read.strategy is services.Strategy.RANDOM


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(["10.0.9.1"], ("10.0.9.1",), id="one"),
        pytest.param(["10.0.9.1", "FD00::0:1"], ("10.0.9.1", "fd00::1"), id="dual-stack"),
        pytest.param(None, ("10.0.9.1",), id="absent"),
    ],
)
def test_all_cluster_ips_are_kept(given: list[str] | None, kept: tuple[str, ...]) -> None:
    assert accepted(service(clusterIP="10.0.9.1", clusterIPs=given)).cluster_ips == kept


def test_a_headless_service_has_no_cluster_ips() -> None:
    assert accepted(service(clusterIP="None", clusterIPs=["None"])).cluster_ips == ()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(["10.0.9.2", "fd00::1"], id="the first is another"),
        pytest.param(["10.0.9.1", "10.0.9.2"], id="both of one family"),
        pytest.param(["10.0.9.1", "rubbish"], id="no address"),
        pytest.param(["10.0.9.1", "::"], id="not one host"),
        pytest.param(["10.0.9.1", "fd00::1", "fd00::2"], id="three"),
    ],
)
def test_cluster_ips_that_do_not_agree_are_ignored_with_a_note(given: list[str]) -> None:
    admitted = admit(service(clusterIP="10.0.9.1", clusterIPs=given))
    assert isinstance(admitted.accepted, services.Service)
    assert admitted.accepted.cluster_ips == ("10.0.9.1",)
    assert "spec.clusterIPs is ignored" in str(admitted.finding)
