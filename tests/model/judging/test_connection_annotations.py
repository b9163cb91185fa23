"""The annotations about connections: what each says, and the sentence for each mistake."""

import pytest

from kproxy.model import admission, lifetimes
from kproxy.model.kinds import services
from kproxy.model.lifetimes import Lifetime, OnEndpointRemoved, ProxyProtocol


def admit(**annotations: str) -> admission.Admission:
    """The Service with these annotations; "_" stands for "-"."""
    named = {f"kproxy.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    raw = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "annotations": named},
        "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
    }
    (admitted,) = admission.admit(raw)
    return admitted


def accepted(**annotations: str) -> services.Service:
    admitted = admit(**annotations)
    assert isinstance(admitted.accepted, services.Service), admitted.finding
    return admitted.accepted


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param({}, Lifetime(), id="none"),
        pytest.param({"max_connection_age": "1h"}, Lifetime(3600.0), id="an age"),
        pytest.param({"max_connection_age": "none"}, Lifetime(), id="no age"),
        pytest.param(
            {"max_connection_age": "90", "max_connection_age_grace": "5s"},
            Lifetime(90.0, 5.0),
            id="seconds, and a grace",
        ),
        pytest.param(
            {"on_endpoint_removed": "drain"},
            Lifetime(on_removed=OnEndpointRemoved.DRAIN),
            id="drain",
        ),
        pytest.param(
            {"on_endpoint_removed": "drain:2m"},
            Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=120.0),
            id="drain with its time",
        ),
        pytest.param(
            {"on_endpoint_removed": "drain: 45s"},
            Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=45.0),
            id="drain, a space, its time",
        ),
        pytest.param(
            {"on_endpoint_removed": "drain", "drain": "1m"},
            Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=60.0),
            id="the time in an annotation of its own",
        ),
        pytest.param(
            {"on_endpoint_removed": "drain:7s", "drain": "1m"},
            Lifetime(on_removed=OnEndpointRemoved.DRAIN, drain=7.0),
            id="the time beside the word comes first",
        ),
        pytest.param(
            {"on_endpoint_removed": "reset"},
            Lifetime(on_removed=OnEndpointRemoved.RESET),
            id="reset",
        ),
        pytest.param({"on_endpoint_removed": "keep"}, Lifetime(), id="keep"),
    ],
)
def test_lifetimes_are_read(annotations: dict[str, str], expected: Lifetime) -> None:
    assert accepted(**annotations).lifetime == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("v1", ProxyProtocol.V1), ("v2", ProxyProtocol.V2), ("none", None), ("", None)],
)
def test_the_version_of_the_proxy_protocol_is_read(
    text: str, expected: lifetimes.ProxyProtocol | None
) -> None:
    assert accepted(proxy_protocol=text).proxy_protocol is expected


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        pytest.param({"max_connection_age": "long"}, 'is "long" but must be a duration', id="age"),
        pytest.param({"max_connection_age": "0s"}, "must be between 1s and 8760h", id="no time"),
        pytest.param({"max_connection_age_grace": "-1"}, "must be a duration", id="grace"),
        pytest.param({"on_endpoint_removed": ""}, "must be keep, drain", id="empty"),
        pytest.param({"on_endpoint_removed": "close"}, 'is "close" but must be keep', id="word"),
        pytest.param({"on_endpoint_removed": "reset:5s"}, "must be keep, drain", id="timed reset"),
        pytest.param({"on_endpoint_removed": "drain:"}, "must be a duration", id="no drain time"),
        pytest.param({"on_endpoint_removed": "drain", "drain": "x"}, "must be a dur", id="time"),
        pytest.param({"proxy_protocol": "v3"}, 'is "v3" but must be v1, v2 or none', id="version"),
    ],
)
def test_a_mistake_is_named_with_its_annotation(annotations: dict[str, str], words: str) -> None:
    admitted = admit(**annotations)

    assert admitted.accepted is None
    assert admitted.finding is not None
    assert words in admitted.finding.text
    assert 'metadata.annotations["kproxy.io/' in admitted.finding.text


def test_a_time_to_drain_without_draining_is_noted() -> None:
    admitted = admit(drain="30s")

    assert admitted.accepted is not None
    assert admitted.finding is not None
    assert admitted.finding.severity is admission.Severity.NOTE
    assert "kproxy.io/drain has no effect" in admitted.finding.text
