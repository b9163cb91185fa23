"""`--log-level debug`: a line for what happens to each connection, and never at a relay's cost."""

import asyncio
from collections.abc import Callable

import structlog

from kproxy import events, metrics
from kproxy.ops import event_log
from tests import virtual_time

CLIENT, ENDPOINT = ("192.0.2.1", 4000), ("2001:db8::1", 80)


def logged(play: Callable[[events.Feed], None], seconds: float = 60.0) -> list[dict[str, object]]:
    """The lines that the facts which `play` publishes give, whatever a line costs."""

    async def main() -> None:
        feed = events.Feed()
        writing = asyncio.ensure_future(event_log.write(feed, asyncio.get_running_loop().time))
        await asyncio.sleep(0)
        play(feed)
        await asyncio.sleep(seconds)
        writing.cancel()

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    return [dict(entry) for entry in log]


def test_a_connection_is_shown_with_service_first() -> None:
    def play(feed: events.Feed) -> None:
        feed.publish(events.ConnectionAccepted(1.0, "a/web", CLIENT))
        feed.publish(events.DialFailed(1.0, "a/web", CLIENT, ENDPOINT, "timeout", 1))
        feed.publish(events.Dialled(1.5, "a/web", CLIENT, ENDPOINT, 0.5))
        feed.publish(
            events.ConnectionEnded(2.0, "a/web", CLIENT, ENDPOINT, "C/H", "so it is", 5, 7, 1.0)
        )

    lines = logged(play)
    assert [line["event"] for line in lines] == [
        "connection accepted",
        "dial failed",
        "endpoint reached",
        "connection ended",
    ]
    assert {line["log_level"] for line in lines} == {"debug"}
    for line in lines:
        assert list(line)[:2] == ["service", "client"]
        assert line["client"] == "192.0.2.1:4000"
    assert lines[3]["endpoint"] == "[2001:db8::1]:80"
    assert lines[3]["why"] == "so it is"
    assert (lines[3]["bytes_from_client"], lines[3]["bytes_from_endpoint"]) == (5, 7)


def test_endpoints_and_the_penalty_box_are_shown() -> None:
    some = tuple((f"10.0.0.{n}", 80) for n in range(3))

    def play(feed: events.Feed) -> None:
        feed.publish(events.EndpointBoxed(1.0, ENDPOINT))
        feed.publish(events.EndpointReleased(2.0, ENDPOINT))
        feed.publish(events.EndpointsChanged(3.0, "a/web", some, (), 12, 9))
        feed.publish(events.ServiceChanged(4.0, "a/web", "removed"))
        feed.publish(events.FrontendOpened(5.0, "a/web", ENDPOINT))

    boxed, released, changed, removed = logged(play)
    assert str(boxed["event"]).startswith("endpoint is avoided")
    assert released["event"] == "endpoint answers again"
    assert changed["added"] == [f"10.0.0.{n}:80" for n in range(3)]
    assert (changed["endpoints"], changed["left_out"]) == (12, 9)
    assert removed["event"] == "service port removed"


def test_what_comes_faster_than_the_log_is_lost_and_counted() -> None:
    def play(feed: events.Feed) -> None:
        for _ in range(events.QUEUE + 500):
            feed.publish(events.ServiceChanged(1.0, "a/web", "changed"))

    lines = logged(play)
    assert lines[-1]["lost"] == 500
    assert len(lines) == events.QUEUE + 1


def test_what_is_lost_is_said_while_more_comes_than_the_log_takes() -> None:
    """A fact takes the whole budget here, and the queue never empties."""
    ticks = 0.0

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def clock() -> float:
            nonlocal ticks
            ticks += 0.01
            return loop.time() + ticks

        feed = events.Feed()
        writing = asyncio.ensure_future(event_log.write(feed, clock))
        await asyncio.sleep(0)
        for _ in range(600):
            for _ in range(events.QUEUE):
                feed.publish(events.ServiceChanged(1.0, "a/web", "changed"))
            await asyncio.sleep(0.05)
        writing.cancel()

    with structlog.testing.capture_logs() as log:
        virtual_time.run(main)
    assert sum("lost" in entry for entry in log) >= 2


async def test_the_log_leaves_the_event_loop_to_others() -> None:
    """A millisecond of lines, then a pause. Here each line takes a tenth of one."""
    feed = events.Feed()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.0001
        return now

    with structlog.testing.capture_logs() as log:
        writing = asyncio.ensure_future(event_log.write(feed, clock))
        await asyncio.sleep(0)
        for _ in range(100):
            feed.publish(events.ServiceChanged(1.0, "a/web", "changed"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 1 <= len(log) <= 11
        writing.cancel()


def test_a_watch_that_is_lost_and_regained_is_published() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        feed = events.Feed()
        told = feed.subscribe()
        watched = metrics.ReflectorCounters("services")
        watched.contact.heard_at = clock()
        watching = asyncio.ensure_future(event_log.watch_watches(feed, lambda: [watched], clock))
        await asyncio.sleep(10)
        assert told.take() is None
        watched.contact.failing_since = clock()
        await asyncio.sleep(10)
        lost = told.take()
        assert isinstance(lost, events.WatchLost)
        assert lost.resource == "services"
        watched.contact.failing_since = None
        await asyncio.sleep(10)
        regained = told.take()
        assert isinstance(regained, events.WatchRegained)
        assert 19 <= regained.seconds <= 22
        assert told.take() is None
        watching.cancel()

    virtual_time.run(main)


def test_the_log_asks_for_facts_only_at_its_lowest_level() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    try:
        assert not event_log.is_wanted()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(10))
        assert event_log.is_wanted()
    finally:
        structlog.reset_defaults()
