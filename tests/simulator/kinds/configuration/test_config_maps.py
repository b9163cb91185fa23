"""ConfigMaps as kube-apiserver refuses them."""

from typing import Any

import pytest

from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import ruled_registry


@pytest.fixture
def objects() -> registry.Registry:
    return ruled_registry()


def config_map(**fields: Any) -> Object:
    return {"metadata": {"name": "c", "namespace": "default"}, **fields}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"data": {"a": "1"}, "binaryData": {"a": "YQ=="}},
            'data[a]: Invalid value: "a": duplicate of key present in binaryData',
        ),
        ({"binaryData": {".": "YQ=="}}, "binaryData[.]: Invalid value: \".\": must not be '.'"),
        (
            {"data": {"a": "é" * 600_000}},
            "[]: Too long: may not be more than 1048576 bytes",
        ),
    ],
)
def test_a_config_map_is_refused_in_the_words_of_kube_apiserver(
    objects: registry.Registry, fields: Object, complaint: str
) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.CONFIG_MAPS, config_map(**fields))
    assert str(refused.value) == f'ConfigMap "c" is invalid: {complaint}'


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"data": {"a": 1}}, "Expected `str`, got `int`"),
        ({"binaryData": {"a": "?"}}, "illegal base64 data at input byte 0"),
    ],
)
def test_data_of_another_type_is_a_bad_request(
    objects: registry.Registry, fields: Object, complaint: str
) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.CONFIG_MAPS, config_map(**fields))
    assert refused.value.code == 400
    assert complaint in str(refused.value)


def test_base64_is_stored_in_its_only_spelling(objects: registry.Registry) -> None:
    stored = objects.create(resources.CONFIG_MAPS, config_map(binaryData={"a": "YW\nJj\n"}))
    assert stored["binaryData"] == {"a": "YWJj"}


def test_an_immutable_config_map_stays(objects: registry.Registry) -> None:
    objects.create(resources.CONFIG_MAPS, config_map(data={"a": "1"}, immutable=True))
    with pytest.raises(statuses.StatusError) as refused:
        objects.update(resources.CONFIG_MAPS, config_map(binaryData={"a": "YQ=="}, immutable=True))
    forbidden = "Forbidden: field is immutable when `immutable` is set"
    assert str(refused.value) == (
        f'ConfigMap "c" is invalid: [data: {forbidden}, binaryData: {forbidden}]'
    )
