"""Values out of chunks of any size."""

import json

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
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
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
