"""What the data path tells in a feed of its connections."""

from kproxy import events
from kproxy.datapath.tcp import halfclose
from tests.datapath.rig import clients, harness


def facts(subscription: events.Subscription) -> list[events.Fact]:
    found = []
    while (fact := subscription.take()) is not None:
        found.append(fact)
    return found


async def test_facts_cover_a_connection_from_its_accept_to_its_end(bench: harness.Harness) -> None:
    path, place, refusing = bench.start(), bench.backend(), bench.place()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    subscription = feed.subscribe()
    service = path.serve_by(harness.Scripted(refusing.address, place.address))
    client, backend = await bench.pair(service, place)
    await client.send(b"12345")
    await backend.send(b"123")
    async with harness.within("bytes arrive"):
        await backend.receive_exactly(5)
        await client.receive_exactly(3)
    for _ in path.data_path.count_bytes():
        pass
    who = client.sock.getsockname()
    client.shut_write()
    backend.shut_write()
    await harness.until(path.is_quiet, "the connection ends")

    accepted, failed, dialled, ended = facts(subscription)
    name = service.target.text
    assert accepted == events.ConnectionAccepted(accepted.at, name, who)
    assert failed == events.DialFailed(
        failed.at, name, who, refusing.address, "ECONNREFUSED", attempt=1
    )
    assert isinstance(dialled, events.Dialled)
    assert (dialled.client, dialled.endpoint) == (who, place.address)
    assert isinstance(ended, events.ConnectionEnded)
    assert (ended.service, ended.client, ended.endpoint) == (name, who, place.address)
    assert (ended.bytes_from_client, ended.bytes_from_endpoint) == (5, 3)
    assert ended.result == halfclose.CLIENT_CLOSED
    assert ended.why == "the client closed first, then the endpoint"
    assert accepted.at <= dialled.at <= ended.at
    assert ended.seconds >= 0


async def test_the_facts_of_an_unreachable_client_have_every_attempt(
    bench: harness.Harness,
) -> None:
    path = bench.start()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    subscription = feed.subscribe()
    service = path.serve(*[bench.place() for _ in range(2)])
    await clients.is_turned_away(bench, service)
    accepted, *failed, ended = facts(subscription)
    assert isinstance(accepted, events.ConnectionAccepted)
    assert [each.attempt for each in failed if isinstance(each, events.DialFailed)] == [1, 2, 3, 4]
    assert isinstance(ended, events.ConnectionEnded)
    assert (ended.endpoint, ended.why) == (None, "no endpoint could be reached")


async def test_nothing_is_published_before_a_subscription_or_after_it(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    service = path.serve(place)
    client, _ = await bench.pair(service, place)
    await harness.until(lambda: [view.state for view in path.views()] == ["open"], "it is open")
    subscription = feed.subscribe()
    client.reset()
    await harness.until(path.is_quiet, "the connection ends")
    (ended,) = facts(subscription)
    assert isinstance(ended, events.ConnectionEnded)
    subscription.close()
    await bench.pair(service, place)
    assert facts(subscription) == []


async def test_facts_beyond_a_full_subscription_are_counted_only(
    bench: harness.Harness,
) -> None:
    path, place = bench.start(), bench.backend()
    feed = events.Feed()
    path.data_path.publish_to(feed)
    subscription = feed.subscribe(limit=1)
    service = path.serve_by(harness.Scripted(bench.place().address, place.address))
    client, _ = await bench.pair(service, place)
    client.reset()
    await harness.until(path.is_quiet, "the connection ends")
    (accepted,) = facts(subscription)
    assert isinstance(accepted, events.ConnectionAccepted)
    assert subscription.dropped in {2, 3}, "a dial that failed, the end, and what was reached"


def test_every_reason_has_its_words() -> None:
    assert set(halfclose.MEANING) == set(halfclose.REASONS)
    assert len(set(halfclose.MEANING.values())) == len(halfclose.REASONS)
