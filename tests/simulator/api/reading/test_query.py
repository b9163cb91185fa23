"""Query parameters as Go reads them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.simulator.api.reading import query
from kproxy.simulator.store import statuses


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-7", -7), ("+7", 7), ("007", 7), ("9223372036854775807", 2**63 - 1)],
)
def test_integers(text: str, value: int) -> None:
    assert query.integer({"limit": text}, "limit") == value
    assert query.integer({}, "limit") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid syntax"),
        ("1_000", "invalid syntax"),
        (" 1", "invalid syntax"),
        ("1.0", "invalid syntax"),
        ("٣", "invalid syntax"),
        ("NaN", "invalid syntax"),
        ("9223372036854775808", "value out of range"),
        ("-9223372036854775809", "value out of range"),
        ("9" * 5000, "value out of range"),
    ],
)
def test_what_is_no_integer(text: str, words: str) -> None:
    with pytest.raises(statuses.StatusError, match=words) as caught:
        query.integer({"limit": text}, "limit")
    assert caught.value.code == 400


@given(st.text() | st.integers().map(str))
def test_any_text_is_a_number_or_a_bad_request(text: str) -> None:
    value: int | None = None
    with contextlib.suppress(statuses.StatusError):
        value = query.integer({"limit": text}, "limit")
    assert value is None or value == int(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("", True), ("no", True), ("FALSE", False), ("0", False)],
)
def test_truth_is_whatever_is_not_false(text: str, value: bool) -> None:
    assert query.boolean({"watch": text}, "watch") is value
    assert query.boolean({}, "watch") is None
