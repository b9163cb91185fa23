"""Endpoints and EndpointSlices: rules and address policy, as seen through `admission.admit`.

Behaviour: rows 11, 29 and 35 of docs/behaviour.md. Cases: D17 of docs/faults.md.
"""

from typing import Any

import pytest

from kproxy.model import addresses, admission, names
from kproxy.model.kinds import endpoint_slice_kind, endpoints, endpoints_kind

TCP = names.Protocol.TCP
WEB = names.NamespacedName("default", "web")


def endpoints_of(*ips: str | None, **subset: Any) -> dict[str, Any]:
    whole = {"addresses": [{"ip": ip} for ip in ips], "ports": [{"port": 8080}], **subset}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web"},
        "subsets": [whole],
    }


def slice_of(*listed: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": list(listed),
        "ports": [{"port": 8080}],
        **fields,
    }


def at(ip: str, port: int = 8080, **conditions: Any) -> endpoints.Endpoint:
    return endpoints.Endpoint(addresses.SocketAddress(ip, port), **conditions)


def admit(raw: object, *, allow_loopback: bool = False) -> admission.Admission:
    (admitted,) = admission.admit(raw, allow_loopback=allow_loopback)
    return admitted


def accepted(raw: object, *, allow_loopback: bool = False) -> endpoints.EndpointsObject:
    admitted = admit(raw, allow_loopback=allow_loopback)
    assert isinstance(admitted.accepted, endpoints.EndpointsObject), admitted.finding
    return admitted.accepted


def test_an_endpoints_object_belongs_to_the_service_of_its_name() -> None:
    read = accepted(endpoints_of("10.1.0.2", "10.1.0.1"))
    assert read == endpoints.EndpointsObject(
        WEB,
        WEB,
        endpoints_kind.KIND.name,
        (endpoints.EndpointPort("", TCP, (at("10.1.0.1"), at("10.1.0.2"))),),
    )
    assert hash(read) == hash(accepted(endpoints_of("10.1.0.1", "10.1.0.2")))


def test_not_ready_addresses_are_kept_as_not_serving() -> None:
    read = accepted(endpoints_of("10.1.0.1", notReadyAddresses=[{"ip": "10.1.0.2"}]))
    assert read.at("", TCP) == (at("10.1.0.1"), at("10.1.0.2", ready=False, serving=False))


def test_every_address_of_a_subset_meets_every_port_and_subsets_add_up() -> None:
    raw = endpoints_of(
        "10.1.0.1", ports=[{"name": "a", "port": 1}, {"name": "b", "port": 2, "protocol": "UDP"}]
    )
    raw["subsets"].append({"addresses": [{"ip": "10.1.0.2"}], "ports": [{"name": "a", "port": 3}]})
    read = accepted(raw)
    assert read.at("a", TCP) == (at("10.1.0.1", 1), at("10.1.0.2", 3))
    assert read.at("b", names.Protocol.UDP) == (at("10.1.0.1", 2),)
    assert read.at("b", TCP) == ()


def test_node_names_are_kept() -> None:
    raw = endpoints_of(addresses=[{"ip": "10.1.0.1", "nodeName": "n1"}])
    assert accepted(raw).at("", TCP) == (at("10.1.0.1", node="n1"),)


def test_a_slice_belongs_to_the_service_its_label_names_in_its_own_namespace() -> None:
    raw = slice_of({"addresses": ["10.1.0.1"]})
    raw["metadata"]["namespace"] = "shop"
    read = accepted(raw)
    assert read.name == names.NamespacedName("shop", "web-1")
    assert read.service == names.NamespacedName("shop", "web")
    assert read.kind == endpoint_slice_kind.KIND.name


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        pytest.param({}, at("10.1.0.1"), id="no conditions"),
        pytest.param({"conditions": None}, at("10.1.0.1"), id="null conditions"),
        pytest.param(
            {"conditions": {"ready": None, "serving": None, "terminating": None}},
            at("10.1.0.1"),
            id="null in conditions",
        ),
        pytest.param(
            {"conditions": {"ready": False, "serving": True, "terminating": True}},
            at("10.1.0.1", ready=False, serving=True, terminating=True),
            id="draining",
        ),
        pytest.param(
            {"conditions": {"ready": False, "serving": False}},
            at("10.1.0.1", ready=False, serving=False),
            id="not serving",
        ),
        pytest.param({"nodeName": "n1"}, at("10.1.0.1", node="n1"), id="node name"),
        pytest.param(
            {"topology": {"kubernetes.io/hostname": "n2", "topology.kubernetes.io/zone": "z"}},
            at("10.1.0.1", node="n2"),
            id="v1beta1 topology",
        ),
        pytest.param(
            {"nodeName": "n1", "topology": {"kubernetes.io/hostname": "n2"}},
            at("10.1.0.1", node="n1"),
            id="node name before topology",
        ),
        pytest.param(
            {"addresses": ["10.1.0.1", "10.1.0.9"]}, at("10.1.0.1"), id="first address only"
        ),
        pytest.param(
            {"hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]}},
            at("10.1.0.1", for_zones=("a", "b"), for_nodes=("n1",)),
            id="hints",
        ),
        pytest.param({"hints": None}, at("10.1.0.1"), id="null hints"),
        pytest.param(
            {"hints": {"forZones": [], "forNodes": None}}, at("10.1.0.1"), id="empty hints"
        ),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_absent_conditions_of_a_slice_mean_ready(
    version: str, listed: dict[str, Any], expected: endpoints.Endpoint
) -> None:
    raw = slice_of({"addresses": ["10.1.0.1"], **listed}, apiVersion=f"discovery.k8s.io/{version}")
    assert accepted(raw).at("", TCP) == (expected,)


def test_row_33_more_hints_than_an_api_server_allows_make_a_slice_invalid() -> None:
    zones = [{"name": f"z{n}"} for n in range(9)]
    admitted = admit(slice_of({"addresses": ["10.1.0.1"], "hints": {"forZones": zones}}))
    assert admitted.finding is not None
    assert "endpoints[0].hints.forZones is 9 but must be at most 8" in admitted.finding.text


REFUSED = [
    pytest.param("127.0.0.1", id="loopback"),
    pytest.param("127.8.9.1", id="127/8"),
    pytest.param("::1", id="::1"),
    pytest.param("::ffff:127.0.0.1", id="mapped loopback"),
    pytest.param("169.254.169.254", id="link-local"),
    pytest.param("fe80::1", id="IPv6 link-local"),
    pytest.param("224.0.0.1", id="multicast"),
    pytest.param("ff02::1", id="IPv6 multicast"),
    pytest.param("0.0.0.0", id="unspecified"),
    pytest.param("::", id="IPv6 unspecified"),
    pytest.param("255.255.255.255", id="broadcast"),
    pytest.param("::ffff:169.254.169.254", id="mapped link-local"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_must_not_be_dialled_is_left_out_and_the_others_stay(
    address: str,
) -> None:
    for raw in (
        endpoints_of("10.1.0.1", address),
        slice_of({"addresses": ["10.1.0.1"]}, {"addresses": [address]}),
    ):
        admitted = admit(raw)
        assert isinstance(admitted.accepted, endpoints.EndpointsObject)
        assert admitted.accepted.at("", TCP) == (at("10.1.0.1"),)
        assert admitted.finding is not None
        assert admitted.finding.severity is admission.Severity.WARNING
        assert f'"{address}"' in admitted.finding.text


@pytest.mark.parametrize("address", REFUSED)
def test_allowing_loopback_allows_nothing_else(address: str) -> None:
    read = accepted(endpoints_of(address), allow_loopback=True).at("", TCP)
    loopback = address == "::1" or address.removeprefix("::ffff:").startswith("127.")
    assert bool(read) is loopback


@pytest.mark.parametrize("text", ["127.211.0.02", "10.0.0", "", "host", "10.0.0.1 ", "fd00::1"])
def test_a_malformed_address_costs_its_own_endpoint_only(text: str) -> None:
    raw = slice_of(*({"addresses": [each]} for each in ("10.1.0.1", text, "10.1.0.2")), {})
    for admitted in (admit(raw), admit(endpoints_of("10.1.0.1", f"{text}x", "10.1.0.2"))):
        assert isinstance(admitted.accepted, endpoints.EndpointsObject)
        assert admitted.accepted.at("", TCP) == (at("10.1.0.1"), at("10.1.0.2"))
        assert admitted.finding is not None
        assert admitted.finding.severity is admission.Severity.WARNING
        assert "address left out" in admitted.finding.text


def test_a_refused_loopback_address_names_the_flag_that_admits_it() -> None:
    finding = admit(endpoints_of("10.1.0.1", "127.0.0.1")).finding
    assert finding is not None
    assert "unless --allow-loopback-endpoints is given" in finding.text


def test_many_endpoints_are_judged_in_pieces() -> None:
    raw = endpoints_of(*(f"10.1.{n >> 8}.{n & 255}" for n in range(10_000)))
    steps = list(admission.admit_steps(raw))
    assert steps.count(None) > 30
    assert [each for each in steps if each] == [admit(raw)]


def test_ipv6_endpoints_are_kept_in_canonical_text() -> None:
    raw = slice_of({"addresses": ["FD00::0:1"]}, addressType="IPv6")
    assert accepted(raw).at("", TCP) == (at("fd00::1"),)


def test_a_mapped_address_is_the_ipv4_address_it_reaches() -> None:
    raw = slice_of({"addresses": ["::ffff:10.1.0.1"]}, addressType="IPv6")
    assert accepted(raw).at("", TCP) == (at("10.1.0.1"),)


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        *(
            pytest.param(endpoints_of(text, "1.2.3"), "subsets[0].addresses[0].ip", id=text)
            for text in ("0177.0.0.1", "127.1", "2130706433", "10.0.0.1\n", " 10.0.0.1")
        ),
        pytest.param(endpoints_of(None), "subsets[0].addresses[0].ip is absent", id="ip null"),
        pytest.param(
            endpoints_of(addresses=[{"ip": 10}]),
            "subsets[0].addresses[0].ip is 10 but must be a string",
            id="ip a number",
        ),
        pytest.param(endpoints_of(), "subsets[0].addresses is absent", id="no addresses"),
        pytest.param(
            endpoints_of("10.1.0.1", ports=[{"port": 0}]), "subsets[0].ports[0].port", id="port 0"
        ),
        pytest.param(
            endpoints_of("10.1.0.1", ports=[{"port": 1}, {"port": 2}]),
            "subsets[0].ports[0].name is absent",
            id="two unnamed ports",
        ),
        pytest.param(
            endpoints_of("10.1.0.1", ports=[{"port": 1, "protocol": "tcp"}]),
            "subsets[0].ports[0].protocol",
            id="protocol",
        ),
        pytest.param(
            slice_of({"addresses": []}), "endpoints[0].addresses[0]", id="empty addresses"
        ),
        pytest.param(slice_of({}), "endpoints[0].addresses[0] is absent", id="no address"),
        pytest.param(
            slice_of({"addresses": ["fd00::1"]}), "must be of addressType IPv4", id="family v4"
        ),
        pytest.param(
            slice_of({"addresses": ["10.1.0.1"]}, addressType="IPv6"),
            "must be of addressType IPv6",
            id="family v6",
        ),
        pytest.param(
            slice_of({"addresses": ["fe80::1%eth0"]}, addressType="IPv6"),
            "must be an IP address",
            id="zone id",
        ),
        pytest.param(slice_of(addressType="IP"), 'addressType is "IP"', id="address type"),
        pytest.param(slice_of(addressType=None), "addressType is absent", id="no address type"),
        pytest.param(
            slice_of(ports=[{"port": 1}, {"port": 2}]), 'ports[1].name is ""', id="duplicate name"
        ),
        pytest.param(slice_of(ports=[{"port": 65536}]), "ports[0].port is 65536", id="port"),
        pytest.param(
            slice_of(ports=[{"port": 1, "name": "A"}]), 'ports[0].name is "A"', id="port name"
        ),
        pytest.param(slice_of({"addresses": "10.1.0.1"}), "addresses is", id="addresses a string"),
        pytest.param(
            slice_of({"addresses": ["10.1.0.1"], "topology": {"a": 1}}),
            'endpoints[0].topology["a"] is 1 but must be a string',
            id="topology",
        ),
        pytest.param(slice_of(metadata={"name": "A"}), 'metadata.name is "A"', id="name"),
    ],
)
def test_a_broken_rule_makes_the_object_invalid(raw: dict[str, Any], where: str) -> None:
    admitted = admit(raw)
    assert admitted.accepted is None
    assert admitted.is_invalid
    assert admitted.finding is not None
    assert where in admitted.finding.text


@pytest.mark.parametrize(
    ("raw", "note"),
    [
        pytest.param(
            slice_of({"addresses": ["pod.example.net"]}, addressType="FQDN"), "FQDN", id="FQDN"
        ),
        pytest.param(slice_of(metadata={"name": "s"}), "kubernetes.io/service-name", id="no label"),
        pytest.param(
            slice_of(
                metadata={
                    "name": "s",
                    "labels": {
                        "kubernetes.io/service-name": "web",
                        "service.kubernetes.io/headless": "",
                    },
                }
            ),
            None,
            id="headless label on a slice",
        ),
        pytest.param(
            {
                **endpoints_of("10.1.0.1"),
                "metadata": {"name": "web", "labels": {"service.kubernetes.io/headless": ""}},
            },
            None,
            id="headless label on Endpoints",
        ),
    ],
)
def test_what_is_not_for_a_proxy_is_skipped_without_being_an_error(
    raw: dict[str, Any], note: str | None
) -> None:
    admitted = admit(raw)
    assert admitted.accepted is None
    assert not admitted.is_invalid
    assert admitted.key is not None
    if note is None:
        assert admitted.finding is None
    else:
        assert admitted.finding is not None
        assert note in admitted.finding.text


def test_a_slice_port_without_a_number_is_left_out_and_noted() -> None:
    raw = slice_of({"addresses": ["10.1.0.1"]}, ports=[{"name": "all"}, {"name": "b", "port": 1}])
    admitted = admit(raw)
    assert isinstance(admitted.accepted, endpoints.EndpointsObject)
    assert [port.name for port in admitted.accepted.ports] == ["b"]
    assert admitted.finding is not None
    assert "ports[0].port is absent" in admitted.finding.text


def test_a_slice_may_be_empty() -> None:
    raw = slice_of(endpoints=None, ports=None)
    assert accepted(raw).ports == ()
