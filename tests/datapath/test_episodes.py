"""A trouble is one line when it begins and one when it is over, however often it happens."""

import asyncio

import structlog

from kproxy.datapath import episodes
from tests import virtual_time

KIND = episodes.Kind("it begins", "it is over", "times")


def test_a_trouble_is_said_once_and_counted() -> None:
    async def main() -> None:
        troubles = episodes.Episodes()
        for number in range(5000):
            troubles.note(KIND, "a/web", lambda number=number: {"client": number})  # type: ignore[misc]
        assert troubles.is_open(KIND, "a/web")
        await asyncio.sleep(episodes.QUIET_SECONDS + 1)
        assert not troubles.is_open(KIND, "a/web")

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    assert log == [
        {"event": "it begins", "service": "a/web", "client": 0, "log_level": "warning"},
        {
            "event": "it is over",
            "service": "a/web",
            "times": 5000,
            "seconds": 0.0,
            "log_level": "info",
        },
    ]


def test_what_comes_back_before_it_was_quiet_is_the_same_episode() -> None:
    async def main() -> None:
        troubles = episodes.Episodes()
        for _ in range(100):
            troubles.note(KIND)
            await asyncio.sleep(episodes.QUIET_SECONDS - 1)
        await asyncio.sleep(2)
        troubles.note(KIND)
        troubles.close()

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    assert [entry.get("times") for entry in log] == [None, 100, None, 1]
    assert log[1]["seconds"] == 99 * (episodes.QUIET_SECONDS - 1)


def test_an_episode_lasts_as_long_as_its_cause() -> None:
    async def main() -> None:
        troubles = episodes.Episodes()
        is_full = True
        troubles.note(KIND, goes_on=lambda: is_full)
        await asyncio.sleep(3600)
        assert troubles.is_open(KIND)
        is_full = False
        await asyncio.sleep(3 * episodes.QUIET_SECONDS)
        assert not troubles.is_open(KIND)

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    assert len(log) == 2
    assert 3590 < log[1]["seconds"] <= 3600


def test_each_place_and_kind_has_its_own() -> None:
    async def main() -> None:
        troubles = episodes.Episodes()
        troubles.note(KIND, "a/web")
        troubles.note(KIND, "b/web")
        troubles.note(episodes.FULL)
        troubles.close()

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    assert [entry.get("service") for entry in log] == ["a/web", "b/web", None] * 2
