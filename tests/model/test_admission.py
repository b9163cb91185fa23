"""Whole documents: kinds, lists, siblings, real recordings, and nonsense."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import admission, names, objects
from kproxy.model.kinds import (
    endpoint_slice_kind,
    endpoints,
    endpoints_kind,
    node_kind,
    service_cidr_kind,
    service_kind,
    services,
)
from kproxy.model.kinds.gateway import gateway_class_kind, namespace_kind
from kproxy.model.kinds.ingress import ingress_class_kind
from kproxy.model.kinds.kind import Kind

FIXTURES = Path(__file__).parent.parent / "fixtures"
GOOD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "good"},
    "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
}


def as_json(value: object) -> msgspec.Raw:
    return objects.json_object(json.dumps(value).encode())


def texts(admitted: list[admission.Admission]) -> list[str]:
    return [f"{a.subject}: {a.finding.text}" for a in admitted if a.finding]


RECORDED = [
    pytest.param("list-services-page1.json", 5, id="services 1"),
    pytest.param("list-services-page2.json", 5, id="services 2"),
    pytest.param("list-services-page3.json", 5, id="services 3"),
    pytest.param("list-services-page4.json", 2, id="services 4"),
    pytest.param("list-endpoints.json", 12, id="endpoints"),
    pytest.param("list-endpointslices-v1beta1.json", 11, id="slices"),
]


@pytest.mark.parametrize(("name", "count"), RECORDED)
def test_what_a_real_apiserver_lists_is_accepted_without_a_word(name: str, count: int) -> None:
    data = (FIXTURES / "recordings" / name).read_bytes()
    admitted = admission.admit(objects.json_object(data))
    assert len(admitted) == count
    assert all(a.accepted is not None for a in admitted)
    assert texts(admitted) == []
    assert admitted == admission.admit(json.loads(data))


def test_recorded_services_mean_what_they_meant_there() -> None:
    read: dict[str, services.Service] = {}
    for path in sorted((FIXTURES / "recordings").glob("list-services-*.json")):
        for admitted in admission.admit(objects.json_object(path.read_bytes())):
            assert isinstance(admitted.accepted, services.Service)
            read[admitted.accepted.name.name] = admitted.accepted
    assert read["sticky-60"].affinity_seconds == 15
    assert read["lb"].load_balancer_ips == ("203.0.113.7",)
    assert read["lb"].external_policy is services.TrafficPolicy.LOCAL
    assert read["proxyname"].proxied_elsewhere
    assert not read["extname"].is_proxied
    assert not read["headless"].is_proxied
    assert [port.protocol for port in read["multi"].ports] == ["TCP", "TCP", "UDP", "TCP"]


def test_recorded_endpoints_and_their_mirrored_slices_agree() -> None:
    def read(name: str) -> dict[tuple[str, str], tuple[endpoints.Endpoint, ...]]:
        data = (FIXTURES / "recordings" / name).read_bytes()
        found = [a.accepted for a in admission.admit(objects.json_object(data))]
        return {
            (str(each.service), port.name): port.endpoints
            for each in found
            if isinstance(each, endpoints.EndpointsObject)
            for port in each.ports
            if port.endpoints and "big" not in each.service and "noselector" not in each.service
        }

    mirrored = read("list-endpointslices-v1beta1.json")
    assert mirrored == read("list-endpoints.json")
    assert ("rec/redis", "") in mirrored


def test_of_the_broken_example_each_bad_document_is_named_once() -> None:
    admitted = [
        each
        for document in yaml.safe_load_all((FIXTURES / "manifests/broken.yaml").read_text())
        for each in admission.admit(document)
    ]
    said = texts(admitted)
    assert len(said) == 7
    for subject, field, value in (
        ("Service default/port-out-of-range", "spec.ports[0].port", "70000"),
        ("Service default/two-unnamed-ports", "spec.ports[0].name", "absent"),
        ("Service default/not-an-ip", "spec.clusterIP", '"10.0.30.999"'),
        ("Service default/affinity-too-long", "clientIP.timeoutSeconds", "90000"),
        ("Endpoints default/bad-endpoints", "addresses[0].ip", '"169.254.169.254"'),
        ("Endpoints default/bad-endpoints", "addresses[1].ip", '"127.0.0.1"'),
        ("Endpoints default/bad-endpoints", "addresses[2].ip", '"224.0.0.1"'),
        ("", "the object", "a list but"),
        ("Service without a name", "metadata.name", "absent"),
    ):
        wanted = f"{field} is {value}"
        assert sum(f"{subject}: " in text and wanted in text for text in said) == 1
    assert {str(a.accepted.name) for a in admitted if a.accepted} == {
        "default/good-one",
        "default/bad-endpoints",
        "default/same-ip-as-good-one",
    }


def test_the_clusterip_scenarios_are_accepted_and_the_headless_one_is_not_proxied() -> None:
    text = (FIXTURES / "manifests/five-clusterip-scenarios.yaml").read_text()
    admitted = [a for d in yaml.safe_load_all(text) for a in admission.admit(d)]
    assert texts(admitted) == []
    found = [a.accepted for a in admitted if isinstance(a.accepted, services.Service)]
    assert {each.name.name: each.is_proxied for each in found} == {
        "redis": True,
        "redis-sa": True,
        "redis-external": True,
        "redis-empty": True,
        "redis-headless": False,
    }


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param([1], "a list", id="list"),
        pytest.param("x", '"x"', id="string"),
        pytest.param(None, "absent", id="null"),
        pytest.param({}, "apiVersion is absent", id="empty"),
        pytest.param({"apiVersion": "v1"}, "kind is absent", id="no kind"),
        pytest.param({"apiVersion": "v1", "kind": 7}, "kind is 7", id="kind a number"),
        pytest.param({"apiVersion": ["v1"], "kind": "Service"}, "apiVersion", id="version a list"),
        pytest.param(
            {"apiVersion": "v1", "kind": "ServiceList", "items": {}},
            "items is a mapping but must be a list",
            id="items a mapping",
        ),
        pytest.param(
            {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List"}]},
            "a list inside a list",
            id="list in a list",
        ),
    ],
)
@pytest.mark.parametrize(
    "encode", [pytest.param(as_json, id="json"), pytest.param(lambda x: x, id="yaml")]
)
def test_what_is_no_object_is_an_error(raw: object, text: str, encode: Any) -> None:
    (admitted,) = admission.admit(encode(raw))
    assert admitted.is_invalid
    assert admitted.finding is not None
    assert text in admitted.finding.text


@pytest.mark.parametrize(
    ("version", "kind", "subject"),
    [
        pytest.param("apps/v1", "Deployment", "apps/v1 Deployment default/x", id="Deployment"),
        pytest.param(
            "serving.knative.dev/v1",
            "Service",
            "serving.knative.dev/v1 Service default/x",
            id="knative",
        ),
        pytest.param("v2", "Service", "v2 Service default/x", id="another version"),
    ],
)
def test_a_kind_that_a_proxy_does_not_read_is_a_note(version: str, kind: str, subject: str) -> None:
    (admitted,) = admission.admit({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}})
    assert admitted.subject == subject
    assert admitted.finding == admission.Finding(
        admission.Severity.NOTE, "not a kind a proxy reads"
    )


@pytest.mark.parametrize(
    ("version", "kind", "meant"),
    [
        ("v1", "service", 'apiVersion "v1" and kind "Service"'),
        ("v1", "Services", 'apiVersion "v1" and kind "Service"'),
        ("v1", "Endpoint", 'apiVersion "v1" and kind "Endpoints"'),
        ("v1", "EndpointSlice", 'apiVersion "discovery.k8s.io/v1" and kind "EndpointSlice"'),
        ("discovery.k8s.io/v1", "Endpointslices", 'apiVersion "discovery.k8s.io/v1" and kind'),
        ("discovery.k8s.io/v1", "Endpoints", 'apiVersion "v1" and kind "Endpoints"'),
    ],
)
def test_a_misspelled_kind_is_an_error_that_names_the_right_one(
    version: str, kind: str, meant: str
) -> None:
    (admitted,) = admission.admit({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}})
    assert admitted.subject == f"{version} {kind} default/x"
    assert admitted.is_invalid
    assert admitted.key is not None
    assert admitted.finding is not None
    assert meant in admitted.finding.text


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        (ingress_class_kind.KIND, {"controller": "kproxy.io/ingress"}),
        (gateway_class_kind.KIND, {"controllerName": "kproxy.io/gateway"}),
        (namespace_kind.KIND, {}),
        (node_kind.KIND, {}),
        (service_cidr_kind.KIND, {"cidrs": ["10.96.0.0/16"]}),
    ],
    ids=str,
)
@pytest.mark.parametrize("namespace", ["shop", "Not a name"])
def test_a_namespace_of_what_has_none_means_nothing(
    kind: Kind[Any], spec: object, namespace: str
) -> None:
    """As kubectl and kube-apiserver have it."""
    raw = {
        "apiVersion": kind.api_versions[0],
        "kind": kind.name,
        "metadata": {"name": "one", "namespace": namespace},
        "spec": spec,
    }
    for document in (raw, raw | {"spec": 7}):
        (admitted,) = admission.admit(document, kinds=(kind,))
        assert admitted.key == (kind.name, kind.key("one"))
    (admitted,) = admission.admit(raw, kinds=(kind,))
    assert admitted.accepted is not None
    assert admitted.accepted.name == kind.key("one")


@pytest.mark.parametrize("kind", ["List", "ServiceList"])
def test_a_bad_item_of_a_list_costs_its_siblings_nothing(kind: str) -> None:
    bad = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bad"}, "spec": []}
    raw = {"apiVersion": "v1", "kind": kind, "items": [bad, 7, GOOD, None]}
    for encoded in (raw, as_json(raw)):
        admitted = admission.admit(encoded)
        assert [a.position for a in admitted] == ["items[0]", "items[1]", "items[2]", "items[3]"]
        assert [a.is_invalid for a in admitted] == [True, True, False, True]


def test_items_of_a_typed_list_need_not_say_what_they_are() -> None:
    item = {key: value for key, value in GOOD.items() if key not in {"apiVersion", "kind"}}
    (admitted,) = admission.admit({"apiVersion": "v1", "kind": "ServiceList", "items": [item]})
    assert admitted.key == (service_kind.KIND.name, names.NamespacedName("default", "good"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"metadata":{"name":"\xff"}}', id="invalid UTF-8"),
        pytest.param(b'{"\xff":1}', id="invalid UTF-8 in a key"),
        pytest.param(b'{"spec":' + b"9" * 5000 + b"}", id="a number of 5,000 digits"),
    ],
)
def test_unreadable_json_in_a_list_costs_the_siblings_nothing(data: bytes) -> None:
    good = json.dumps(GOOD).encode()
    raw = b'{"apiVersion":"v1","kind":"ServiceList","items":[%s,%s]}' % (data, good)
    first, second = admission.admit(objects.json_object(raw))
    assert first.is_invalid
    assert second.accepted is not None


def test_an_object_refused_by_the_caller_is_named_as_far_as_it_can_be() -> None:
    known = admission.reject(GOOD, "flawed")
    assert known.is_invalid
    assert known.key == (service_kind.KIND.name, names.NamespacedName("default", "good"))
    foreign = admission.reject({**GOOD, "apiVersion": "v9"}, "flawed")
    assert (foreign.subject, foreign.key) == ("v9 Service default/good", None)
    assert admission.reject([1], "flawed").is_nameless


def test_json_may_give_a_field_twice_with_a_bad_value_first() -> None:
    raw = b'{"apiVersion":"v1","kind":"Service","spec":{"ports":[7]},"spec":{}}'
    (admitted,) = admission.admit(objects.json_object(raw))
    assert admitted.finding is not None
    assert "spec.ports is absent but must hold at least one port" in admitted.finding.text


def test_no_message_breaks_its_line_or_runs_long() -> None:
    name = "x\n\x1b[31m" * 50
    raw = {**GOOD, "metadata": {"name": name, "namespace": name}, "spec": {"type": name}}
    (admitted,) = admission.admit(raw)
    assert admitted.finding is not None
    for text in (admitted.subject, admitted.finding.text):
        assert text.isprintable()
        assert len(text) < 1000


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["None", "ClientIP", "10.0.0.1", "::1", "TCP", "IPv4", "v1", "Service"]),
)
jsonish = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.none()), inner, max_size=3),
    ),
    max_leaves=12,
)
SHAPES: list[dict[str, Any]] = [
    {
        "metadata": {"name": "a", "namespace": "b", "labels": {"x": "y"}, "annotations": {}},
        "spec": {
            "type": "NodePort",
            "clusterIP": "10.0.0.1",
            "ports": [{"name": "a", "port": 80, "protocol": "TCP", "nodePort": 1}],
            "externalIPs": ["192.0.2.1"],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]}},
        "subsets": [
            {
                "addresses": [{"ip": "10.0.0.1", "nodeName": "n"}],
                "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "a", "port": 80, "protocol": "TCP"}],
            }
        ],
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": "n",
                "topology": {"kubernetes.io/hostname": "n"},
            }
        ],
        "ports": [{"name": "a", "port": 80, "protocol": "TCP"}],
        "items": [],
    }
]


def paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(path for key, each in inner for path in paths(each, (*at, key)))]


def with_value(value: Any, path: tuple[Any, ...], new: object) -> Any:
    """`value` with the part at `path` replaced."""
    if not path:
        return new
    key, *rest = path
    copied = value.copy()
    copied[key] = with_value(value[key], tuple(rest), new)
    return copied


@given(
    version=st.sampled_from(["v1", "discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"]),
    kind=st.sampled_from(["Service", "Endpoints", "EndpointSlice", "ServiceList", "List"]),
    path=st.sampled_from(paths(SHAPES[0])),
    value=jsonish,
)
def test_whatever_stands_anywhere_is_judged_and_never_raised(
    version: str, kind: str, path: tuple[Any, ...], value: object
) -> None:
    damaged = with_value(SHAPES[0], path, value)
    if isinstance(damaged, dict):
        damaged = {"apiVersion": version, "kind": kind, **damaged}
    listed = {"apiVersion": "v1", "kind": "List", "items": [damaged, GOOD]}
    alone = admission.admit(damaged)
    first, sibling = admission.admit(listed)
    assert sibling.accepted == admission.admit(GOOD)[0].accepted
    assert first.is_invalid or first.accepted or first.key or first.finding
    for admitted in (first, *alone):
        assert admitted.subject.isprintable()
        assert admitted.finding is None or admitted.finding.text.isprintable()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_refused_before_anything_is_read(data: bytes) -> None:
    try:
        raw = objects.json_object(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    admission.admit(raw)


@pytest.mark.parametrize("depth", [10, 100, 450, 900])
@pytest.mark.parametrize(
    "shape", [service_kind.Service, endpoints_kind.Endpoints, endpoint_slice_kind.EndpointSlice]
)
def test_what_is_not_read_may_nest_beside_a_null_that_means_absent(
    shape: type[msgspec.Struct], depth: int
) -> None:
    deep = b"[" * depth + b"]" * depth
    raw = b'{"metadata":{"name":"a","annotations":{"x":null}},"surprise":' + deep + b"}"
    metadata = objects.decode(objects.json_object(raw), shape).metadata  # type: ignore[attr-defined]
    assert (metadata.name, metadata.annotations) == ("a", {})
