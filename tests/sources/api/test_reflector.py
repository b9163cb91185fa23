"""What a reflector makes of servers that misbehave, on a clock of its own."""

import asyncio
import itertools
import json

import pytest
from aiohttp import test_utils, web

from kproxy.model import names
from kproxy.model.judging import endpoint_rules
from kproxy.sources.api import client, reflector
from kproxy.sources.api.decisions import progress
from kproxy.sources.transfer import wire
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, SLICES, fails, sends
from tests.sources.api.rig.following import on_fake_time

HTML = b"<html><body>502 Bad Gateway</body></html>"
GONE = fake_api.status_object(410, "Expired", "too old resource version: 1 (2)")
GONE_EVENT = fake_api.event("ERROR", GONE)


def test_it_lists_then_watches_from_the_version_of_the_list() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web"}
            assert followed.backends("web") == {"10.1.0.1"}
            listed, watched = api.requests(SERVICES, "list"), api.requests(SERVICES, "watch")
            assert [asked.query["resourceVersion"] for asked in listed] == ["0"]
            assert listed[0].query["limit"] == "500"
            await followed.until(lambda: bool(api.requests(SERVICES, "watch")))
            watched = api.requests(SERVICES, "watch")
            assert watched[0].query["resourceVersion"] == "102"
            assert watched[0].query["allowWatchBookmarks"] == "true"
            assert 300 <= int(watched[0].query["timeoutSeconds"]) <= 600
            selectors = {
                path: {each.query.get("labelSelector") for each in api.asked if each.path == path}
                for path in (SERVICES, SLICES)
            }
            assert selectors == {SERVICES: {None}, SLICES: {endpoint_rules.NOT_HEADLESS}}
            api.put(SLICES, "web-1", fake_api.sliced("web", "10.1.0.2"))
            await followed.until(lambda: followed.backends("web") == {"10.1.0.2"})
            api.remove(SERVICES, "web")
            await followed.until(lambda: followed.services() == set())
            assert followed.told == []

    on_fake_time(scenario)


def test_nothing_is_said_before_services_and_endpoints_are_both_listed() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SLICES, "list", *[fails(500)] * 3)
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SLICES, "list")) == 3)
            assert not followed.informed.has_synced
            assert followed.changes == []
            await followed.synced()
            assert len(followed.changes) == 1

    on_fake_time(scenario)


def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_list() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await asyncio.sleep(3600)
            assert len(api.requests(SERVICES, "list")) == 1
            watched = api.requests(SERVICES, "watch")
            assert 6 <= len(watched) <= 13  # one per 300 to 600 s
            assert {asked.query["resourceVersion"] for asked in watched[1:]} == {"103"}
            assert followed.informed.problems() == ()

    on_fake_time(scenario)


def test_a_streaming_list_prunes_what_was_not_sent_again() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(SERVICES, "old", fake_api.service("10.96.0.9"))
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web", "old"}
            assert api.requests(SERVICES, "list") == []
            stream = api.requests(SERVICES, "stream")[0].query
            assert stream["resourceVersionMatch"] == "NotOlderThan"
            api.remove(SERVICES, "old", silently=True)
            api.emit(SERVICES, "ERROR", GONE)
            await followed.until(lambda: followed.services() == {"web"})
            assert len(api.requests(SERVICES, "stream")) == 2

    on_fake_time(scenario, fake_api.FakeApi(streams=True))


@pytest.mark.parametrize(
    "refusal",
    [
        fails(422, "Invalid", "sendInitialEvents is forbidden for watch"),
        fails(400, "BadRequest", "unknown parameter"),
        sends(fake_api.event("ADDED", fake_api.service(name="web")), then="silent"),
        sends(b"", then="end"),
    ],
    ids=["422", "400", "ignored", "ended"],
)
def test_a_server_without_streaming_lists_is_asked_for_one_only_once(
    refusal: fake_api.Behaviour,
) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        api.streams = True
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "stream", refusal)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web"}
            api.emit(SERVICES, "ERROR", GONE)
            await followed.until(lambda: len(api.requests(SERVICES, "list")) == 2)
            assert len(api.requests(SERVICES, "stream")) == 1
            assert followed.told == []

    on_fake_time(scenario)


def test_f3_ten_seconds_of_other_events_are_no_streaming_list() -> None:
    """A server that ignores the parameter, and renews one object every two seconds."""

    async def renewing(request: web.BaseRequest) -> web.StreamResponse:
        response = await fake_api.begin(request)
        for number in range(10_000):
            body = fake_api.service(name="leader", resourceVersion=str(1000 + number))
            await response.write(fake_api.event("MODIFIED", body))
            await asyncio.sleep(2)
        return response

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "stream", *[renewing] * 10)
        async with following.following(api) as followed:
            await followed.synced()
            assert asyncio.get_running_loop().time() <= 11
            assert followed.services() == {"web"}
            api.emit(SERVICES, "ERROR", GONE)
            await followed.until(lambda: len(api.requests(SERVICES, "list")) == 2)
            assert len(api.requests(SERVICES, "stream")) == 1

    on_fake_time(scenario, fake_api.FakeApi(streams=True))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("how", ["status", "event"])
def test_410_lists_again_and_notices_what_was_deleted(how: str, streams: bool) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(SERVICES, "old", fake_api.service("10.96.0.9"))
        mode = "stream" if streams else "watch"
        gone = fails(410, "Expired", "too old") if how == "status" else sends(GONE_EVENT)
        async with following.following(api) as followed:
            await followed.synced()
            api.remove(SERVICES, "old", silently=True)
            api.script(SERVICES, "watch", gone)
            await followed.until(lambda: followed.services() == {"web"}, 1000)
            again = api.requests(SERVICES, mode if streams else "list")[-1]
            assert again.query["resourceVersion"] not in {"", "0"}
            assert followed.of_services.relists == {"start": 1, "expired": 1}
            assert followed.changes[-1] == {names.NamespacedName("default", "old")}
            assert followed.told == []

    api = fake_api.FakeApi(streams=streams)
    on_fake_time(scenario, api)


TOO_LARGE = {
    **fake_api.status_object(504, "Timeout", "Too large resource version: 9, current: 5"),
    "details": {"causes": [{"reason": "ResourceVersionTooLarge"}], "retryAfterSeconds": 1},
}


async def too_large(_: web.BaseRequest) -> web.StreamResponse:
    return fake_api.reply(TOO_LARGE, 504)


@pytest.mark.parametrize("refusal", [fails(410, "Expired", "gone"), too_large])
def test_when_a_list_has_not_our_version_either_the_newest_is_taken(
    refusal: fake_api.Behaviour,
) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        async def restored(request: web.BaseRequest) -> web.StreamResponse:
            api.history.clear()
            api.version = 7  # etcd was restored: all numbers are lower for good (K13)
            api.put(SERVICES, "web", fake_api.service("10.96.0.7"), silently=True)
            return await refusal(request)

        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", api.answer_list, restored)
        api.script(SERVICES, "watch", sends(GONE_EVENT))
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2)
            asked = [each.query.get("resourceVersion") for each in api.requests(SERVICES, "list")]
            assert asked == ["0", "102", None]
            service = followed.informed.store.service(names.NamespacedName("default", "web"))
            assert service is not None
            assert service.cluster_ip == "10.96.0.7"
            assert api.requests(SERVICES, "watch")[-1].query["resourceVersion"] == "8"

    on_fake_time(scenario)


def test_a_server_that_is_behind_resurrects_nothing() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            await followed.until(lambda: bool(api.requests(SLICES, "watch")))
            behind = api.list(fake_request(SLICES))
            api.put(SLICES, "web-1", fake_api.sliced("web", "10.1.0.2"))
            await followed.until(lambda: followed.backends("web") == {"10.1.0.2"})

            async def stale(_: web.BaseRequest) -> web.StreamResponse:
                return behind

            api.script(SLICES, "list", stale)
            api.emit(SLICES, "ERROR", GONE)
            await followed.until(lambda: len(api.requests(SLICES, "list")) == 3)
            await asyncio.sleep(5)
            assert all(
                names.NamespacedName("default", "web") not in each for each in followed.changes[2:]
            )
            assert followed.backends("web") == {"10.1.0.2"}

    on_fake_time(scenario)


def fake_request(path: str) -> web.BaseRequest:
    return test_utils.make_mocked_request("GET", path)


def test_pages_are_put_together_and_after_an_expired_token_the_list_comes_in_one_piece() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        for number in range(1200):
            api.put(
                SERVICES, f"s-{number}", fake_api.service(f"10.96.{number // 250}.{number % 250}")
            )
        gone = [fails(410, "Expired", "gone")]
        api.script(SERVICES, "list", *gone, api.answer_list, api.answer_list, *gone)
        async with following.following(api) as followed:
            await followed.synced()
            asked = [each.query for each in api.requests(SERVICES, "list")]
            assert [each.get("continue") for each in asked] == [None, None, "500", "1000", None]
            assert [each.get("limit") for each in asked] == ["500", "500", "500", "500", None]
            assert [each.get("resourceVersion") for each in asked] == ["0", None, None, None, None]
            assert len(followed.services()) == 1200
            assert followed.told == []

    on_fake_time(scenario)


def test_f5_a_server_whose_every_continue_token_has_expired_is_listed_in_one_piece() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        async def page(request: web.BaseRequest) -> web.StreamResponse:
            if "continue" in request.query:
                return await fails(410, "Expired", "the continue token is too old")(request)
            whole = api.list(fake_request(SERVICES))
            assert isinstance(whole.body, bytes)
            body = json.loads(whole.body)
            if "limit" in request.query:
                body["items"] = body["items"][:1]
                body["metadata"]["continue"] = "more"
            return fake_api.reply(body)

        fake_api.serve_web(api, "10.1.0.1")
        api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
        api.script(SERVICES, "list", *[page] * 100)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web", "db"}
            asked = [each.query for each in api.requests(SERVICES, "list")]
            assert asked == [
                {"resourceVersion": "0", "limit": "500"},
                {"continue": "more", "limit": "500"},
                {"resourceVersion": "0"},
            ]
            assert followed.told == []

    on_fake_time(scenario)


MODES = {
    "html502": [sends(HTML, code=502)],
    "html200": [sends(HTML)],
    "403": [fails(403, "Forbidden", 'User "u" cannot watch')],
    "http410": [fails(410, "Expired", "too old")],
    "ev410": [sends(GONE_EVENT)],
    "partial": [sends(fake_api.bookmark(500), b'{"type":"ADDED","obj')],
    "abrupt": [sends(fake_api.bookmark(500), then="abort")],
    "empty": [sends()],
    "silent": [sends(fake_api.bookmark(500), then="silent")],
    "500": [fails(500, "InternalError", "etcdserver: no leader")],
    "429": [fails(429, "TooManyRequests", "slow down", Retry_After="7")],
    "error-event": [sends(fake_api.event("ERROR", {"surprise": 1}))],
    "bad-json": [sends(b'{"type":"ADDED","object":{]}\n')],
    "not-utf8": [sends(b'{"type":"ADD\xff\xfe"}\n')],
    "nul": [sends(b"\x00\x00\x00\n")],
    "deep": [sends(b'{"type":"ADDED","object":' + b"[" * 100_000 + b"\n")],
    "long": [sends(b"x" * (17 * 1024 * 1024))],
    "array": [sends(b"[1,2,3]\n")],
    "gzip": [sends(b"\x1f\x8b\x08" + b"\x00" * 100)],
}


@pytest.mark.parametrize("mode", MODES)
def test_every_bad_watch_is_counted_reported_once_and_healed(mode: str) -> None:
    """The table of modes, and the fuzz corpus (docs/faults.md K07, K11, K17)."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.version = 500
        times = 6
        api.script(SERVICES, "watch", *MODES[mode] * times)
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) > times, 3600)
            assert followed.services() == {"web"}
            assert followed.backends("web") == {"10.1.0.1"}
            told = followed.sentences()
            assert len(told) <= 1, told
            assert "Traceback" not in "".join(told)
            if mode != "silent":  # which a healthy server may be
                assert sum(followed.of_services.failures.values()) >= times
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: followed.services() == {"web", "db"}, 3600)
            await asyncio.sleep(90)  # bookmarks come
            assert followed.informed.problems() == ()
            assert followed.of_services.contact.failing_since is None

    on_fake_time(scenario)


_RARER = ["html200", "abrupt", "empty", "bad-json"]


@pytest.mark.parametrize(
    "mode",
    ["html502", "ev410", *(pytest.param(mode, marks=pytest.mark.extra) for mode in _RARER)],
)
def test_a_server_that_never_gets_better_is_not_asked_in_a_hot_loop(mode: str) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.version = 500
        api.script(SERVICES, "watch", *MODES[mode] * 1000)
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(600)
            begun = len(api.requests(SERVICES, "watch"))
            await asyncio.sleep(3600)
            assert 10 <= len(api.requests(SERVICES, "watch")) - begun <= 0.22 * 3600
            assert len(followed.told) <= 1
            assert followed.backends("web") == {"10.1.0.1"}

    on_fake_time(scenario)


@pytest.mark.parametrize("mode", ["html502", "html200", "bad-json", "deep", "empty", "partial"])
def test_every_bad_list_is_healed(mode: str) -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", *MODES[mode] * 3)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web"}
            assert len(followed.told) == 1
            assert "nothing is known yet" in followed.sentences()[0]

    on_fake_time(scenario)


def test_a_list_that_breaks_off_takes_nothing_away() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
        async with following.following(api) as followed:
            await followed.synced()
            body = api.list(fake_request(SERVICES)).body
            assert isinstance(body, bytes)
            half = body[: len(body) // 2]
            api.script(SERVICES, "list", sends(half, then="abort"), sends(half), fails(500))
            api.emit(SERVICES, "ERROR", GONE)
            await followed.until(lambda: len(api.requests(SERVICES, "list")) == 5)
            assert followed.services() == {"web", "db"}
            assert len(followed.changes) == 1

    on_fake_time(scenario)


def test_a_watch_that_is_quiet_for_70_seconds_is_exchanged_for_a_new_one() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", sends(fake_api.bookmark(500), then="silent"))
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2)
            first, second = api.requests(SERVICES, "watch")
            assert 69.9 <= second.at - first.at <= 72
            assert second.query["resourceVersion"] == "500"
            assert len(api.requests(SERVICES, "list")) == 1
            assert followed.told == []

    on_fake_time(scenario)


def test_f4_a_quiet_server_that_sends_no_bookmarks_is_well() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        for path in (SERVICES, SLICES):
            api.script(path, "watch", *[sends(then="silent")] * 1000)
        async with following.following(api) as followed:
            await followed.synced()
            for _ in range(600):
                await asyncio.sleep(7)
                now = asyncio.get_running_loop().time()
                for counters in followed.informed.counters():
                    assert counters.contact.unread_for(now) is None
                    assert counters.contact.heard_at is not None
                    assert now - counters.contact.heard_at <= 30
            assert followed.told == []
            assert sum(followed.of_services.failures.values()) == 1  # the streaming list
            assert len(api.requests(SERVICES, "list")) == 1

    on_fake_time(scenario)


@pytest.mark.parametrize("streams", [False, True])
def test_a_server_that_does_not_answer_any_more_is_noticed_within_10_seconds(
    streams: bool,
) -> None:
    """K09: its kernel goes on acknowledging, so that only a probe can tell."""
    hung = asyncio.Event()

    async def scenario(api: fake_api.FakeApi) -> None:
        honest = api.answer

        async def hangs(request: web.BaseRequest) -> web.StreamResponse:
            if hung.is_set():
                await asyncio.Event().wait()
            return await honest(request)

        api.behave = hangs
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(100)
            hung.set()
            begun = asyncio.get_running_loop().time()
            await followed.until(lambda: len(followed.informed.problems()) == 2)
            assert asyncio.get_running_loop().time() - begun <= 10
            assert "does not answer any more" in followed.sentences()[0]
            assert "out of contact" in followed.informed.describe()
            await asyncio.sleep(100)
            assert "out of contact for 1" in followed.informed.describe()
            assert followed.backends("web") == {"10.1.0.1"}

    on_fake_time(scenario, fake_api.FakeApi(streams=streams))


def test_a_server_that_does_not_answer_probes_keeps_its_watch() -> None:
    """As one that queues new watches under load: it must not get more of them."""

    async def never(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        for path in (SERVICES, SLICES):
            api.script(path, "probe", *[never] * 1000)
        async with following.following(api) as followed:
            await followed.synced()
            for number in range(2, 12):
                await asyncio.sleep(15)
                api.put(SLICES, "web-1", fake_api.sliced("web", f"10.1.0.{number}"))
                await followed.until(
                    lambda number=number: followed.backends("web") == {f"10.1.0.{number}"},  # type: ignore[misc]
                    1,
                )
            assert len(api.requests(SLICES, "watch")) == 1
            assert len(followed.told) == 2  # of each collection once
            api.forget_scripts()
            await followed.until(lambda: followed.informed.problems() == (), 10)

    on_fake_time(scenario)


def test_a_watch_that_does_not_bring_what_a_probe_brings_is_exchanged_within_5_seconds() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", sends(fake_api.bookmark(101), then="silent"))
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(40)
            assert len(api.requests(SERVICES, "watch")) == 1
            begun = asyncio.get_running_loop().time()
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: followed.services() == {"web", "db"})
            assert asyncio.get_running_loop().time() - begun <= 5
            assert followed.of_services.failures["deaf"] == 1
            assert followed.told == []

    on_fake_time(scenario)


def test_a_server_that_trickles_for_ever_is_left_after_its_timeout() -> None:
    async def trickle(request: web.BaseRequest) -> web.StreamResponse:
        response = await fake_api.begin(request)
        while True:
            await response.write(b"\n")
            await asyncio.sleep(50)

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", trickle)
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2, 1000)
            first, second = api.requests(SERVICES, "watch")
            limit = int(first.query["timeoutSeconds"]) + reflector.GRACE_SECONDS
            assert limit - 0.1 <= second.at - first.at <= limit + 2

    on_fake_time(scenario)


def test_an_answer_that_never_begins_is_given_up_after_30_seconds() -> None:
    async def never(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", never)
        async with following.following(api) as followed:
            await followed.synced()
            first, second = api.requests(SERVICES, "list")
            assert 30 <= second.at - first.at <= 32
            assert "no answer within 30 s" in followed.sentences()[0]

    on_fake_time(scenario)


def test_retry_after_is_honoured() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", fails(429, "TooManyRequests", "later", Retry_After="45"))
        async with following.following(api) as followed:
            await followed.synced()
            first, second = api.requests(SERVICES, "list")
            assert 45 <= second.at - first.at <= 47

    on_fake_time(scenario)


def test_a_negative_wait_in_a_status_shortens_no_backoff() -> None:
    status = {**fake_api.status_object(429, "TooManyRequests", "later")}
    status["details"] = {"retryAfterSeconds": -1000}

    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return fake_api.reply(status, 429)

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", *[refuse] * 5)
        async with following.following(api) as followed:
            await followed.synced()
            moments = [each.at for each in api.requests(SERVICES, "list")]
            assert all(b - a > 0.001 for a, b in itertools.pairwise(moments))
            assert "429: later" in followed.sentences()[0]

    on_fake_time(scenario)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(5, 5), (400, 300), (10**400, 300), (-5, 0), (-(10**400), 0)],
    ids=["seconds", "minutes", "for ever", "negative", "far below nothing"],
)
def test_a_wait_of_any_length_in_a_status_is_bounded(asked: int, seconds: float) -> None:
    status = {"kind": "Status", "code": 429, "details": {"retryAfterSeconds": asked}}
    found = wire.status(json.dumps(status).encode())
    assert found is not None
    assert client.refused(progress.Mode.LIST, found).retry_after == seconds


def test_clients_that_were_turned_away_do_not_come_back_together() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        moments = []
        for seed in range(20):
            api.asked.clear()
            api.script(
                SERVICES, "list", fails(429, "", "", Retry_After="5"), fails(503), fails(503)
            )
            async with following.following(api, seed=seed) as followed:
                begun = asyncio.get_running_loop().time()
                await followed.synced()
                moments.append(api.requests(SERVICES, "list")[-1].at - begun)
        assert min(moments) >= 5
        assert max(moments) - min(moments) > 1.5
        gaps = [b - a for a, b in itertools.pairwise(sorted(moments))]
        assert max(gaps) < 2

    on_fake_time(scenario)


def test_a_server_that_hangs_and_is_then_gone_is_not_probed_in_a_hot_loop() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(100)
            probes = 0

            async def refuses(request: web.BaseRequest) -> web.StreamResponse:
                nonlocal probes
                probes += 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()

            api.behave = refuses
            await asyncio.sleep(250)
            # Of two reflectors, each a second apart at least; aiohttp sends each one twice.
            assert 50 <= probes <= 2 * 2 * 250
            api.behave = None
            await followed.until(lambda: followed.informed.problems() == (), 10)

    on_fake_time(scenario)


def test_a_missing_right_is_named_with_what_would_grant_it_and_found_within_5_seconds() -> None:
    said = (
        'services is forbidden: User "system:serviceaccount:kube-system:kproxy" cannot list '
        'resource "services" in API group "" at the cluster scope'
    )

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        refusals = [fails(403, "Forbidden", said)] * 1000
        api.script(SERVICES, "list", *refusals)
        async with following.following(api) as followed:
            await asyncio.sleep(300)
            assert 300 / 4 <= len(api.requests(SERVICES, "list")) <= 300 / 2
            (told,) = followed.sentences()
            assert "the right to list services in all namespaces is missing" in told
            assert (
                "kubectl create clusterrole kproxy --verb=list,watch "
                "--resource=services,endpointslices.discovery.k8s.io &&" in told
            )
            assert "--serviceaccount=kube-system:kproxy" in told
            assert told.startswith("services: cannot list: ")
            begun = asyncio.get_running_loop().time()
            api.forget_scripts()
            await followed.until(lambda: followed.informed.has_synced, 600)
            assert asyncio.get_running_loop().time() - begun <= 5
            assert followed.informed.problems() == ()

    on_fake_time(scenario)


def test_c4_a_403_of_a_server_that_loads_its_roles_is_asked_again_within_a_second() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            api.script(SERVICES, "watch", fails(403, "Forbidden", "no"))
            api.script(SERVICES, "list", fails(403, "Forbidden", "no"))
            api.emit(SERVICES, "ERROR", fake_api.status_object(500, "InternalError", "no"))
            begun = asyncio.get_running_loop().time()
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: followed.services() == {"web", "db"})
            assert asyncio.get_running_loop().time() - begun <= 3
            assert not [each for each in followed.sentences() if "kubectl" in each]

    on_fake_time(scenario)


def test_the_right_to_list_without_the_right_to_watch_is_reported_once() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", *[fails(403, "Forbidden", "no")] * 1000)
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(600)
            (told,) = followed.sentences()
            assert "the right to watch services in all namespaces is missing" in told
            assert 600 / 4 - 5 <= len(api.requests(SERVICES, "watch")) <= 600 / 2 + 5
            assert "out of contact" in followed.informed.describe()

    on_fake_time(scenario)
