"""Ages as kubectl shows them."""

from datetime import UTC, datetime, timedelta

import pytest

from kproxy.model import ages

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (150, "2m30s"),
        (700, "11m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600, "9h"),
        (49 * 3600, "2d1h"),
        (30 * 86400, "30d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_ages_are_those_of_kubectl(seconds: int, text: str) -> None:
    moment = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert ages.age(moment, NOW) == text


@pytest.mark.parametrize("created", ["", None, "yesterday", "2026-13-01T00:00:00Z"])
def test_an_age_that_cannot_be_read_is_unknown(created: str | None) -> None:
    assert ages.age(created, NOW) == "<unknown>"
