"""Protobuf bodies: what is read, and that nothing is read in part."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.api.formats import protobuf_body
from kproxy.simulator.store import statuses


def _field(number: int, content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(raw)]) + raw


def _body(kind: str, raw: bytes) -> bytes:
    identity = _field(1, "v1") + _field(2, kind)
    return b"k8s\x00" + _field(1, identity) + _field(2, raw)


NAME = _field(1, _field(1, "web") + _field(8, b"") + _field(11, _field(1, "a") + _field(2, "b")))


def test_a_service() -> None:
    target = b"\x08\x00\x10\x90\x3f" + _field(3, "")
    port = _field(1, "http") + b"\x18\x50" + _field(4, target) + b"\x28\x00"
    decoded = protobuf_body.decode(_body("Service", NAME + _field(2, _field(1, port))))
    assert decoded == {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "web", "labels": {"a": "b"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }


def test_the_bytes_of_a_secret_are_base64_as_in_json() -> None:
    data = _field(2, _field(1, "k") + _field(2, b"\xff\x00"))
    raw = _field(1, _field(1, "s")) + data + _field(3, "Opaque") + b"\x28\x01"
    assert protobuf_body.decode(_body("Secret", raw)) == {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {"name": "s"},
        "data": {"k": "/wA="},
        "type": "Opaque",
        "immutable": True,
    }


def test_the_paths_of_an_ingress_are_fields_of_its_rule() -> None:
    backend = _field(4, _field(1, "web") + _field(2, _field(1, "") + b"\x10\x50"))
    path = _field(1, "/a") + _field(2, backend) + _field(3, "Exact")
    rule = _field(1, "a.example") + _field(2, _field(1, _field(1, path)))
    spec = _field(2, _field(1, "a.example") + _field(2, "tls")) + _field(3, rule) + _field(4, "c")
    raw = _field(1, _field(1, "web")) + _field(2, spec) + _field(3, _field(1, b""))
    shown = {"service": {"name": "web", "port": {"number": 80}}}
    assert protobuf_body.decode(_body("Ingress", raw))["spec"] == {
        "ingressClassName": "c",
        "tls": [{"hosts": ["a.example"], "secretName": "tls"}],
        "rules": [
            {
                "host": "a.example",
                "http": {"paths": [{"path": "/a", "pathType": "Exact", "backend": shown}]},
            }
        ],
    }


def test_the_options_of_a_deletion() -> None:
    options = b"\x08\x00" + _field(2, _field(1, "u")) + _field(4, "Orphan") + _field(5, "All")
    assert protobuf_body.decode(_body("DeleteOptions", options)) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Orphan",
        "dryRun": ["All"],
    }


def test_a_field_that_is_not_known_is_refused_if_it_says_something() -> None:
    with pytest.raises(statuses.StatusError, match="field 6 of ServiceSpec") as caught:
        protobuf_body.decode(_body("Service", NAME + _field(2, _field(6, "something"))))
    assert caught.value.code == 415


def test_a_kind_that_is_not_known_is_refused() -> None:
    with pytest.raises(statuses.StatusError, match="Role cannot be read"):
        protobuf_body.decode(_body("Role", NAME))


def test_a_number_in_the_place_of_a_message_is_refused() -> None:
    with pytest.raises(statuses.StatusError, match="breaks off") as caught:
        protobuf_body.decode(b"k8s\x00" + b"\x08\x01")
    assert caught.value.code == 400


@given(st.binary(max_size=60))
def test_what_is_not_protobuf_is_refused(raw: bytes) -> None:
    for body in (raw, b"k8s\x00" + raw, _body("Service", raw)[: 8 + len(raw)]):
        with contextlib.suppress(statuses.StatusError):  # anything else is a bug
            assert protobuf_body.decode(body)["kind"] == "Service"
