"""Changes of views as a stream of JSON lines, as a Kubernetes watch sends them.

Each line is `{"type": …, "object": …}`. First comes an `ADDED` for everything there is, then a
`BOOKMARK`. From then on `ADDED`, `MODIFIED` and `DELETED` say what is different from what was sent
before; the object of a `DELETED` has nothing but the fields that identify it. `WARNING` carries a
sentence that concerns all views, "" once it no longer holds. A `BOOKMARK` without news shows that
the proxy still works.

Views are compared, not recorded. A watcher costs one pass over the views per second and a hash per
view. A client that reads slowly may miss a change that was undone, and always gets the last state.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from kproxy import turns
from kproxy.ops.serving import answers
from kproxy.ops.views import status

INTERVAL = 1.0
"""Seconds between two looks."""
SHARE = 0.05
"""At most this part of the time goes into looking: with 10,000 Services there are fewer looks."""
QUIET = 10.0
"""Seconds without news after which a bookmark is sent."""

_Key: TypeAlias = tuple[object, ...]
Views: TypeAlias = Callable[[], Iterable[status.View]]


class Kind(NamedTuple):
    """The fields that identify a view of one resource, and those whose changes are not sent.

    `passing` names the latter: fields that change all the time, such as ages and counters.
    """

    identity: tuple[str, ...]
    passing: frozenset[str] = frozenset()


class _Seen(NamedTuple):
    key: _Key
    digest: int
    view: status.View


async def changes(
    views: Views,
    kind: Kind,
    shared: turns.Turns,
    warning: Callable[[], str],
    refresh: Callable[[], Awaitable[None]],
) -> answers.Body:
    """The lines of a watch on `views`, without end; empty chunks between the looks.

    `refresh` is awaited before each look.
    """
    known: dict[_Key, int] = {}
    is_first, warned = True, ""
    last_news = time.monotonic()
    while True:
        began = time.monotonic()
        present: set[_Key] = set()
        await refresh()
        async for batch in shared.batches(_seen(views(), kind)):
            news = b"".join(_news(batch, known, present))
            if news:
                last_news = time.monotonic()
                yield news
        for key in known.keys() - present:
            del known[key]
            last_news = time.monotonic()
            yield line("DELETED", dict(zip(kind.identity, key, strict=True)))
        if (said := warning()) != warned:
            warned = said
            yield line("WARNING", {"message": said})
        if is_first or time.monotonic() - last_news >= QUIET:
            last_news = time.monotonic()
            is_first = False
            yield line("BOOKMARK", {})
        until = began + max(INTERVAL, (time.monotonic() - began) / SHARE)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, INTERVAL))
            yield b""


def _seen(views: Iterable[status.View], kind: Kind) -> Iterator[_Seen]:
    for view in views:
        lasting = {
            name: _lasting(value) for name, value in view.items() if name not in kind.passing
        }
        digest = hash(msgspec.json.encode(lasting))
        yield _Seen(tuple(view[name] for name in kind.identity), digest, view)


def _lasting(value: Any) -> Any:
    """`value` without the counters of the endpoints in it, and without moments that drift."""
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    if isinstance(value, dict):
        return {
            name: each is not None if name == "penalized_until" else each
            for name, each in value.items()
            if name != "connections"
        }
    return value


def _news(batch: Iterable[_Seen], known: dict[_Key, int], present: set[_Key]) -> Iterator[bytes]:
    for key, digest, view in batch:
        present.add(key)
        old = known.get(key)
        if old != digest:
            known[key] = digest
            yield line("ADDED" if old is None else "MODIFIED", view)


def line(event: str, view: status.View) -> bytes:
    return msgspec.json.encode({"type": event, "object": view}) + b"\n"
