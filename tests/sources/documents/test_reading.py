"""Manifest text to documents: what is read, and what is refused before it can do harm."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import admission, objects
from kproxy.sources.documents import reading, scalars


def read_all(data: bytes) -> list[reading.Document]:
    return list(reading.read_yaml(data))


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
        pytest.param("y", True, id="y"),
        pytest.param("Off", False, id="off"),
        pytest.param("22:30", "22:30", id="no base 60"),
        pytest.param("80.0", 80, id="integral float"),
        pytest.param("0o17", 15, id="octal"),
        pytest.param("1_000", 1000, id="underscore"),
        pytest.param("0b11", 3, id="binary"),
        pytest.param("1e400", "1e400", id="beyond a float"),
        pytest.param("!Ref x", "x", id="foreign tag"),
        pytest.param("!!timestamp x", "x", id="timestamp tag"),
        pytest.param("!!set {x}", {"x": None}, id="set"),
        pytest.param("!!binary aGVsbG8=", "hello", id="binary"),
        pytest.param("9" * 5000, "9" * 5000, id="5,000 digits"),
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
        pytest.param(b"a: \x07", "control characters", id="BEL"),
        pytest.param(b"%YAML 3.0\n---\na: 1", "line 1", id="another YAML"),
    ],
)
def test_yaml_that_cannot_be_read_as_a_whole_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(reading.MalformedError, match="not valid YAML") as caught:
        list(reading.read_yaml(data))
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_honest_aliases_stay_within_the_bound() -> None:
    assert len(read_all(laughs(5))) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("? [a]\n: b", "line 1: a key is itself", id="a list as key"),
        pytest.param("? {a: b}\n: b", "line 1: a key is itself", id="a mapping as key"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "not allowed", id="python tag"),
        pytest.param("a: .inf", "no value that JSON has", id="infinity"),
        pytest.param("a: -.INF", "no value that JSON has", id="negative infinity"),
        pytest.param("a: .nan", "no value that JSON has", id="not a number"),
        pytest.param("~: a", "a key is null", id="null as key"),
        pytest.param("a: !!int 1.5", "cannot have the tag", id="a fraction as integer"),
        pytest.param("a: !!null x", "cannot have the tag", id="not null"),
        pytest.param("a: !!binary '@'", "not base64", id="not base64"),
        pytest.param("a: !!int x", "cannot have the tag", id="not an integer"),
        pytest.param("a: !!int ''", "cannot have the tag", id="an empty integer"),
        pytest.param("a: !!bool maybe", "cannot have the tag", id="not a boolean"),
        pytest.param("<<: 3", "only mappings can be merged", id="merge a number"),
        pytest.param("[{<<: [x]}]", "only mappings can be merged", id="merge a list of names"),
    ],
)
def test_a_fault_within_a_document_spoils_that_document_alone(text: str, reason: str) -> None:
    bad, good = reading.read_yaml(f"{text}\n---\nfine: 1\n".encode())
    assert reason in bad.flaw
    assert bad.flaw.isprintable()
    assert (good.number, good.value, good.flaw) == (2, {"fine": 1}, "")


def test_of_a_key_given_twice_the_last_counts_as_in_kubectl_and_that_is_remarked() -> None:
    (document,) = reading.read_yaml(b"a: 1\nb: 2\na: 3\n'b': 4\n")
    assert document.value == {"a": 3, "b": 4}
    assert not document.flaw
    assert document.remark.startswith('line 3: the key "a" is given twice')


def test_a_json_file_may_hold_one_document() -> None:
    (document,) = reading.read_json(b'\xef\xbb\xbf {"kind": "x"}\n')
    assert document.number == 1
    assert objects.plain(document.value) == {"kind": "x"}
    assert list(reading.read_json(b" \n")) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b'{"a":', "truncated", id="half-written"),
        pytest.param(b'{"a":1},{"b":2}', "malformed|invalid character", id="comma"),
        pytest.param(b'{"a":1}}', "invalid character", id="brace too many"),
        pytest.param(b'{"a":1]', "malformed|expected", id="other bracket"),
        pytest.param(b"a: 1", "invalid character", id="YAML"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="brackets"),
        pytest.param(b"\x00", "invalid character", id="NUL"),
        pytest.param(rb'["\u12x4", "and more"]', "invalid", id="no hex digits"),
    ],
)
def test_json_that_cannot_be_read_as_a_whole_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(reading.MalformedError, match=reason):
        list(reading.read_json(data))


def marked(text: bytes) -> list[tuple[int, int, Any]]:
    return [(each.number, each.line, objects.plain(each.value)) for each in reading.read(text)]


def test_the_notation_of_a_file_follows_from_its_content() -> None:
    assert marked(b'{"a": 1}\n\n{"b": [2]}{"c": "}"}') == [
        (1, 1, {"a": 1}),
        (2, 3, {"b": [2]}),
        (3, 3, {"c": "}"}),
    ]
    assert marked(b"{a: 1}\n---\nb: 2\n") == [(1, 1, {"a": 1}), (2, 3, {"b": 2})]
    assert marked(b'{"a": 1}\n---\nb: 2\n') == [(1, 1, {"a": 1}), (2, 3, {"b": 2})]


def test_each_document_fails_by_itself_and_knows_its_line() -> None:
    text = b"# one\na: 1\n---\nb: [\n---#x\n\nc: {\n--- # y\n~\n---\nd: 4\n"
    read = list(reading.read(text))
    assert [(each.number, each.line, each.value) for each in read] == [
        (1, 2, {"a": 1}),
        (2, 4, None),
        (3, 7, None),
        (5, 11, {"d": 4}),
    ]
    assert [each.is_malformed for each in read] == [False, True, True, False]
    assert "line 5, column 1" in read[1].flaw


def test_items_of_a_list_know_their_line() -> None:
    text = b"kind: List\nitems:\n- a: 1\n- b: 2\n  c: [{}, {}]\n-\n  d: 3\n"
    (document,) = reading.read(text)
    assert document.item_lines == {0: 3, 1: 4, 2: 7}


def test_items_of_a_large_json_list_are_read_one_by_one() -> None:
    items = [{"n": n, "text": '"]},{[' * 100} for n in range(1000)]
    text = json.dumps({"kind": "List", "x": {"items": [1]}, "items": items, "y": []}, indent=1)
    (document,) = reading.read(text.encode())
    assert isinstance(document.value, dict)
    assert [objects.plain(each) for each in document.value["items"]] == items
    assert (document.value["x"], document.value["y"]) == ({"items": [1]}, [])
    assert document.item_lines[0] == 9
    assert document.item_lines[1] == 13


@pytest.mark.parametrize("cut", [1, 3, 1000, 100_000])
def test_a_large_json_list_that_is_cut_is_malformed(cut: int) -> None:
    text = json.dumps({"items": [{"n": n} for n in range(20_000)]}).encode()
    (document,) = reading.read(text[:-cut])
    assert document.is_malformed
    assert document.flaw.startswith("not valid JSON")


HOSTILE = [
    pytest.param(b"port: 1" + b":1" * 200_000, id="base 60"),
    pytest.param(b"port: " + b"9" * 400_000, id="digits"),
    pytest.param(b"port: 1" + b"_" * 400_000, id="underscores"),
    pytest.param(b"port: 1e" + b"9" * 400_000, id="exponent"),
    pytest.param(b"port: 0x" + b"f" * 400_000, id="hexadecimal"),
    pytest.param(b"port: 1e9999999", id="1e9999999"),
    pytest.param(b"port: 2001-01-01T00:00:00." + b"0" * 400_000, id="timestamp"),
    pytest.param(b"a: [" + b"1," * 50_000 + b"1]", id="flow list"),
    pytest.param(b"a: {" + b"a," * 50_000 + b"a: 1}", id="flow keys"),
    pytest.param(b"? " * 200_000, id="question marks"),
    pytest.param(b"---\n" * 20_000, id="empty documents"),
    pytest.param(b"{}" * 20_000, id="JSON documents"),
    pytest.param(b'{"a":' * 50_000, id="JSON nesting"),
    pytest.param(b'{"a":"' + b"\\" * 400_000, id="JSON backslashes"),
    pytest.param(b'{"a" ' + b'"' * 400_001, id="JSON quotes"),
    pytest.param(
        b"x: &x {" + b",".join(b"k%d: 1" % n for n in range(2_000)) + b"}\n"
        b"" + b"".join(b"m%d: {<<: *x}\n" % n for n in range(2_000)),
        id="merges",
    ),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_h10_what_a_text_costs_is_bounded_by_its_size(data: bytes) -> None:
    """Counted in pauses: a reader that computes without them is one that holds others up."""
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        assert pauses < 4 * len(data)

    for document in reading.read(data, pause):
        assert len(document.flaw) < 300


words = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: scalars.resolved(text, None, is_plain=True) == text or text == "<<"
)
"""Without those that PyYAML does not quote and kubectl takes for something else, such as "y"."""
plain = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        words,
    ),
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
    st.sampled_from([reading.read, reading.read_yaml, reading.read_json]),
    st.one_of(st.binary(max_size=100), st.text(max_size=100).map(str.encode)),
)
def test_any_bytes_are_read_or_malformed(
    read: Callable[[bytes], Iterator[reading.Document]], data: bytes
) -> None:
    with contextlib.suppress(reading.MalformedError):
        assert all(document.flaw.isprintable() for document in read(data))


HUGE = 5 * 1024 * 1024
MANY = (b'"' + b"x" * 1000 + b'",{},') * (HUGE // 1000)
WEB = (
    b'{"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"ports":[{"port":80}]}}'
)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'a: "' + b"x" * HUGE + b'"', id="quoted"),
        pytest.param(b"a: " + b"b c " * (HUGE // 4), id="plain"),
        pytest.param(b"a: |\n" + b"  text\n" * (HUGE // 7), id="block"),
        pytest.param(b"a: b\n" + b"# x\n" * (HUGE // 3) + b"c: d", id="comments"),
        pytest.param(b"a: b\n" + b"\n" * HUGE + b"c: d", id="empty lines"),
        pytest.param(b"a: b" + b" " * HUGE + b"\nc: d", id="spaces"),
    ],
)
def test_h10_a_piece_of_yaml_that_is_too_large_spoils_its_document_alone(text: bytes) -> None:
    good, bad, last = list(reading.read(b"a: good\n---\n" + text + b"\n---\na: last\n"))
    assert "of more than 4 MiB" in bad.flaw
    assert [good.value, last.value] == [{"a": "good"}, {"a": "last"}]


@pytest.mark.parametrize("separator", [b"\n", pytest.param(b"\n" * HUGE, id="long")])
def test_h10_documents_are_divided_wherever_they_begin(separator: bytes) -> None:
    text = separator + b"---\na: 1\n" + separator + b"---\na: 2"
    assert [each.value for each in reading.read(text) if not each.flaw][-1] == {"a": 2}


@pytest.mark.parametrize(
    "large",
    [
        pytest.param(b'{"metadata":{"name":"' + b"x" * HUGE + b'"}}', id="string"),
        pytest.param(b'{"spec":{"ports":[{"port":' + b"9" * HUGE + b"}]}}", id="number"),
        pytest.param(b'{"a":[' + MANY + b"{}]}", id="many values"),
    ],
)
def test_h10_a_json_object_that_is_too_large_is_refused(large: bytes) -> None:
    found = list(reading.read(WEB + large))
    assert len(found) == 2
    assert not found[0].flaw
    assert "larger than 4 MiB, which no API server stores" in found[1].flaw


def test_h10_an_item_that_is_too_large_is_refused_by_itself() -> None:
    large = b'{"a":[' + MANY + b"{}]}"
    text = b'{"apiVersion":"v1","kind":"List","items":[%b,%b,%b]}' % (WEB, large, WEB)
    (document,) = reading.read(text)
    first, refused, last = admission.admit(document.value)
    assert first.accepted
    assert last.accepted
    assert refused.is_invalid
    assert refused.position == "items[1]"


@pytest.mark.parametrize("number", ["1e400", pytest.param("9" * 5_000, id="long")])
def test_h10_a_number_that_no_float_holds_is_named_and_concerns_its_field_alone(
    number: str,
) -> None:
    text = WEB.replace(b"80", number.encode())
    (refused,) = admission.admit(next(reading.read(text)).value)
    assert refused.subject == "Service default/web"
    assert refused.finding
    assert "spec.ports[0].port is a huge number" in refused.finding.text
    elsewhere = WEB.replace(b'"spec"', b'"other":%b,"spec"' % number.encode())
    (accepted,) = admission.admit(next(reading.read(elsewhere)).value)
    assert accepted.accepted


@pytest.mark.parametrize(
    ("escaped", "value"),
    [
        (r"\ud800", "\ufffd"),
        (r"\uDFFF!", "\ufffd!"),
        (r"\udc00\ud83d", "\ufffd\ufffd"),
        (r"\ud83d\uDE00", "\U0001f600"),
        (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (r"\\ud800", r"\ud800"),
        (r"\\\ud800\n", "\\\ufffd\n"),
    ],
)
def test_half_a_letter_in_json_is_a_replacement_character_as_in_go(
    escaped: str, value: str
) -> None:
    (document,) = reading.read_json(f'{{"a": "{escaped}"}}'.encode())
    assert objects.plain(document.value) == {"a": value}
