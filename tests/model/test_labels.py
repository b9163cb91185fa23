"""Label selectors as a proxy uses them; their grammar is tried through the simulated API server."""

from pathlib import Path

import pytest

from kproxy.model import labels
from tests import kubectl


def test_every_requirement_must_hold() -> None:
    selector = labels.parse("app in (web, api), tier!=back")

    assert labels.match(selector, {"app": "web"})
    assert not labels.match(selector, {"app": "web", "tier": "back"})
    assert not labels.match(selector, {"app": "db"})


def test_an_empty_selector_selects_everything() -> None:
    assert labels.match(labels.parse(" "), {})


READ = [
    *("a", "!a", "a=b", "a==b", "a!=b", "a in (b)", "a in(b,c)", "a notin (b)", "a>1", "a<1"),
    *("a in ()", "a notin ()", "a in (,b)", "a in (b,)", "a=", "a=,b", "a!=,b=", "! a", "a\t=\tb"),
    *("in", "notin", "in in (in)", "!in", "a=notin", "A=B", "1=2", "a>010", "a=b,a=c", "a=b\n"),
    *("a.b/c=d", "a-b.c/d", "a=b,!c,d in (e),f notin (g),h>1", "x" * 63, "p" * 253 + "/a"),
    f"a>{2**63 - 1}",
]
REFUSED = [
    *("a in", "a=b=c", "=b", "a>x", "(", "a,,b", "ü", ",a", "a,", ",", "!", "!!a", "a b", "a!b"),
    *("a=!b", "a=(b)", "a in b", "a in (b", "a in b)", "a in ((b))", "a in (b) c", "a (b)", "(a)"),
    *("a>", "a>-1", "a>1.0", "a>=1", "a=b*", "a='b'", "a===b", "-a=b", "a-=b", "a=.b", "_a", "/a"),
    *("a/", "a/b/c", "A.b/c", "a..b/c", "a-.b/c", ".a/b", "x" * 64, "a=" + "x" * 64),
    *("p" * 254 + "/a", f"a>{2**63}", "a>" + "9" * 63, "a exists", "a in (b c)", "a!==b", "a=b;c"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(labels.SelectorError, match="unable to parse requirement"):
        labels.parse(text)


@pytest.mark.parametrize("text", READ)
def test_what_is_written_as_kubernetes_has_it_is_read(text: str) -> None:
    assert labels.parse(text)


def test_a_set_of_no_values_has_the_empty_value() -> None:
    """Apimachinery reads `()` as a set of one value, the empty one."""
    assert labels.match(labels.parse("a in ()"), {"a": ""})
    assert not labels.match(labels.parse("a in ()"), {"a": "b"})
    assert not labels.match(labels.parse("a in ()"), {})
    assert not labels.match(labels.parse("a notin ()"), {"a": ""})
    assert labels.match(labels.parse("a notin ()"), {"a": "b"})


def test_a_label_that_is_no_number_of_64_bits_is_neither_more_nor_less() -> None:
    assert labels.match(labels.parse("a>1"), {"a": str(2**63 - 1)})
    assert not labels.match(labels.parse("a>1"), {"a": str(2**63)})
    assert not labels.match(labels.parse("a<1"), {"a": "-" + "9" * 30})


@pytest.mark.extra
def test_kubectl_reads_and_refuses_the_same(tmp_path: Path) -> None:
    """`kubectl drain` reads a selector before it asks a server, which is not there."""
    program = kubectl.Kubectl(kubectl.newest(), tmp_path)

    def is_refused(text: str) -> bool:
        done = program.run("drain", "nosuch", "--server=127.0.0.1:1", f"--pod-selector={text}")
        assert done.returncode == 1
        return "must be a valid label selector" in done.stderr

    assert [text for text in READ if is_refused(text)] == []
    assert [text for text in REFUSED if not is_refused(text)] == []
