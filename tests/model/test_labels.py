"""Label selectors as a proxy uses them; their grammar is tried through the simulated API server."""

import pytest

from kproxy.model import labels


def test_every_requirement_must_hold() -> None:
    selector = labels.parse("app in (web, api), tier!=back")

    assert labels.match(selector, {"app": "web"})
    assert not labels.match(selector, {"app": "web", "tier": "back"})
    assert not labels.match(selector, {"app": "db"})


def test_an_empty_selector_selects_everything() -> None:
    assert labels.match(labels.parse(" "), {})


@pytest.mark.parametrize("text", ["a in", "a=b=c", "=b", "a in ()", "a>x", "(", "a,,b", "ü"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(labels.SelectorError, match="unable to parse requirement"):
        labels.parse(text)
