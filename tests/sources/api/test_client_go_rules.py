"""client-go's rules for list and watch: what came from the server, and what is asked next.

Each row's id is the place in client-go (`tools/cache/reflector.go`, `tools/pager/pager.go`,
`rest/request.go`, as of 1.35) that has the rule. Rows marked "kproxy:" are stricter.

Cases: K04 of docs/faults.md.
"""

import asyncio
import itertools

import pytest
from aiohttp import web

from kproxy.sources.api.decisions import progress, queries
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, fails, sends
from tests.sources.api.rig.following import on_fake_time

GONE = fails(410, "Expired", "too old resource version: 1 (2)")
GONE_EVENT = fake_api.event("ERROR", fake_api.status_object(410, "Expired", "too old"))
TOO_LARGE = fails(504, "Timeout", "Too large resource version: 9, current: 5")
BOOKMARK = fake_api.bookmark(300)
END_WITHOUT_VERSION = fake_api.event(
    "BOOKMARK", {"metadata": {"annotations": {"k8s.io/initial-events-end": "true"}}}
)
LATER = "V"
"""Stands for the version that was known."""


async def _reset(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _error(code: int, reason: str = "") -> fake_api.Behaviour:
    return sends(fake_api.event("ERROR", fake_api.status_object(code, reason, "an error")))


def _error_without_code() -> fake_api.Behaviour:
    return sends(fake_api.event("ERROR", {"kind": "Status", "status": "Failure"}))


async def _later_end(request: web.BaseRequest) -> web.StreamResponse:
    response = await fake_api.begin(request)
    await asyncio.sleep(2)
    return response


async def _later_cut(request: web.BaseRequest) -> web.StreamResponse:
    response = await fake_api.begin(request)
    await asyncio.sleep(2)
    assert request.transport is not None
    request.transport.abort()
    return response


WATCH = [
    # what a watch met; the modes and versions of the next two requests
    ("watch: loop", _later_end, [("watch", LATER)]),
    ("handleAnyWatch: eventCount > 0", sends(BOOKMARK), [("watch", "300")]),
    ("handleAnyWatch: VeryShortWatchError", sends(), [("list", LATER), ("watch", LATER)]),
    ("StreamWatcher.receive: EOF", _later_cut, [("watch", LATER)]),
    ("StreamWatcher.receive: ErrUnexpectedEOF", sends(BOOKMARK, then="abort"), [("watch", "300")]),
    ("VeryShortWatchError, cut", sends(then="abort"), [("list", LATER), ("watch", LATER)]),
    ("request.go Watch: IsProbableEOF", _reset, [("watch", LATER)]),
    ("isWatchErrorRetriable: IsTooManyRequests", fails(429), [("watch", LATER)]),
    ("watch: IsTooManyRequests", _error(429, "TooManyRequests"), [("watch", LATER)]),
    ("watch: isExpiredError, status", GONE, [("list", LATER), ("watch", LATER)]),
    ("watch: isExpiredError, event", sends(GONE_EVENT), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 504 too large", TOO_LARGE, [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 400", fails(400), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 401", fails(401), [("watch", LATER)]),  # renewed at once, and well
    ("watch: return err, 403", fails(403), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 404", fails(404), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 500", fails(500), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 502", fails(502), [("list", LATER), ("watch", LATER)]),
    ("watch: return err, 503", fails(503), [("list", LATER), ("watch", LATER)]),
    ("watch: IsInternalError", _error(500, "InternalError"), [("list", LATER), ("watch", LATER)]),
    ("watch: default", _error(504, "Timeout"), [("list", LATER), ("watch", LATER)]),
    ("watch: default, no code", _error_without_code(), [("list", LATER), ("watch", LATER)]),
    ("StreamWatcher.receive: decode", sends(b"<html>\n"), [("list", LATER), ("watch", LATER)]),
]


@pytest.mark.parametrize(("rule", "meets", "follows"), WATCH, ids=[row[0] for row in WATCH])
def test_what_follows_a_watch(
    rule: str, meets: fake_api.Behaviour, follows: list[tuple[str, str]]
) -> None:
    del rule

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", meets)
        async with following.following(api) as followed:
            await followed.synced()
            version = str(api.version)
            wanted = 2 + len(follows)
            await followed.until(lambda: len(asked(api)) >= wanted)
            expected = [(mode, version if at == LATER else at) for mode, at in follows]
            assert asked(api)[2:wanted] == expected

    on_fake_time(scenario)


def asked(api: fake_api.FakeApi) -> list[tuple[str, str]]:
    """Mode and version of every request for Services, but for refused streaming lists."""
    return [
        (each.mode, each.query.get("resourceVersion", ""))
        for each in api.asked
        if each.path == SERVICES and each.mode != "stream"
    ]


LIST = [
    ("relistResourceVersion: first", [], ["0"]),
    ("list: err", [fails(500)], ["0", "0"]),
    ("list: isExpiredError", [GONE], ["0", ""]),
    ("list: isTooLargeResourceVersionError", [TOO_LARGE], ["0", ""]),
    ("list: isExpiredError, then err", [GONE, fails(500)], ["0", "", ""]),
]


@pytest.mark.parametrize(("rule", "meets", "versions"), LIST, ids=[row[0] for row in LIST])
def test_what_follows_a_list(
    rule: str, meets: list[fake_api.Behaviour], versions: list[str]
) -> None:
    del rule

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", *meets)
        async with following.following(api) as followed:
            await followed.synced()
            assert [version for mode, version in asked(api) if mode == "list"] == versions

    on_fake_time(scenario)


STREAM = [
    ("watchList: isWatchErrorRetriable, 429", fails(429), ["stream", "stream"]),
    ("watchList: isExpiredError", GONE, ["stream", "stream"]),
    ("watchList: isTooLargeResourceVersionError", TOO_LARGE, ["stream", "stream"]),
    ("ListAndWatch: fallbackToList, 422", fails(422, "Invalid"), ["stream", "list", "watch"]),
    ("ListAndWatch: fallbackToList, 500", fails(500), ["stream", "list", "watch"]),
    ("ListAndWatch: fallbackToList, event", _error(500), ["stream", "list", "watch"]),
    ("ListAndWatch: fallbackToList, garbage", sends(b"<html>\n"), ["stream", "list", "watch"]),
    ("kproxy: the end has no version", sends(END_WITHOUT_VERSION), ["stream", "list", "watch"]),
    ("kproxy: no bookmark within 10 s", sends(then="silent"), ["stream", "list", "watch"]),
]


@pytest.mark.parametrize(("rule", "meets", "modes"), STREAM, ids=[row[0] for row in STREAM])
def test_what_follows_a_streaming_list(
    rule: str, meets: fake_api.Behaviour, modes: list[str]
) -> None:
    del rule

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "stream", meets)
        async with following.following(api) as followed:
            await followed.synced()
            seen = [each.mode for each in api.asked if each.path == SERVICES]
            assert seen == modes[: len(seen)]
            assert len(seen) >= len(modes) - 1
            assert asyncio.get_running_loop().time() <= 11

    on_fake_time(scenario, fake_api.FakeApi(streams=True))


def test_two_watches_in_a_row_that_end_in_410_lead_to_the_newest_list_and_are_reported() -> None:
    """kproxy: the newest state is asked for, since relisting has not helped (C1)."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", sends(GONE_EVENT), sends(GONE_EVENT))
        async with following.following(api) as followed:
            await followed.until(lambda: len(asked(api)) == 6)
            version = str(api.version)
            assert asked(api) == [
                ("list", "0"),
                ("watch", version),
                ("list", version),
                ("watch", version),
                ("list", ""),
                ("watch", version),
            ]
            (told,) = followed.sentences()
            assert "cannot watch: the server answers 410: too old" in told
            await asyncio.sleep(5)
            assert followed.informed.problems() == ()

    on_fake_time(scenario)


def test_a_410_after_a_healthy_time_is_followed_by_a_list_at_once() -> None:
    """C5: a client that waited for a server to return does not wait once more."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", *[_reset] * 8, sends(GONE_EVENT))
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "list")) == 2)
            relisted = api.requests(SERVICES, "list")[1].at
            assert relisted - api.requests(SERVICES, "watch")[8].at <= 0.01

    on_fake_time(scenario)


POSITIONS = [
    progress.Position(version, is_listed, is_gone, streams, falls_back, expired)
    for version in ("", "7")
    for is_listed in (False, True)
    for is_gone in (False, True)
    for streams in (False, True)
    for falls_back in (False, True)
    for expired in (0, 1)
    if version or not is_listed
]


@pytest.mark.parametrize("position", POSITIONS, ids=str)
def test_only_combinations_that_api_concepts_defines_are_asked_for(
    position: progress.Position,
) -> None:
    """Kubernetes API concepts, "Semantics for get and list" and "Semantics for watch"."""
    if position.mode is not progress.Mode.LIST:
        asked_for = queries.watch(position, 300)
        is_stream = position.mode is progress.Mode.STREAM
        assert asked_for.get("resourceVersionMatch") == ("NotOlderThan" if is_stream else None)
        assert ("sendInitialEvents" in asked_for) == is_stream
        assert asked_for.get("resourceVersion") != "0"
        assert "limit" not in asked_for
        assert is_stream or position.is_gone or asked_for["resourceVersion"] == position.version
        return
    for is_whole in (False, True):
        asked_for = queries.first_page(position, is_whole=is_whole)
        version = asked_for.get("resourceVersion", "")
        # Legacy: a limit with a version other than 0 means exactly that version.
        assert ("limit" in asked_for) == (version in ("", "0") and not is_whole)
        assert "resourceVersionMatch" not in asked_for
        assert version == ("" if position.is_gone else position.version or "0")
    assert set(queries.next_page("t")) == {"continue", "limit"}


def test_no_sequence_of_outcomes_leads_to_another_combination() -> None:
    """Every Position that outcomes can lead to within four requests."""
    reached = {progress.Position()}
    for _ in range(4):
        ended = {
            progress.after(position, outcome, is_short=is_short)
            for position, outcome, is_short in itertools.product(
                reached, progress.Outcome, (False, True)
            )
        }
        reached |= ended | {progress.listed(position, "7") for position in ended}
    for position in reached:
        if position.mode is progress.Mode.LIST:
            asked_for = queries.first_page(position)
            assert asked_for.get("resourceVersion") in ("0", None) or "limit" not in asked_for
        elif position.mode is progress.Mode.WATCH:
            assert queries.watch(position, 1)["resourceVersion"] == "7"
