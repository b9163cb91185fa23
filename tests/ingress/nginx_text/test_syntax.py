"""nginx's syntax: whatever a value is, nginx reads back that value, and nothing besides."""

import string

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.ingress.nginx_text import syntax
from kproxy.ingress.nginx_text.syntax import (
    Block,
    Condition,
    Defined,
    Directive,
    Entry,
    Group,
    Keyword,
    Regex,
    Template,
    Variable,
)
from tests.ingress.rig import nginx_reader

NASTY = [
    "",
    " ",
    ";",
    "{",
    "}",
    "};",
    '"',
    "'",
    '\\"',
    "\\",
    "\\\\",
    "#",
    "$",
    "$host",
    "${host}",
    "a b",
    "x; include /etc/passwd",
    'x" ; include "/etc/passwd',
    "x\\",
    "}}}} http { server { listen 1; } }",
    "\\n",
    "~",
    "=",
    "ä€",
]


WITHOUT_CONTROLS = st.characters(
    min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]
)


def text_of(*statements: syntax.Statement) -> str:
    return "".join(syntax.lines(statements))


def read(*statements: syntax.Statement) -> list[nginx_reader.Node]:
    return nginx_reader.read(text_of(*statements)).body


@pytest.mark.parametrize("value", NASTY)
def test_a_word_is_read_back_as_it_is(value: str) -> None:
    found = read(Directive("location", value), Directive("daemon", "off"))
    assert [each.words for each in found] == [["location", value], ["daemon", "off"]]


@hypothesis.given(st.lists(st.text(WITHOUT_CONTROLS)))
def test_any_words_are_read_back_as_they_are(values: list[str]) -> None:
    found = read(Block(Directive("server_name", *values), [Directive("daemon", "off")]))
    assert [each.words for each in found] == [["server_name", *values]]
    assert [each.words for each in found[0].body] == [["daemon", "off"]]


@pytest.mark.parametrize("control", [*map(chr, range(32)), "\x7f", "\ud800"])
def test_no_quotes_hold_a_control_character(control: str) -> None:
    with pytest.raises(ValueError, match="cannot contain"):
        text_of(Directive("location", f"/a{control}b"))


def test_a_word_that_nginx_has_no_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4000 bytes"):
        text_of(Directive("location", '"' * 2001))


def test_a_dollar_in_text_is_no_variable() -> None:
    (found,) = read(Directive("return", 200, "costs $host"))
    assert found.words == ["return", "200", "costs ${kproxy_dollar}host"]


def test_variables_come_as_such_only() -> None:
    there = Template(("https://", Variable("host"), "/$uri"))
    (found,) = read(Directive("return", 308, there))
    assert found.words == ["return", "308", "https://${host}/${kproxy_dollar}uri"]
    (found,) = read(Directive("rewrite", Regex("^/a$"), Template(("/", Group(1))), "break"))
    assert found.words == ["rewrite", "^/a$", "/$1", "break"]


def test_a_variable_is_refused_where_nginx_does_not_look_for_it() -> None:
    with pytest.raises(ValueError, match="does not evaluate"):
        text_of(Directive("listen", Variable("host")))


@pytest.mark.parametrize("name", ["", "Host", "a b", "a}", "host;", "ä"])
def test_a_variable_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        Variable(name)


@pytest.mark.parametrize("number", [0, 10, -1])
def test_groups_are_those_that_nginx_has(number: int) -> None:
    with pytest.raises(ValueError, match="no group"):
        Group(number)


@pytest.mark.parametrize(
    "name",
    [
        "alias",
        "auth_basic_user_file",
        "autoindex",
        "env",
        "include",
        "load_module",
        "perl",
        "root",
        "ssl_engine",
        "try_files",
        "working_directory",
    ],
)
def test_directives_that_read_files_or_run_programs_cannot_be_made(name: str) -> None:
    with pytest.raises(ValueError, match="is not made here"):
        Directive(name, "x")


@pytest.mark.parametrize("key", ["include", "default", "hostnames", "volatile", "~^a", "\\", '"'])
def test_a_key_of_a_map_is_compared_and_never_obeyed(key: str) -> None:
    entries = [Entry(Keyword("default"), "0"), Entry(key, "1")]
    head = Directive("map", Variable("http_x"), Defined(Variable("kproxy_x")))
    (found,) = read(Block(head, entries))
    assert found.words == ["map", "${http_x}", "$kproxy_x"]
    assert [each.words for each in found.body] == [["default", "0"], [f"\\{key}", "1"]]


@pytest.mark.parametrize("text", ["", "include", "*;", "5%", "100.00%", "hostnames"])
def test_keywords_are_few(text: str) -> None:
    with pytest.raises(ValueError, match="no keyword"):
        Keyword(text)


def test_a_condition_compares_a_variable_with_a_word() -> None:
    (found,) = read(Block(Directive("if", Condition(Variable("scheme"), "http")), []))
    assert found.words == ["if", "($scheme", "=", "http)"]


def test_the_reader_reads_what_it_should() -> None:
    """Or else the tests above would mean little."""
    (found,) = nginx_reader.read('a b "c d" {e \'f"\' # g;\n;}').body
    assert found.words == ["a", "b", "c d"]
    assert [each.words for each in found.body] == [["e", 'f"']]
    for bad in ("a", "a;}", "{", ";", 'a "b"c;'):
        with pytest.raises(nginx_reader.UnreadableError):
            nginx_reader.read(bad)
    assert set(string.printable) > set("\"'\\{};#$")
