"""Changes of views as a stream of JSON lines, as a Kubernetes watch sends them.

Each line is `{"type": …, "object": …}`. First comes an `ADDED` for everything there is, then a
`BOOKMARK`. From then on `ADDED`, `MODIFIED` and `DELETED` are the differences from what was sent
before; the object of a `DELETED` has nothing but the fields that identify it. `WARNING` carries a
sentence that concerns all views, "" once it no longer holds. A `BOOKMARK` without news shows that
the proxy still works.

Views are compared, not recorded. A watcher costs one pass over the views per second and a hash per
view. A client that reads slowly may miss a change that was undone, and always gets the last state.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import msgspec

from kproxy import turns
from kproxy.model import steps
from kproxy.ops.serving import answers
from kproxy.ops.views import json_pieces, status

INTERVAL = 1.0
"""Seconds between two looks."""
SHARE = 0.05
"""At most this part of the time goes into looking: with 10,000 Services there are fewer looks."""
QUIET = 10.0
"""Seconds without news after which a bookmark is sent."""

_Key: TypeAlias = tuple[object, ...]
Views: TypeAlias = Callable[[], Iterable[status.View | None]]


class Kind(NamedTuple):
    """The fields that identify a view of one resource, and those whose changes are not sent.

    `passing` names the latter: fields that change all the time, such as ages and counters.
    """

    identity: tuple[str, ...]
    passing: frozenset[str] = frozenset()


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
        news = itertools.chain(_news(views(), kind, known, present), _losses(kind, known, present))
        async for batch in shared.batches(news):
            if text := b"".join(batch):
                last_news = time.monotonic()
                yield text
        if (sentence := warning()) != warned:
            warned = sentence
            yield line("WARNING", {"message": sentence})
        if is_first or time.monotonic() - last_news >= QUIET:
            last_news = time.monotonic()
            is_first = False
            yield line("BOOKMARK", {})
        until = began + max(INTERVAL, (time.monotonic() - began) / SHARE)
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, INTERVAL))
            yield b""


def _news(
    views: Iterable[status.View | None],
    kind: Kind,
    known: dict[_Key, int],
    present: set[_Key],
) -> Iterator[bytes]:
    """The lines of what is new or different, in pieces; a piece may be empty."""
    for view in views:
        if view is None:
            yield b""
            continue
        key = tuple(view[name] for name in kind.identity)
        present.add(key)
        digest = yield from _digest(view, kind)
        old = known.get(key)
        yield b""
        if old != digest:
            known[key] = digest
            yield from _pieces("ADDED" if old is None else "MODIFIED", view)
        for _ in json_pieces.freed(view):
            yield b""


def _losses(kind: Kind, known: dict[_Key, int], present: set[_Key]) -> Iterator[bytes]:
    """The lines of what is no longer there; a piece may be empty."""
    for key in list(known):
        if key in present:
            yield b""
        else:
            del known[key]
            yield line("DELETED", dict(zip(kind.identity, key, strict=True)))


def _digest(view: status.View, kind: Kind) -> Generator[bytes, None, int]:
    """A hash of everything in a view whose change is sent, in steps."""
    digest = 0
    for name, value in view.items():
        if name in kind.passing:
            continue
        if not isinstance(value, list):
            digest = hash((digest, name, msgspec.json.encode(_lasting(value))))
            continue
        digest = hash((digest, name, len(value)))
        for run in steps.runs(value, json_pieces.RUN):
            digest = hash((digest, msgspec.json.encode(_lasting(run))))
            if len(run) == json_pieces.RUN:
                yield b""
    return digest


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


def _pieces(event: str, view: status.View) -> Iterator[bytes]:
    """`line` in pieces."""
    if json_pieces.is_short(view):
        yield line(event, view)
        return
    yield b'{"type":"%s","object":' % event.encode()
    yield from json_pieces.encoded(view)
    yield b"}\n"


def line(event: str, view: status.View) -> bytes:
    return msgspec.json.encode({"type": event, "object": view}) + b"\n"
