"""Facts as a stream of JSON lines: `kproxy get events -w`.

The lines are those of `watching`: an `ADDED` for each fact, a `BOOKMARK` at the beginning and when
nothing happens, a `WARNING` when facts came faster than they could be sent. Nothing is kept: a
stream has what happens while it runs, and while no stream runs no fact is made.
"""

import asyncio
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
    last_news, told = time.monotonic(), 0
    try:
        yield watching.line("BOOKMARK", {})
        while True:
            ends = time.monotonic() + _BUDGET
            made = []
            while time.monotonic() < ends and (fact := subscription.take()) is not None:
                view = fact_view(fact)
                if is_wanted(view):
                    made.append(watching.line("ADDED", view))
            if subscription.dropped > told:
                lost, told = subscription.dropped - told, subscription.dropped
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
