"""The log as a subscriber of the feed: what `--log-level debug` shows of connections.

Writing a line takes as long as relaying a connection. So lines are written for a millisecond at a
time, with pauses for everything else on the event loop: some 2 % of its time. Facts that come
faster wait in the queue; when it is full they are dropped and counted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from kproxy import events, metrics
from kproxy.model import addresses

_BUDGET: Final = 0.001
_PAUSE: Final = 0.05
_LOOK_SECONDS: Final = 1.0
_LOST_SECONDS: Final = 10.0
"""Seconds between two lines that report what was dropped, while the queue does not empty."""

_log = structlog.get_logger(__name__)


async def run(
    feed: events.Feed, counters: Callable[[], Iterable[metrics.ReflectorCounters]]
) -> None:
    """Publish which watches are lost; log every fact if the log is set to. Until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_watches(feed, counters))
        if is_wanted():
            group.create_task(write(feed))


def is_wanted() -> bool:
    """Whether the log is set to show what happens to each connection."""
    return bool(_log.is_enabled_for(logging.DEBUG))


async def write(feed: events.Feed, clock: Callable[[], float] = time.monotonic) -> None:
    """Log every fact, until cancelled."""
    subscription = feed.subscribe()
    reported, reported_at = 0, clock()
    try:
        while True:
            await subscription.wait()
            ends = clock() + _BUDGET
            while (fact := subscription.take()) is not None:
                _write(fact)
                if clock() >= ends:
                    break
            lost = subscription.dropped - reported
            if lost and (fact is None or ends - reported_at >= _LOST_SECONDS):
                reported, reported_at = subscription.dropped, ends
                _log.debug("events are missing here: they came faster than the log", lost=lost)
            await asyncio.sleep(_PAUSE)
    finally:
        subscription.close()


async def watch_watches(
    feed: events.Feed,
    counters: Callable[[], Iterable[metrics.ReflectorCounters]],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Publish when a resource is no longer read, and when it is read again."""
    lost: dict[str, float] = {}
    while True:
        now = clock()
        unread = metrics.unread(counters(), now)
        for resource in unread.keys() - lost.keys():
            lost[resource] = now - unread[resource]
            feed.record(events.WatchLost(now, resource))
        for resource in lost.keys() - unread.keys():
            feed.record(events.WatchRegained(now, resource, now - lost.pop(resource)))
        await asyncio.sleep(_LOOK_SECONDS)


def _write(fact: events.Fact) -> None:
    match fact:
        case events.ConnectionAccepted(_, service, client):
            _log.debug("connection accepted", service=service, client=_text(client))
        case events.ClientNamed(_, service, client, via):
            _log.debug("client named", service=service, client=_text(client), via=_text(via))
        case events.Dialled(_, service, client, endpoint, seconds):
            _log.debug(
                "endpoint reached",
                service=service,
                client=_text(client),
                endpoint=_text(endpoint),
                seconds=round(seconds, 6),
            )
        case events.DialFailed(_, service, client, endpoint, reason, attempt):
            _log.debug(
                "dial failed",
                service=service,
                client=_text(client),
                endpoint=_text(endpoint),
                reason=reason,
                attempt=attempt,
            )
        case events.ConnectionEnded():
            _log.debug(
                "connection ended",
                service=fact.service,
                client=_text(fact.client),
                endpoint=_text(fact.endpoint) if fact.endpoint else None,
                why=fact.why,
                result=fact.result,
                bytes_from_client=fact.bytes_from_client,
                bytes_from_endpoint=fact.bytes_from_endpoint,
                seconds=round(fact.seconds, 6),
            )
        case events.EndpointBoxed(_, endpoint):
            _log.debug(
                "endpoint is avoided: a dial failed, it is probed until it answers",
                endpoint=_text(endpoint),
            )
        case events.EndpointReleased(_, endpoint):
            _log.debug("endpoint answers again", endpoint=_text(endpoint))
        case events.ConnectionsMoved(_, service, action, count):
            _log.debug(
                "connections to removed endpoints are ended",
                service=service,
                action=action,
                count=count,
            )
        case events.EndpointsChanged(_, service, added, removed, count, left_out):
            _log.debug(
                "endpoints changed",
                service=service,
                added=[_text(each) for each in added],
                removed=[_text(each) for each in removed],
                endpoints=count,
                **({"left_out": left_out} if left_out else {}),
            )
        case events.ServiceChanged(_, service, change):
            _log.debug(f"service port {change}", service=service)
        case _:
            pass  # frontends and watches have lines of their own at other levels


def _text(address: events.Address) -> str:
    return str(addresses.SocketAddress(*address))
