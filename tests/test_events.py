"""The feed: facts in order for each subscriber, drops counted, nothing built without one."""

import asyncio

import msgspec
import pytest

from kproxy import events


def fact(number: int) -> events.Fact:
    return events.EndpointBoxed(float(number), ("10.0.0.1", 80))


async def test_each_subscriber_gets_every_fact_in_order() -> None:
    feed = events.Feed()
    feed.publish(fact(0))
    one = feed.subscribe()
    feed.publish(fact(1))
    two = feed.subscribe()
    feed.publish(fact(2))
    assert [one.take(), one.take(), one.take()] == [fact(1), fact(2), None]
    assert [two.take(), two.take()] == [fact(2), None]
    one.close()
    feed.publish(fact(3))
    assert one.take() is None
    assert two.take() == fact(3)


async def test_what_a_slow_subscriber_loses_is_counted_and_no_other_loses_it() -> None:
    feed = events.Feed()
    slow, quick = feed.subscribe(limit=3), feed.subscribe(limit=100)
    for number in range(10):
        feed.publish(fact(number))
    assert (slow.dropped, quick.dropped) == (7, 0)
    assert [slow.take() for _ in range(4)] == [fact(0), fact(1), fact(2), None]
    feed.publish(fact(10))
    assert slow.take() == fact(10)
    assert [quick.take() for _ in range(11)] == [fact(number) for number in range(11)]


async def test_a_publisher_can_see_that_every_queue_is_full() -> None:
    feed = events.Feed()
    assert not feed.is_full
    small, large = feed.subscribe(limit=1), feed.subscribe(limit=2)
    feed.publish(fact(1))
    assert not feed.is_full
    feed.publish(fact(2))
    assert feed.is_full
    feed.drop(3)
    assert (small.dropped, large.dropped) == (4, 3)
    assert large.take() == fact(1)
    assert not feed.is_full
    large.close()
    assert feed.is_full
    assert small.take() == fact(1)
    assert not feed.is_full
    small.close()
    assert not feed.is_full


async def test_a_subscriber_can_wait_for_a_fact() -> None:
    feed = events.Feed()
    subscription = feed.subscribe()
    for number in range(3):
        waiting = asyncio.ensure_future(subscription.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        feed.publish(fact(number))
        async with asyncio.timeout(10):
            await waiting
            await subscription.wait()
        assert subscription.take() == fact(number)


async def test_who_follows_has_the_feed_only_while_somebody_subscribes() -> None:
    feed = events.Feed()
    given: list[events.Feed | None] = []
    feed.follow(given.append)
    assert given == []
    one, two = feed.subscribe(), feed.subscribe()
    assert given == [feed]
    one.close()
    one.close()
    two.close()
    assert given == [feed, None]
    assert not feed.active
    three = feed.subscribe()
    feed.follow(given.append)
    assert given == [feed, None, feed, feed]
    three.close()


async def test_rare_facts_are_kept_with_and_without_subscribers() -> None:
    feed = events.Feed()
    feed.publish(fact(0))
    feed.record(fact(1))
    told = feed.subscribe()
    feed.record(fact(2))
    assert feed.recent() == (fact(1), fact(2))
    assert [told.take(), told.take()] == [fact(2), None]
    for number in range(events.RECENT + 10):
        feed.record(fact(number))
    assert feed.recent() == tuple(fact(number) for number in range(10, events.RECENT + 10))


def test_a_fact_does_not_change() -> None:
    with pytest.raises(AttributeError):
        fact(1).at = 2.0  # type: ignore[misc]


def test_facts_can_cross_a_process_boundary() -> None:
    ended = events.ConnectionEnded(
        1.0, "a/web:http", ("192.0.2.1", 4000), None, "B/D", "why", 5, 6, 0.1
    )
    assert msgspec.json.decode(msgspec.json.encode(ended), type=events.ConnectionEnded) == ended
