"""Facts as JSON lines."""

import contextlib
import json
import time
from typing import Any

import pytest

from kproxy import events
from kproxy.ops.views import fact_stream, watching

CLIENT, ENDPOINT = ("10.0.0.1", 5), ("10.1.0.1", 80)


class Stream:
    """A stream of the facts of a feed."""

    def __init__(self, feed: events.Feed) -> None:
        self.lines = fact_stream.lines(feed, lambda view: view["service"] != "unwanted")
        self._waiting: list[bytes] = []

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event."""
        while not self._waiting:
            self._waiting += (await anext(self.lines)).splitlines()
        event = json.loads(self._waiting.pop(0))
        return event["type"], event["object"]


async def test_what_happens_is_sent_and_no_subscription_is_left() -> None:
    feed = events.Feed()
    stream = Stream(feed)
    assert not feed.active
    async with contextlib.aclosing(stream.lines):
        assert await stream.next() == ("BOOKMARK", {})
        assert feed.active
        now = time.monotonic()
        feed.publish(events.Dialled(now, "default/unwanted:http", CLIENT, ENDPOINT, 0.1))
        feed.publish(events.Dialled(now, "default/web:http", CLIENT, ENDPOINT, 0.1234567))
        feed.publish(events.EndpointBoxed(now, ENDPOINT))
        feed.publish(events.EndpointsChanged(now, "default/web:", (ENDPOINT,), (), 1))

        kind, dialled = await stream.next()
        assert kind == "ADDED"
        assert dialled.pop("time").endswith("+00:00")
        assert dialled == {
            "namespace": "default",
            "service": "web",
            "port_name": "http",
            "reason": "Dialled",
            "details": {"client": "10.0.0.1:5", "endpoint": "10.1.0.1:80", "seconds": 0.123457},
        }
        _, boxed = await stream.next()
        assert (boxed["reason"], boxed["service"]) == ("EndpointBoxed", "")
        _, changed = await stream.next()
        assert changed["details"] == {"added": ["10.1.0.1:80"], "removed": [], "count": 1}
    assert not feed.active


async def test_what_happened_lately_comes_first() -> None:
    feed = events.Feed()
    now = time.monotonic()
    for name in ("default/web:", "default/unwanted:", "default/db:"):
        feed.record(events.ServiceChanged(now, name, "added"))
    stream = Stream(feed)
    async with contextlib.aclosing(stream.lines):
        assert [(await stream.next())[1]["service"] for _ in range(2)] == ["web", "db"]
        assert await stream.next() == ("BOOKMARK", {})
        feed.record(events.ServiceChanged(now, "default/late:", "added"))
        assert (await stream.next())[1]["service"] == "late"


async def test_what_was_lost_is_counted() -> None:
    feed = events.Feed()
    stream = Stream(feed)
    async with contextlib.aclosing(stream.lines):
        assert await stream.next() == ("BOOKMARK", {})
        for _ in range(events.QUEUE + 3):
            feed.publish(events.EndpointBoxed(0.0, ENDPOINT))
        kinds = []
        while "WARNING" not in kinds:
            kind, view = await stream.next()
            kinds.append(kind)
        assert view["message"].startswith("3 events are missing here")


async def test_a_quiet_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "QUIET", 0.0)
    stream = Stream(events.Feed())
    async with contextlib.aclosing(stream.lines):
        assert [(await stream.next())[0] for _ in range(3)] == ["BOOKMARK"] * 3
