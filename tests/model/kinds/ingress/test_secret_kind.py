"""TLS Secrets, as seen through `admission.admit`: nothing of their content is ever shown."""

import base64
from typing import Any

import pytest

from kproxy.ingress import kinds
from kproxy.model import admission
from kproxy.model.kinds.ingress import secret_kind

KEY = "-----BEGIN PRIVATE KEY-----\nhush hush\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nopen\n"
GOOD = {
    "tls.crt": base64.b64encode(CERTIFICATE.encode()).decode(),
    "tls.key": base64.b64encode(KEY.encode()).decode(),
}
HUSH = ("hush", "PRIVATE", GOOD["tls.key"][:12])


def judged(
    data: object = None, kind: str = secret_kind.TYPE_TLS, **more: Any
) -> admission.Admission:
    raw = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "cert", "annotations": {"last-applied": KEY}},
        "type": kind,
        "data": data,
        **more,
    }
    (found,) = admission.admit(raw, kinds=kinds.KINDS)
    return found


@pytest.mark.parametrize(
    "more",
    [
        {"data": GOOD},
        {"data": {key: f"{value[:20]}\n {value[20:]}\n" for key, value in GOOD.items()}},
        {"stringData": {"tls.crt": CERTIFICATE, "tls.key": KEY}},
        {"data": GOOD | {"tls.key": "eA=="}, "stringData": {"tls.key": KEY}},
    ],
)
def test_certificate_and_key_are_read(more: dict[str, Any]) -> None:
    made = judged(**more).accepted
    assert isinstance(made, secret_kind.TlsSecret)
    assert made.certificate == CERTIFICATE.encode()
    assert made.private_key == KEY.encode()
    assert not any(text in repr(made) for text in HUSH)


@pytest.mark.parametrize("kind", ["Opaque", "", "kubernetes.io/dockerconfigjson"])
def test_other_types_are_passed_over(kind: str) -> None:
    found = judged({"password": "aHVzaA=="}, kind)
    assert found.accepted is None
    assert not found.is_invalid


@pytest.mark.parametrize(
    "data",
    [
        None,
        KEY,
        [KEY],
        {},
        {"tls.crt": GOOD["tls.crt"]},
        GOOD | {"tls.key": None},
        GOOD | {"tls.key": KEY},
        GOOD | {"tls.key": [KEY]},
        GOOD | {"tls.key": {"hush": KEY}},
        GOOD | {"tls.key": 3},
        GOOD | {"tls.key": "hush!"},
        GOOD | {"tls.key": "hüsh"},
    ],
)
def test_bad_data_is_named_and_not_quoted(data: object) -> None:
    found = judged(data)
    assert found.accepted is None
    assert 'data["tls.key"]' in str(found.finding)
    assert not any(text in repr(found) for text in HUSH)


@pytest.mark.parametrize(
    "raw",
    [
        {"metadata": KEY, "type": secret_kind.TYPE_TLS, "data": GOOD},
        {"metadata": {"name": "cert"}, "type": [KEY], "data": GOOD},
        {"metadata": {"name": "cert"}, "type": {"hush": KEY}, "data": GOOD},
    ],
)
def test_an_object_that_is_quite_wrong_is_not_quoted_where_keys_are(raw: dict[str, Any]) -> None:
    (found,) = admission.admit({"apiVersion": "v1", "kind": "Secret", **raw}, kinds=kinds.KINDS)
    assert found.accepted is None
    assert GOOD["tls.key"][:12] not in repr(found)


def test_an_api_server_is_asked_for_tls_secrets_only() -> None:
    assert secret_kind.KIND.collection.fields == "type=kubernetes.io/tls"
