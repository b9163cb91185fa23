"""What files hold, side by side with the kubectls of this machine: the same JSON, or a reason.

`kubectl annotate --local` reads a file as `apply` does and prints it without asking a server.
Versions differ where they disagree among themselves: 1.33 reads as YAML what is no JSON.
"""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kproxy.model import objects
from kproxy.sources.documents import reading
from tests import kubectl as kubectls

PROGRAMS = kubectls.last()
pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(
        not PROGRAMS, reason="no kubectl: install Debian's package kubernetes-client"
    ),
]

HEAD = "apiVersion: v1\nkind: Foo\nmetadata: {name: a}\n"
OTHER = "apiVersion: v1\nkind: Foo\nmetadata: {name: b}\n"
JSON = '{"apiVersion":"v1","kind":"Foo","metadata":{"name":"%s"},"v":%s}'
KIND = "{apiVersion: v1, kind: Foo, metadata: {name: %s}}"


def value(text: str) -> str:
    return f"{HEAD}v: {text}\n"


SAME: dict[str, str | bytes] = {
    **{
        f"scalar {text[:24]!r}": value(text)
        for text in (
            *("80", "80.0", "'80.0'", "1e2", "1e400", "0x1F", "0X1f", "017", "0o17", "08", "0b11"),
            *("1_000", "1_000.5", "22:30", "1:1:1", "190:20:30.15", "+12", "-0", "1.", ".5", "+.5"),
            *("yes", "Y", "n", "On", "OFF", "True", "tRUE", "~", "Null", "", "'y'", '"off"'),
            *("2026-01-01", "2026-01-01T00:00:00Z", "!!timestamp 2026-01-01", "=", "<<", "1.2.3"),
            *("99999999999999999999", "18446744073709551615", "-9223372036854775808"),
            *("0777777777777777777777777", "9" * 400, "1e9999999", "-0x1F", "-017", "-0b1", "0b2"),
            *("!!str 80", "!!int '80'", "!!float 80", "!!bool yes", "!!null ''", "! 80", "!foo 80"),
            *("!!binary |\n  aGVs\n  bG8=", "!!int 1_0", "!!int 0x1F", "!!int 017", "!!int +5"),
            *("!!binary aGVsbG8=", "!!set {a}", "!!omap [a: 1]", "!!str [1]", "!!str", "1_", "0_1"),
            *("Infinity", "NaN", "0x", "_1", "1,000", "a#c", "a #c", '"\\u00e9\\x41"', "'a''b'"),
            *("&x 1", "{x: 1, y: 2}", "{1: a, true: b, 0x10: c}", "{1.5: a, 1e3: b, 1e20: c}"),
            *("{a: 1, a: 2}", "|\n  a\n  ---\n  b", ">\n  a\n  b", "[[1, [2]], {}]", "{a: , b: ~}"),
        )
    },
    "merge": f"{HEAD}b: &b {{x: 1, y1: 2}}\nv: {{<<: *b, x: 3}}\n",
    "merge after": f"{HEAD}b: &b {{x: 1}}\nv: {{x: 3, <<: *b}}\n",
    "merge of several": f"{HEAD}b: &b {{x: 1}}\nc: &c {{x: 2, z: 3}}\nv: {{<<: [*b, *c], q: 3}}\n",
    "merge twice": f"{HEAD}b: &b {{x: 1}}\nc: &c {{x: 2}}\nv: {{<<: *b, <<: *c}}\n",
    "merge in quotes": value("{'<<': 3}"),
    "byte order mark": f"\ufeff{HEAD}",
    "CR LF": HEAD.replace("\n", "\r\n"),
    "CR": HEAD.replace("\n", "\r"),
    "tabs in flow": value("{\ta: 1,\n\tb: 2}"),
    "tab at the end": value("1\t"),
    "separator and spaces": f"{HEAD}---  \t\n{OTHER}",
    "end of document": f"{HEAD}...\n---\n{OTHER}",
    "only comments": "# a\n\n# b\n",
    "nothing": "",
    "only separators": "---\n---\n",
    "null, then one": f"~\n---\n{HEAD}",
    "empty, then one": f"---\n# x\n---\n{HEAD}",
    "YAML, then JSON": HEAD + "---\n" + JSON % ("b", "1"),
    "JSON values one after the other": JSON % ("a", "80.0") + "\n" + JSON % ("b", "1"),
    "JSON in one line": JSON % ("a", "1") + JSON % ("b", "2"),
    "JSON behind a comment": "# c\n" + JSON % ("a", "1"),
    "JSON with tabs": '{\n\t"apiVersion": "v1",\n\t"kind": "Foo",\n\t"metadata": {"name": "a"}\n}',
    "JSON behind spaces": "\n  " + JSON % ("a", "[1, {}]"),
    "JSON with a mark": "\ufeff" + JSON % ("a", "1"),
    "JSON with a key twice": JSON % ("a", '1,"v":2'),
    "JSON with brackets in strings": JSON % ("a", '"]}{[\\""'),
    "Latin-1": f"{HEAD}# caf\xe9\nv: caf\xe9\n".encode("latin-1"),
    "JSON with halves of letters": JSON
    % ("a", r'["\ud800", "\udc00\ud83d", "\ud83d\uDE00", "\\ud800"]'),
    "JSON in Latin-1": (JSON % ("a", '"caf\xe9"')).encode("latin-1"),
    "UTF-16": HEAD.encode("utf-16"),
    "List": f"apiVersion: v1\nkind: List\nitems:\n- {KIND % 'a'}\n- {KIND % 'b'}\n",
    "empty List": "apiVersion: v1\nkind: List\nitems:\n",
    "kind in lower case": "apiVersion: v1\nkind: service\nmetadata: {name: a}\n",
}

REFUSED: dict[str, str | bytes] = {
    **{
        f"scalar {text!r}": value(text)
        for text in (
            *(".inf", "-.Inf", ".nan", "!!int yes", "!!int abc", "!!int 80.5", "!!bool 1"),
            *(
                "!!null x",
                "!!binary '@'",
                "!!binary 'aGVs bG8='",
                "!!int 1e3",
                "!!int 80.0",
                "@a",
                "`a",
                "%a",
                "a: b",
                "*x",
                "{[a]: 1}",
                "{{a: 1}: 1}",
            ),
            *("{~: 1}", "{<<: 3}", "&q [*q]", "- a", "[", "a\x07b", "a\x7fb"),
        )
    },
    "tab as indentation": f"{HEAD}v:\n\ta: 1\n",
    "tab before a comment": f"{HEAD}\t# c\nv: 1\n",
    "separator with a space": f"{HEAD} ---\n{OTHER}",
    "four dashes": f"{HEAD}----\n{OTHER}",
    "alias across documents": f"{HEAD}v: &q 1\n---\n{OTHER}v: *q\n",
    "JSON with a control character": JSON % ("a", '"a\x01b"'),
    "JSON, then a comma": JSON % ("a", "1") + "," + JSON % ("b", "1"),
    "JSON that is cut": (JSON % ("a", "1"))[:-5],
    "UTF-16 without a mark": HEAD.encode("utf-16-le"),
    "a string": "hello\n",
    "a list": "- a\n",
    "no kind": "apiVersion: v1\nmetadata: {name: a}\n",
    "null kind": "apiVersion: v1\nkind:\nmetadata: {name: a}\n",
}

MORE: dict[str, tuple[str, int]] = {
    "content behind the separator": (f"--- {KIND % 'a'}\n", 1),
    "a YAML directive": (f"%YAML 1.1\n---\n{HEAD}", 1),
    "YAML that begins with a brace": (KIND % "a", 1),
    "JSON with a trailing comma": (JSON % ("a", "[1,]"), 1),
    "JSON in single quotes": ((JSON % ("a", "1")).replace('"', "'"), 1),
    "JSON, then a separator": (JSON % ("a", "1") + "\n---\n" + OTHER, 2),
    "a comment stuck to the separator": (f"{HEAD}---#x\n{OTHER}", 2),
    "good ones around a bad one": (f"{HEAD}---\na: [\n---\n{OTHER}", 2),
}
"""What some kubectl refuses in part, and we read: how many objects."""


def ours(text: str | bytes) -> tuple[list[Any], list[str]]:
    """The objects in a file that kproxy would judge, and what is wrong with the others."""
    data = text.encode() if isinstance(text, str) else text
    good: list[Any] = []
    bad = []
    for each in reading.read(data):
        raw = objects.plain(each.value)
        if each.flaw or not isinstance(raw, dict) or not raw.get("kind"):
            bad.append(each.flaw or "not an object")
        elif raw["kind"] == "List":
            good.extend(objects.plain(item) for item in raw["items"] or ())
        else:
            good.append(raw)
    return good, bad


def theirs(program: Path, folder: Path, text: str | bytes) -> tuple[list[Any], str]:
    """The objects that kubectl reads from the same file, and its complaint."""
    path = folder / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    done = subprocess.run(
        [program, "annotate", "--local", "-o", "json", "-f", path, "probe=1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    found = []
    rest = done.stdout.strip()
    while rest:
        raw, end = json.JSONDecoder().raw_decode(rest)
        rest = rest[end:].strip()
        del raw["metadata"]["annotations"]
        found.append(raw)
    return found, done.stderr if done.returncode else ""


def is_same(left: Any, right: Any) -> bool:
    """Whether two values are the same JSON: 80.0 is 80, true is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(is_same(a, b) for a, b in pairs)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=1e-15)
    return bool(left == right)


@pytest.fixture(params=PROGRAMS, scope="module")
def program(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in SAME.items()])
def test_what_kubectl_reads_means_the_same(
    program: Path, tmp_path: Path, text: str | bytes
) -> None:
    read, complaint = theirs(program, tmp_path, text)
    good, bad = ours(text)
    assert not complaint
    assert not bad
    assert is_same(good, read), (good, read)


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in REFUSED.items()])
def test_what_kubectl_refuses_is_refused(program: Path, tmp_path: Path, text: str | bytes) -> None:
    _, complaint = theirs(program, tmp_path, text)
    assert complaint
    assert ours(text)[1]


@pytest.mark.parametrize(
    ("text", "count"), [pytest.param(*each, id=name) for name, each in MORE.items()]
)
def test_what_is_read_beyond_that_agrees_as_far_as_kubectl_comes(
    program: Path, tmp_path: Path, text: str, count: int
) -> None:
    read, _ = theirs(program, tmp_path, text)
    good, _ = ours(text)
    assert len(good) == count
    assert is_same(good[: len(read)], read)
