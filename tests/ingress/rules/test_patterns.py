"""Patterns: which expressions are supported, and what they mean in PCRE and in Python."""

import re
import string
import subprocess

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.ingress.rules import patterns
from tests.ingress.rig import nginx_rig


@pytest.mark.parametrize(
    ("text", "literal", "groups"),
    [
        ("/foo", "/foo", 0),
        ("/foo(/|$)(.*)", "/foo", 2),
        ("/foo/?(.*)", "/foo", 1),
        ("/api/v[0-9]+/users/([^/]+)", "/api/v", 1),
        ("/a.b", "/a", 0),
        ("/a\\.b", "/a.b", 0),
        ("/a*", "/", 0),
        ("/ab+c", "/a", 0),
        ("/a{2,3}", "/", 0),
        ("/(?:a|b)/c", "/", 0),
        ("/a|/b", "", 0),
        ("/a.*|/b", "", 0),
        ("/[\\w.-]+$", "/", 0),
        ("/a$", "/a", 0),
        ("/.*?x", "/", 0),
        ("/((a)(b))", "/", 3),
        ("/\\d+\\-\\S", "/", 0),
        ("/a-b_c~d,e;f:g@h=i!j&k'l#m%n", "/a-b_c~d,e;f:g@h=i!j&k'l#m%n", 0),
    ],
)
def test_what_is_supported(text: str, literal: str, groups: int) -> None:
    assert patterns.parse(text) == patterns.Pattern(text, literal, groups)


@pytest.mark.parametrize(
    "text",
    [
        "/(",
        "/)",
        "/[",
        "/[]",
        "/[]a]",
        "/]",
        "/}",
        "/{",
        "/a{",
        "/a{x}",
        "/a{0}",
        "/a{200}",
        "/a{3,2}",
        "/*" + "*",
        "/a*+",
        "/a+*",
        "/a??" + "?",
        "/a{2}{3}",
        "*",
        "+",
        "?",
        "/\\",
        "/\\1",
        "/\\b",
        "/\\x41",
        "/\\Q",
        "/(?=a)",
        "/(?!a)",
        "/(?<=a)",
        "/(?<name>a)",
        "/(?P<name>a)",
        "/(?i)a",
        "/(?#a)",
        "/(*LIMIT_MATCH=1)",
        "/(a+)+",
        "/(a*)*",
        "/(a|aa)+",
        "/(a|b){2,}",
        "/((a|b))+",
        "/(?:a?)*",
        "/a*b*c*d*e*",
        "/^a",
        "^/a",
        "/a$*",
        "/[[:alpha:]]",
        "/[z-a]",
        "/[a-Z]",
        "/[a--b]",
        "/[a&&b]",
        "/[\\d-z]",
        "/ä",
        "/\n",
        "/\x00",
        "/" + "a" * 512,
        "/" + "(a)" * 10,
        "/" + "(" * 12 + ")" * 12,
    ],
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|contains|is longer|ends|repeats) "):
        patterns.parse(text)


def test_a_pattern_for_headers_may_be_anchored() -> None:
    assert patterns.parse("^v[12]$", may_be_anchored=True).groups == 0


PIECES = st.sampled_from(
    [
        "a",
        "b",
        "/",
        ".",
        "*",
        "+",
        "?",
        "(",
        ")",
        "(?:",
        "|",
        "[ab]",
        "[^a]",
        "[a-c]",
        "$",
        "\\.",
        "\\d",
        "{2}",
        "{1,}",
        "{0,2}",
        "-",
        "]",
        "[",
        "\\",
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces)) | st.text(
    string.printable, max_size=12
)


@hypothesis.given(TEXTS, st.text("ab/1.-", max_size=6))
@hypothesis.settings(max_examples=200)  # about half of them are supported
def test_python_takes_all_that_is_supported(text: str, asked: str) -> None:
    """And what it matches begins with the literal beginning."""
    try:
        pattern = patterns.parse(text)
    except ValueError:
        return
    found = re.match(text, f"/{asked}", re.ASCII)
    assert re.compile(text).groups == pattern.groups
    if found:
        assert f"/{asked}".startswith(pattern.literal)


@pytest.mark.extra
@nginx_rig.needs_nginx
@hypothesis.given(st.lists(TEXTS, min_size=50, max_size=200))
@hypothesis.settings(max_examples=20)
def test_nginx_takes_all_that_is_supported(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("p")
    locations = []
    for text in texts:
        try:
            patterns.parse(text)
        except ValueError:
            continue
        word = f"{patterns.LIMIT}^(?:{text})".replace("\\", "\\\\").replace('"', '\\"')
        locations.append(f'location ~* "{word}" {{ return 200; }}')
    config = directory / "nginx.conf"
    servers = f"server {{ listen unix:{directory}/s; {' '.join(locations)} }}"
    config.write_text(
        f"pid {directory}/pid; error_log stderr; events {{ }} http {{ access_log off; {servers} }}"
    )
    assert nginx_rig.NGINX
    command = [nginx_rig.NGINX, "-t", "-q", "-c", str(config), "-p", str(directory)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
