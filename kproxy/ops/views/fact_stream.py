"""Facts as plain data: `kproxy get events`, and as a stream of JSON lines with `-w`.

The lines are those of `watching`: an `ADDED` for each fact that is kept, a `BOOKMARK`, then an
`ADDED` for each fact that comes, a `BOOKMARK` when nothing happens, a `WARNING` when facts came
faster than they could be sent. Facts about single connections are not kept: a stream
has them from its beginning on, and without a stream none is made.
"""

import asyncio
import collections
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from kproxy import events
from kproxy.model import addresses
from kproxy.ops.serving import answers
from kproxy.ops.views import status, watching

_BUDGET = 0.001
"""Seconds of work between two pauses."""
_PAUSE = 0.02


async def lines(feed: events.Feed, is_wanted: Callable[[status.View], bool]) -> answers.Body:
    """The lines, without end; empty chunks in between."""
    subscription = feed.subscribe()
    kept = collections.deque(feed.recent())
    last_news, reported = time.monotonic(), 0
    is_first = True
    try:
        while True:
            ends = time.monotonic() + _BUDGET
            made = []
            while time.monotonic() < ends:
                if kept:
                    fact = kept.popleft()
                elif is_first:
                    is_first = False
                    made.append(watching.line("BOOKMARK", {}))
                    continue
                elif (taken := subscription.take()) is not None:
                    fact = taken
                else:
                    break
                view = fact_view(fact)
                if is_wanted(view):
                    made.append(watching.line("ADDED", view))
            if subscription.dropped > reported:
                lost = subscription.dropped - reported
                reported = subscription.dropped
                text = f"{lost} events are missing here: they came faster than they could be sent"
                made.append(watching.line("WARNING", {"message": text}))
            if made:
                last_news = time.monotonic()
            elif time.monotonic() - last_news >= watching.QUIET:
                last_news = time.monotonic()
                made.append(watching.line("BOOKMARK", {}))
            yield b"".join(made)
            await asyncio.sleep(_PAUSE)
    finally:
        subscription.close()


def recent(feed: events.Feed, is_wanted: Callable[[status.View], bool]) -> status.Views:
    """The facts that are kept, the oldest first, in steps."""
    for view in map(fact_view, feed.recent()):
        yield view if is_wanted(view) else None


def fact_view(fact: events.Fact) -> status.View:
    """A fact as plain data: what happened, when, to which service port ("" for none), and more."""
    fields = msgspec.structs.asdict(fact)
    moment = time.time() + fields.pop("at") - time.monotonic()
    namespace, _, rest = fields.pop("service", "").partition("/")
    service, _, port_name = rest.partition(":")
    return {
        "namespace": namespace,
        "service": service,
        "port_name": port_name,
        "reason": type(fact).__name__,
        "time": datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds"),
        "details": {name: _plain(value) for name, value in fields.items() if value is not None},
    }


def _plain(value: object) -> object:
    """Addresses as `IP:PORT`, seconds to the microsecond."""
    match value:
        case (str(address), int(port)):
            return str(addresses.SocketAddress(address, port))
        case tuple():
            return [_plain(each) for each in value]
        case float():
            return round(value, 6)
        case _:
            return value
