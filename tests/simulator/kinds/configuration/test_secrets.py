"""Secrets as kube-apiserver defaults and refuses them."""

from typing import Any

import pytest

from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import ruled_registry

CONFIDENTIAL = "aHVudGVyMg=="  # hunter2


@pytest.fixture
def objects() -> registry.Registry:
    return ruled_registry()


def secret(**fields: Any) -> Object:
    return {"metadata": {"name": "s", "namespace": "default"}, **fields}


def refusal(objects: registry.Registry, new: Object) -> str:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.SECRETS, new)
    return str(refused.value)


def test_texts_become_data_and_win_over_it(objects: registry.Registry) -> None:
    given = secret(data={"a": "YQ==", "b": "Yg=="}, stringData={"b": "B", "c": "é"})
    stored = objects.create(resources.SECRETS, given)
    assert stored["data"] == {"a": "YQ==", "b": "Qg==", "c": "w6k="}
    assert "stringData" not in stored
    assert stored["type"] == "Opaque"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"type": "kubernetes.io/tls"},
            "[data[tls.crt]: Required value, data[tls.key]: Required value]",
        ),
        (
            {"type": "kubernetes.io/tls", "data": {"tls.crt": CONFIDENTIAL}},
            "data[tls.key]: Required value",
        ),
        (
            {"type": "kubernetes.io/basic-auth"},
            "[data[username]: Required value, data[password]: Required value]",
        ),
        ({"type": "kubernetes.io/ssh-auth"}, "data[ssh-privatekey]: Required value"),
        (
            {"type": "kubernetes.io/service-account-token"},
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
        (
            {
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": CONFIDENTIAL},
            },
            (
                'data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": is not a '
                "JSON object"
            ),
        ),
        (
            {"data": {"a/b": CONFIDENTIAL}},
            (
                'data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric '
                "characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', "
                "regex used for validation is '[-._a-zA-Z0-9]+')"
            ),
        ),
        (
            {"stringData": {"..a": "hunter2"}},
            "data[..a]: Invalid value: \"..a\": must not start with '..'",
        ),
        (
            {"stringData": {"a": "x" * 1024 * 1024, "b": "y"}},
            "data: Too long: may not be more than 1048576 bytes",
        ),
    ],
)
def test_a_secret_is_refused_in_the_words_of_kube_apiserver(
    objects: registry.Registry, fields: Object, complaint: str
) -> None:
    said = refusal(objects, secret(**fields))
    assert said == f'Secret "s" is invalid: {complaint}'
    assert "hunter2" not in said
    assert CONFIDENTIAL not in said


@pytest.mark.parametrize(
    ("value", "place"), [("hunter2!", 7), ("aHVu$A==", 4), ("YQ", 2), ("a\nb!", 3)]
)
def test_what_is_not_base64_is_named_by_its_place(
    objects: registry.Registry, value: str, place: int
) -> None:
    assert refusal(objects, secret(data={"a": value})) == (
        'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte '
        f"{place}"
    )


def test_base64_is_stored_in_its_only_spelling(objects: registry.Registry) -> None:
    given = {"a": "aHVu\ndGVyMg==\n", "b": "aHVu\r\ndGVyMg==", "c": "YR=="}
    stored = objects.create(resources.SECRETS, secret(data=given, immutable=True))
    assert stored["data"] == {"a": CONFIDENTIAL, "b": CONFIDENTIAL, "c": "YQ=="}
    again = objects.update(resources.SECRETS, secret(data=given, immutable=True))
    assert again["data"] == stored["data"]


def test_the_type_stays(objects: registry.Registry) -> None:
    objects.create(resources.SECRETS, secret())
    with pytest.raises(statuses.StatusError) as refused:
        objects.update(resources.SECRETS, secret(type="a/b"))
    assert str(refused.value) == (
        'Secret "s" is invalid: type: Invalid value: "a/b": field is immutable'
    )


def test_an_immutable_secret_stays(objects: registry.Registry) -> None:
    given = secret(data={"a": CONFIDENTIAL}, immutable=True)
    objects.create(resources.SECRETS, given)
    objects.update(resources.SECRETS, {**given, "metadata": {**given["metadata"], "labels": {}}})
    with pytest.raises(statuses.StatusError) as refused:
        objects.update(resources.SECRETS, secret(data={"a": "YQ=="}))
    assert str(refused.value) == (
        'Secret "s" is invalid: [immutable: Forbidden: field is immutable when `immutable` is '
        "set, data: Forbidden: field is immutable when `immutable` is set]"
    )
