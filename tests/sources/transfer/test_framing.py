"""Values out of chunks of any size."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.sources.transfer import framing

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


def taken_apart(body: bytes, size: int) -> tuple[list[object], dict[str, object], bool]:
    framer = framing.ListFramer()
    chunks = [*(body[at : at + size] for at in range(0, len(body), size)), b""]
    items = [json.loads(bytes(item)) for chunk in chunks for item in framer.feed(chunk)]
    fields = {name: json.loads(bytes(raw)) for name, raw in framer.fields.items()}
    return items, fields, framer.is_complete


@settings(deadline=None)
@given(
    items=st.lists(OBJECTS, max_size=5),
    before=OBJECTS,
    after=OBJECTS,
    indent=st.sampled_from([None, 1]),
    size=st.integers(1, 200),
)
def test_a_list_comes_out_as_json_would_read_it(
    items: list[object],
    before: dict[str, object],
    after: dict[str, object],
    indent: int | None,
    size: int,
) -> None:
    others = {**{f"a{key}": each for key, each in before.items()}, "items": items}
    others |= {f"z{key}": each for key, each in after.items()}
    body = json.dumps(others, indent=indent).encode()
    expected = {key: each for key, each in others.items() if key != "items"}
    assert taken_apart(body, size) == (items, expected, True)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"items":[1]}',
        b'{"items":[{}]} {}',
        b'{"items":{}}',
        b'{"metadata":' + b"[" * 100_000,
        b'{"items":[{"a":nul}]}',
        b"{1:2}",
        b"\x00",
    ],
)
def test_what_is_not_a_list_is_refused(body: bytes) -> None:
    with pytest.raises(framing.FramingError):
        taken_apart(body, 65536)


def test_half_a_list_is_not_complete() -> None:
    assert taken_apart(b'{"items":[{"a":1},{"b"', 4) == ([{"a": 1}], {}, False)


@pytest.mark.parametrize("size", [1000, 65_536, 70_001])
def test_what_large_objects_cost_grows_with_their_length_and_not_its_square(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    read = 0
    honest = framing._raw

    class Counting:
        def decode(self, data: memoryview) -> msgspec.Raw:
            nonlocal read
            read += len(data)
            return honest.decode(data)

    monkeypatch.setattr(framing, "_raw", Counting())
    large = {"metadata": {"annotations": {"a": "x" * 4_000_000}}, "list": [{"a": 1}] * 100_000}
    items: list[object] = [{"a": 1}, large, {"b": 2}, large, {"c": 3}]
    body = json.dumps({"items": items, "metadata": {"resourceVersion": "7"}}).encode()
    found, fields, is_complete = taken_apart(body, size)
    assert found == items
    assert (fields, is_complete) == ({"metadata": {"resourceVersion": "7"}}, True)
    small = 2 * (framing._EAGER_BYTES // size + 1) * framing._EAGER_BYTES
    assert read <= 5 * len(body) + small


def test_an_object_just_under_the_ceiling_is_read() -> None:
    framer = framing.ListFramer(ceiling=300_000)
    body = json.dumps({"items": [{"a": "x" * 299_000}] * 3}).encode()
    chunks = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    assert sum(len(list(framer.feed(chunk))) for chunk in [*chunks, b""]) == 3


def test_a_large_object_over_the_ceiling_is_refused_once_it_is() -> None:
    framer = framing.ListFramer(ceiling=300_000)
    assert list(framer.feed(b'{"items":[{"a":"' + b"x" * 290_000)) == []
    with pytest.raises(framing.FramingError, match="longer than 300000 bytes"):
        list(framer.feed(b"x" * 10_000))


def test_an_object_over_the_ceiling_is_refused() -> None:
    framer = framing.ListFramer(ceiling=100)
    for chunk in (b'{"items":[{"a":"', *[b"x" * 10] * 9):
        assert list(framer.feed(chunk)) == []
    with pytest.raises(framing.FramingError, match="longer than 100 bytes"):
        list(framer.feed(b"x" * 10))


@settings(deadline=None)
@given(lines=st.lists(st.binary(max_size=20)), size=st.integers(1, 30))
def test_lines_come_whole(lines: list[bytes], size: int) -> None:
    kept = [line.replace(b"\n", b"") for line in lines]
    body = b"".join(line + b"\n" for line in kept)
    framer = framing.LineFramer()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    found = [line for chunk in chunks for line in framer.feed(chunk)]
    assert found == [line for line in kept if line.strip()]
    assert not framer.is_mid_line


def test_a_line_over_the_ceiling_is_refused_and_half_a_line_is_known() -> None:
    framer = framing.LineFramer(ceiling=10)
    assert list(framer.feed(b"12345")) == []
    assert framer.is_mid_line
    with pytest.raises(framing.FramingError, match="longer than 10 bytes"):
        list(framer.feed(b"1234567"))
