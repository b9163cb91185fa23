"""Manifest text to documents: what is read, and what is refused before it can do harm."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.cluster import documents
from kproxy.model import objects


def read_all(data: bytes) -> list[documents.Document]:
    return list(documents.read_yaml(data))


def values(text: str) -> list[Any]:
    return [document.value for document in read_all(text.encode())]


def test_documents_are_counted_from_one_and_empty_ones_are_left_out() -> None:
    read = read_all(b"# one\n---\na: 1\n---\n---\nb: 2\n...\n")
    assert [(document.number, document.value) for document in read] == [
        (1, {"a": 1}),
        (3, {"b": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("80", 80, id="integer"),
        pytest.param("'80'", "80", id="quoted integer"),
        pytest.param("!!str 80", "80", id="tagged string"),
        pytest.param("!!int '80'", 80, id="tagged integer"),
        pytest.param("0x10", 16, id="hexadecimal"),
        pytest.param("010", 8, id="YAML 1.1 octal"),
        pytest.param("1.5", 1.5, id="float"),
        pytest.param("yes", True, id="YAML 1.1 yes"),
        pytest.param("~", None, id="null"),
        pytest.param("2026-01-01", "2026-01-01", id="a date is a string"),
        pytest.param("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", id="so is a timestamp"),
        pytest.param("=", "=", id="the value key is a string"),
        pytest.param("<<", "<<", id="the merge key is one only as a key"),
        pytest.param("10.0.0.1", "10.0.0.1", id="address"),
        pytest.param("{p: 1, q: [2, {r: s}]}", {"p": 1, "q": [2, {"r": "s"}]}, id="flow"),
        pytest.param("|\n    two\n    lines\n", "two\nlines\n", id="literal block"),
    ],
)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: object) -> None:
    assert values(f"- x\n- {text}") == [["x", value]]
    assert values(f"k: {text}") == [{"k": value}]


def test_anchors_aliases_and_merge_keys_work() -> None:
    text = """
    base: &base {port: 80, name: a}
    one: {<<: *base, port: 81}
    two: {<<: [*base, {protocol: TCP}]}
    same: *base
    """
    (value,) = values(text)
    assert value["one"] == {"port": 81, "name": "a"}
    assert value["two"] == {"port": 80, "name": "a", "protocol": "TCP"}
    assert value["same"] == {"port": 80, "name": "a"}


def laughs(levels: int) -> bytes:
    """Billion laughs: every level is ten times the one before."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


def chain(links: int) -> bytes:
    """Nesting by alias: every line is one deeper than the one before, and no longer."""
    return b"- &a0 []\n" + b"".join(b"- &a%d [*a%d]\n" % (n, n - 1) for n in range(1, links))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(laughs(10), "aliases counted in full", id="billion laughs"),
        pytest.param(b"[" * 100_000, "nested more than 100 deep", id="brackets"),
        pytest.param(b"{a: " * 100_000, "nested more than 100 deep", id="braces"),
        pytest.param(b"- " * 100_000, "nested more than 100 deep", id="dashes"),
        pytest.param(chain(1000), "nested more than 100 deep", id="aliases in a chain"),
        pytest.param(b"a: &a [*a]", "refers to nothing complete", id="a list in itself"),
        pytest.param(b"a: *b", "refers to nothing complete", id="unknown alias"),
        pytest.param(b"a: &a 1\n---\nb: *a", "refers to nothing", id="alias across documents"),
        pytest.param(b"ok: 1\na: [1\nb: 2\n", "line 3, column", id="unclosed list"),
        pytest.param(b"a: b: c", "line 1, column 5", id="two colons"),
        pytest.param(b"a:\n\tb: 1", "line 2", id="tab"),
        pytest.param(b"a: \x00", "control characters", id="NUL"),
        pytest.param(b"a: \xff", "UTF-8", id="invalid UTF-8"),
        pytest.param(b"%YAML 3.0\n---\na: 1", "line 1", id="another YAML"),
    ],
)
def test_yaml_that_cannot_be_read_as_a_whole_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(documents.MalformedError, match="not valid YAML") as caught:
        list(documents.read_yaml(data))
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_honest_aliases_stay_within_the_bound() -> None:
    assert len(read_all(laughs(5))) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("a: 1\nb: 2\na: 3", 'line 3: the key "a" is given twice', id="key twice"),
        pytest.param("? [a]\n: b", "line 1: a key is itself", id="a list as key"),
        pytest.param("? {a: b}\n: b", "line 1: a key is itself", id="a mapping as key"),
        pytest.param("a: !Ref x", "cannot have the tag !Ref", id="foreign tag"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "not allowed", id="python tag"),
        pytest.param("a: !!timestamp x", "cannot have the tag", id="timestamp tag"),
        pytest.param("a: !!int x", "cannot have the tag", id="not an integer"),
        pytest.param("a: !!int ''", "cannot have the tag", id="an empty integer"),
        pytest.param("a: !!bool maybe", "cannot have the tag", id="not a boolean"),
        pytest.param("a: !!set {x}", "is not allowed", id="set"),
        pytest.param(f"a: {'9' * 5000}", "cannot have the tag", id="5,000 digits"),
        pytest.param("<<: 3", "only mappings can be merged", id="merge a number"),
        pytest.param("[{<<: [x]}]", "only mappings can be merged", id="merge a list of names"),
    ],
)
def test_a_fault_within_a_document_spoils_that_document_alone(text: str, reason: str) -> None:
    bad, good = documents.read_yaml(f"{text}\n---\nfine: 1\n".encode())
    assert reason in bad.flaw
    assert bad.flaw.isprintable()
    assert (good.number, good.value, good.flaw) == (2, {"fine": 1}, "")


def test_a_json_file_is_one_document() -> None:
    (document,) = documents.read_json(b'\xef\xbb\xbf {"kind": "x"}\n')
    assert document.number == 1
    assert objects.plain(document.value) == {"kind": "x"}
    assert list(documents.read_json(b" \n")) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b'{"a":', "truncated", id="half-written"),
        pytest.param(b'{"a":1}{"b":2}', "trailing characters", id="two values"),
        pytest.param(b"a: 1", "invalid character", id="YAML"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="brackets"),
        pytest.param(b"\x00", "invalid character", id="NUL"),
        pytest.param(b'["\\ud800", "and more"]', "hex escape", id="lone surrogate"),
    ],
)
def test_json_that_cannot_be_read_as_a_whole_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(documents.MalformedError, match=reason):
        list(documents.read_json(data))


words = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(words, st.one_of(st.none(), inner), max_size=4),
    ),
    max_leaves=20,
)


@given(st.lists(plain, max_size=3), st.booleans())
def test_documents_are_read_as_pyyaml_reads_them(written: list[object], flow: bool) -> None:
    text = yaml.safe_dump_all(written, default_flow_style=flow, allow_unicode=True)
    read = read_all(text.encode())
    assert [document.value for document in read] == list(yaml.safe_load_all(text))
    assert not any(document.flaw for document in read)


@given(
    st.sampled_from([documents.read_yaml, documents.read_json]),
    st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)),
)
def test_any_bytes_are_read_or_malformed(
    read: Callable[[bytes], Iterator[documents.Document]], data: bytes
) -> None:
    with contextlib.suppress(documents.MalformedError):
        assert all(document.flaw.isprintable() for document in read(data))
