"""How long to wait before asking again."""

import random

import pytest

from kproxy.sources.transfer import backoff


class Longest(random.Random):
    """Draws the end of every range, so that ceilings can be seen."""

    def uniform(self, a: float, b: float) -> float:
        """The end."""
        del a
        return b


def ceilings(made: backoff.Backoff, start: float, count: int) -> list[float]:
    """The waits after failures that follow each other as closely as the waits allow."""
    now, waits = start, []
    for _ in range(count):
        waits.append(made.delay(now))
        now += waits[-1]
    return waits


def test_waits_double_from_0_8_to_30_seconds() -> None:
    made = backoff.Backoff(Longest())
    assert ceilings(made, 0.0, 8) == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]


def test_two_minutes_of_health_make_the_next_failure_a_first_one() -> None:
    made = backoff.Backoff(Longest())
    waits = ceilings(made, 0.0, 8)
    last_failure = sum(waits[:-1])
    assert made.delay(last_failure + 119.9) == 30.0
    assert made.delay(last_failure + 119.9 + 120.1) == 0.8
    assert made.delay(last_failure + 119.9 + 120.2) == 1.6


def test_waits_are_drawn_from_all_of_the_range() -> None:
    """Clients that lost the same server do not come back together."""
    drawn = [backoff.Backoff(random.Random(seed)).delay(0.0) for seed in range(200)]
    assert all(0.0 <= each <= 0.8 for each in drawn)
    assert min(drawn) < 0.05
    assert max(drawn) > 0.75


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("Sat, 21 Nov 2026 07:28:00 GMT", 0.0),
        ("9" * 5000, backoff.LONGEST_RETRY_AFTER),
    ],
)
def test_retry_after_is_seconds_within_bounds(header: str | None, seconds: float) -> None:
    assert backoff.retry_after(header) == seconds
