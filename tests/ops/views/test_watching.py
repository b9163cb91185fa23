"""A watch: what is there, then what is different, as JSON lines."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kproxy import turns
from kproxy.ops.views import watching

KIND = watching.Kind(("name",), frozenset({"age"}))


class Watched:
    """Views that the test changes, and the events of a watch on them."""

    def __init__(self) -> None:
        self.views: list[dict[str, object]] = []
        self.warning = ""
        self._text = b""
        self.stream = watching.changes(
            lambda: list(self.views), KIND, turns.Turns(), lambda: self.warning, self._refresh
        )

    async def _refresh(self) -> None:
        """Nothing: the views are always up to date."""

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event; the looks that find nothing are passed over."""
        while b"\n" not in self._text:
            self._text += await anext(self.stream)
        line, _, self._text = self._text.partition(b"\n")
        event = json.loads(line)
        return event["type"], event["object"]


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(watching, "INTERVAL", 0.001)
    monkeypatch.setattr(watching, "QUIET", 3600.0)
    made = Watched()
    async with contextlib.aclosing(made.stream):
        yield made


async def test_what_there_is_comes_first_and_a_bookmark_ends_it(watched: Watched) -> None:
    watched.views = [{"name": "a"}]

    assert await watched.next() == ("ADDED", {"name": "a"})
    assert await watched.next() == ("BOOKMARK", {})


async def test_only_what_is_different_follows(watched: Watched) -> None:
    watched.views = [{"name": "a", "state": "bound"}, {"name": "b", "state": "bound"}]
    assert [(await watched.next())[0] for _ in range(3)] == ["ADDED"] * 2 + ["BOOKMARK"]

    watched.views = [{"name": "a", "state": "bound"}, {"name": "b", "state": "collision"}]
    assert await watched.next() == ("MODIFIED", {"name": "b", "state": "collision"})
    watched.views = [{"name": "a", "state": "bound"}, {"name": "c", "state": "bound"}]
    assert await watched.next() == ("ADDED", {"name": "c", "state": "bound"})
    assert await watched.next() == ("DELETED", {"name": "b"})
    watched.views = [*watched.views, {"name": "b", "state": "bound"}]
    assert await watched.next() == ("ADDED", {"name": "b", "state": "bound"})


async def test_what_changes_all_the_time_is_no_news(watched: Watched) -> None:
    avoided = {"penalized_until": "2026-11-28T02:00:00.000+00:00", "connections": {"total": 1}}
    watched.views = [{"name": "a", "age": 1, "endpoints": [dict(avoided)]}]
    assert [(await watched.next())[0] for _ in range(2)] == ["ADDED", "BOOKMARK"]

    drifted = {"penalized_until": "2026-11-28T02:00:00.001+00:00", "connections": {"total": 2}}
    watched.views = [{"name": "a", "age": 2, "endpoints": [drifted]}]
    for _ in range(20):
        assert await anext(watched.stream) == b""
    free = {**drifted, "penalized_until": None}
    watched.views = [{"name": "a", "age": 3, "endpoints": [free]}]
    assert (await watched.next())[0] == "MODIFIED"


async def test_a_warning_comes_and_goes(watched: Watched) -> None:
    assert await watched.next() == ("BOOKMARK", {})
    watched.warning = "old"
    assert await watched.next() == ("WARNING", {"message": "old"})
    watched.warning = ""
    assert await watched.next() == ("WARNING", {"message": ""})


async def test_a_silent_watch_shows_that_it_lives(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "QUIET", 0.01)

    assert [(await watched.next())[0] for _ in range(3)] == ["BOOKMARK"] * 3


async def test_a_view_of_many_endpoints_comes_whole(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    many = [{"address": str(number)} for number in range(1000)]
    large: dict[str, object] = {"name": "a", "endpoints": many}
    watched.views = [large]
    assert await watched.next() == ("ADDED", large)
    assert await watched.next() == ("BOOKMARK", {})

    changed: dict[str, object] = {"name": "a", "endpoints": [*many[:-1], {"address": "new"}]}
    watched.views = [changed]
    assert await watched.next() == ("MODIFIED", changed)
