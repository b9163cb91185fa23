"""The sentences of msgspec that are read: `framing` finds the end of a value by them.

pyproject.toml bounds msgspec's version. If one of these fails for a newer one, `framing._value`
and `objects._shape_error` have to learn the new sentence before the bound is raised.
"""

import msgspec
import pytest

from kproxy.model import objects
from kproxy.model.kinds import service_kind
from kproxy.sources.transfer import framing

_raw = msgspec.json.Decoder(msgspec.Raw)


@pytest.mark.parametrize(
    ("body", "place"), [(b'{"a":1},', 7), (b'{"a":1} ]', 8), (b"1,2", 1), (b'"x" {', 4)]
)
def test_what_follows_a_value_is_named_with_its_place(body: bytes, place: int) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        _raw.decode(body)
    assert str(caught.value) == f"{framing.TRAILING} (byte {place + 1})"


@pytest.mark.parametrize("body", [b'{"a":', b'{"a":1', b"[1,", b'"x', b'{"a"', b"tru"])
def test_a_value_that_is_not_whole_yet_is_complained_of_at_its_end(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        _raw.decode(body)
    found = framing.PLACE.search(str(caught.value))
    assert found is None or int(found[1]) >= len(body)


@pytest.mark.parametrize("body", [b'{"a":nul} ', b"{1:2} ", b"[1 2] "])
def test_a_value_that_is_no_json_is_complained_of_before_its_end(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        _raw.decode(body)
    found = framing.PLACE.search(str(caught.value))
    assert found is not None
    assert int(found[1]) < len(body)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"spec": {"ports": [{"port": "80"}]}}, "spec.ports[0].port"),
        ({"spec": {"clusterIP": 5}}, "spec.clusterIP"),
        ({"metadata": {"labels": []}}, "metadata.labels"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_by_its_path(value: object, field: str) -> None:
    with pytest.raises(objects.ShapeError) as caught:
        objects.decode(value, service_kind.Service)
    assert caught.value.field == field
