"""When a writer to an API server tries again, and what it says. Its clock jumps."""

import asyncio
from collections.abc import Sequence

import pytest

from kproxy.sources.api import client, writing
from kproxy.sources.api.decisions import progress
from tests import virtual_time


def attempts(outcomes: Sequence[bool], dues: Sequence[float], pause: float = 0.0) -> list[float]:
    """When it is tried, if the attempts end so, and something becomes due at these moments."""
    times: list[float] = []

    async def scenario() -> None:
        clock = asyncio.get_running_loop().time
        due = asyncio.Event()

        async def attempt() -> bool:
            times.append(clock())
            return outcomes[len(times) - 1] if len(times) <= len(outcomes) else True

        async with asyncio.TaskGroup() as group:
            trying = group.create_task(writing.keep_trying(due, attempt, pause))
            for each in dues:
                await asyncio.sleep(each - clock())
                due.set()
            await asyncio.sleep(1000.0)
            trying.cancel()

    virtual_time.run(scenario)
    return times


def test_the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_success() -> None:
    fails_eight_times = [*[False] * 8, True, False]
    tried = attempts(fails_eight_times, [0.0, 500.0])
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183, 500, 501]


def test_what_becomes_due_within_the_pause_is_part_of_the_attempt() -> None:
    assert attempts([], [0.0, 0.25, 2.0], pause=0.5) == [0.5, 2.5]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (progress.Outcome.FORBIDDEN, "no; an administrator can grant it by: kubectl create role"),
        (progress.Outcome.REFUSED, "no"),
    ],
)
def test_a_missing_right_has_its_remedy(outcome: progress.Outcome, said: str) -> None:
    error = client.RequestError(outcome, "no")
    assert writing.reason(error, "kubectl create role") == said


def test_a_timestamp_is_in_whole_seconds_of_utc() -> None:
    assert writing.timestamp(1_800_000_000.75) == "2027-01-15T08:00:00Z"
