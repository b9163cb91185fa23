"""The informer as a Source: credentials, TLS, namespaces, staleness, bugs."""

import asyncio
import logging
import re
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kproxy import metrics
from kproxy.model import admission, names
from kproxy.model.kinds.kind import Kind
from kproxy.sources.access import kubeconfig
from tests.sources.access import tls
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import BETA_SLICES, SERVICES, SLICES, fails, sends
from tests.sources.api.rig.following import on_fake_time


def test_the_last_state_is_served_while_the_server_is_away_and_says_how_stale_it_is() -> None:
    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        for path in (SERVICES, SLICES):
            api.script(path, "watch", sends(fake_api.bookmark(200), then="abort"))
            api.script(path, "watch", *[refuse] * 40)
            api.script(path, "list", api.answer_list, *[refuse] * 40)
        api.version = 200
        async with following.following(api) as followed:
            await followed.synced()
            await asyncio.sleep(40)
            assert followed.backends("web") == {"10.1.0.1"}
            assert "out of contact for " in followed.informed.describe()
            since = followed.of_services.contact.failing_since
            assert since is not None
            assert since < 5
            assert followed.of_services.contact.heard_at == pytest.approx(since, abs=5)
            assert len(followed.changes) == 1
            await asyncio.sleep(1800)
            assert "out of contact" not in followed.informed.describe()
            assert followed.informed.problems() == ()
            assert followed.of_services.relists == {"start": 1, "unreachable": 1}
            assert "services at 200" in followed.informed.describe()

    on_fake_time(scenario)


def test_a_watch_that_is_live_again_is_not_stale_although_it_has_nothing_to_say() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "watch", sends(fake_api.bookmark(500), then="abort"))
        async with following.following(api) as followed:
            await followed.synced()
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2)
            await asyncio.sleep(2)
            assert "out of contact" not in followed.informed.describe()

    on_fake_time(scenario)


def test_answers_without_sense_are_no_contact() -> None:
    async def nonsense(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="<html>please log in</html>")

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            api.script(SERVICES, "watch", *[nonsense] * 500)
            api.script(SERVICES, "list", *[nonsense] * 500)
            api.emit(SERVICES, "ERROR", fake_api.status_object(410, "Expired", "gone"))
            await asyncio.sleep(1000)
            (told,) = re.findall(r"out of contact for (\d+) s", followed.informed.describe())
            assert 990 <= int(told) <= 1001

    on_fake_time(scenario)


def test_a_token_that_expired_is_read_again_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """K20."""
    token = tmp_path / "token"
    token.write_text("s3cret-old")

    async def scenario(api: fake_api.FakeApi) -> None:
        api.token = "s3cret-old"
        fake_api.serve_web(api, "10.1.0.1")
        user = kubeconfig.User(token_file=token)
        access = kubeconfig.ClusterAccess(api.url, "test", user)
        async with following.following(api, access=access) as followed:
            await followed.synced()
            api.token = "s3cret-new"
            api.emit(SERVICES, "ERROR", fake_api.status_object(410, "Expired", "gone"))
            await followed.until(lambda: bool(followed.told))
            assert followed.services() == {"web"}
            assert followed.told[0].severity is admission.Severity.ERROR
            token.write_text("s3cret-new")
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            begun = asyncio.get_running_loop().time()
            await followed.until(lambda: followed.services() == {"web", "db"})
            assert asyncio.get_running_loop().time() - begun <= 5
            assert "s3cret" not in "".join(followed.sentences()) + caplog.text
            assert "s3cret" not in repr(access) + followed.informed.describe()

    with caplog.at_level(logging.DEBUG):
        on_fake_time(scenario)


async def test_a_reload_reads_credentials_again_that_no_server_has_refused(tmp_path: Path) -> None:
    """In real time, since certificates are read in threads."""
    token = tmp_path / "token"
    token.write_text("old")
    async with fake_api.serving(fake_api.FakeApi()) as api:
        fake_api.serve_web(api, "10.1.0.1")
        access = kubeconfig.ClusterAccess(api.url, "test", kubeconfig.User(token_file=token))
        async with following.following(api, access=access) as followed:
            await followed.synced()
            watched = (SERVICES, fake_api.SLICES)
            await followed.until(lambda: all(api.requests(each, "watch") for each in watched))
            token.write_text("new")
            api.asked.clear()
            followed.informed.reload()
            await followed.until(lambda: all(api.requests(each, "watch") for each in watched))
            assert {each.authorization for each in api.asked} == {"Bearer new"}
            assert followed.services() == {"web"}


def test_a_refused_token_is_renewed_once_at_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("new")

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", fails(401, "Unauthorized", "Unauthorized"))
        access = kubeconfig.ClusterAccess(api.url, "test", kubeconfig.User(token_file=token))
        async with following.following(api, access=access) as followed:
            await followed.synced()
            first, second = api.requests(SERVICES, "list")
            assert second.at == pytest.approx(first.at, abs=0.01)
            assert followed.told == []

    on_fake_time(scenario)


async def test_a_plugin_that_fails_is_a_problem_and_never_anonymity() -> None:
    async with fake_api.serving(fake_api.FakeApi()) as api:
        plugin = kubeconfig.ExecPlugin("/bin/false", "client.authentication.k8s.io/v1")
        user = kubeconfig.User(exec_plugin=plugin)
        access = kubeconfig.ClusterAccess(api.url, "test", user)
        async with following.following(api, access=access) as followed:
            await followed.until(lambda: bool(followed.told))
            assert "credential plugin /bin/false failed with exit code 1" in str(followed.told[0])
            assert api.asked == []


async def test_netrc_and_proxies_for_others_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with fake_api.serving(fake_api.FakeApi(token="t")) as api:
        access = kubeconfig.ClusterAccess(api.url, "test", kubeconfig.User(token="t"))
        async with following.following(api, access=access) as followed:
            await followed.until(lambda: followed.informed.has_synced)
            assert {asked.authorization for asked in api.asked} == {"Bearer t"}


async def test_a_server_is_believed_only_with_a_certificate_of_the_authority(
    tmp_path: Path,
) -> None:
    """K21: a stranger is refused; when the authority's file is replaced, it is read again."""
    made, key = tls.certificate(tmp_path, "server")
    other, _ = tls.certificate(tmp_path, "other")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(other.read_bytes())
    async with fake_api.serving(fake_api.FakeApi(), tls.server(made, key)) as api:
        access = kubeconfig.ClusterAccess(api.url, "test", authority=authority)
        async with following.following(api, access=access) as followed:
            await followed.until(lambda: len(followed.told) >= 2)
            assert "TLS failed" in str(followed.told[0])
            assert api.asked == []
            authority.write_bytes(made.read_bytes())
            await followed.until(lambda: followed.informed.has_synced)
            await followed.until(lambda: followed.informed.problems() == ())


async def test_names_and_data_and_skipping_of_certificates(tmp_path: Path) -> None:
    made, key = tls.certificate(
        tmp_path, "server", "-addext", "keyUsage=digitalSignature,keyCertSign"
    )
    async with fake_api.serving(fake_api.FakeApi(), tls.server(made, key)) as api:
        good = kubeconfig.ClusterAccess(api.url, "test", authority=made.read_bytes())
        async with following.following(api, access=good) as followed:
            await followed.until(lambda: followed.informed.has_synced)
            assert followed.told == []
        wrong_name = replace(good, tls_server_name="kubernetes.example")
        async with following.following(api, access=wrong_name) as followed:
            await followed.until(lambda: bool(followed.told))
            assert "TLS failed" in str(followed.told[0])
        unverified = kubeconfig.ClusterAccess(api.url, "test", verifies=False)
        async with following.following(api, access=unverified) as followed:
            await followed.until(lambda: followed.informed.has_synced)
            assert "insecure-skip-tls-verify is set" in str(followed.told[0])


def test_redirects_and_bombs_and_giant_headers_are_refused() -> None:
    """K24."""

    async def redirect(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://127.0.0.1:1/api"})

    async def bomb(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    async def headers(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"X-Large": "x" * 1_000_000})

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.script(SERVICES, "list", redirect, bomb, headers)
        async with following.following(api) as followed:
            await followed.synced()
            told = "".join(followed.sentences())
            assert "redirects to http://127.0.0.1:1/api, which is not followed" in told
            assert "encoded as 'gzip', which was not asked for" in told
            assert len(followed.told) == 3

    on_fake_time(scenario)


def test_a_sleep_of_the_machine_reconnects_at_once_and_a_wall_clock_does_not_matter() -> None:
    """K23: `asleep` is all that is ever asked of clocks beside the event loop's."""
    slept = [0.0]

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api, asleep=lambda: slept[0]) as followed:
            await followed.synced()
            await asyncio.sleep(20)
            assert len(api.requests(SERVICES, "watch")) == 1
            slept[0] += 3600
            await asyncio.sleep(6)
            assert len(api.requests(SERVICES, "watch")) == 2
            assert len(api.requests(SLICES, "watch")) == 2
            assert len(api.requests(SERVICES, "list")) == 1
            assert followed.told == []

    on_fake_time(scenario)


def test_an_object_that_breaks_a_rule_is_reported_once_and_its_last_good_version_stays() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            for port in (0, 0, 70000):
                api.put(SERVICES, "web", fake_api.service(port=port))
                await asyncio.sleep(1)
            said = followed.sentences()
            assert len(said) == 2
            assert said[0].startswith("services: Service default/web: spec.ports[0].port")
            assert said[0].endswith("its last good version stays")
            assert followed.services() == {"web"}
            api.put(SERVICES, "web", fake_api.service(port=81))
            await asyncio.sleep(1)
            assert followed.informed.problems() == ()
            api.put(SERVICES, "bad", fake_api.service(port=0))
            await asyncio.sleep(1)
            assert followed.sentences()[-1].endswith("skipped")
            api.remove(SERVICES, "bad")
            await asyncio.sleep(1)
            assert followed.informed.problems() == ()

    on_fake_time(scenario)


def test_an_object_that_trips_over_a_bug_is_quarantined_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """K25."""
    honest = admission.admit_as_steps

    def buggy(
        kind: Kind[Any], raw: object, *, allow_loopback: bool
    ) -> Generator[None, None, admission.Admission]:
        if b"cursed" in bytes(raw):  # type: ignore[call-overload]
            raise ZeroDivisionError
        return honest(kind, raw, allow_loopback=allow_loopback)

    monkeypatch.setattr(admission, "admit_as_steps", buggy)

    async def scenario(api: fake_api.FakeApi) -> None:
        api.put(SERVICES, "cursed", fake_api.service("10.96.0.9"))
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {"web"}
            assert "services: Service default/cursed: judging it failed" in followed.sentences()[0]
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: followed.services() == {"web", "db"})

    on_fake_time(scenario)


def test_a_consumer_that_raises_is_notified_again() -> None:
    """K25: a bug behind the callback ends no task and loses no change."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        heard: list[frozenset[names.NamespacedName]] = []

        def fails_to_hear(changed: frozenset[names.NamespacedName]) -> None:
            heard.append(changed)
            raise ZeroDivisionError

        async with following.following(api) as followed:
            await followed.synced()
            followed.consumer = fails_to_hear
            api.put(SERVICES, "db", fake_api.service("10.96.0.2"))
            await followed.until(lambda: bool(heard))
            followed.consumer = heard.append
            api.put(SERVICES, "web", fake_api.service("10.96.0.7"))
            both = {names.NamespacedName("default", name) for name in ("db", "web")}
            await followed.until(lambda: heard[-1] == both)

    on_fake_time(scenario)


def test_namespaces_are_listed_one_by_one() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        for namespace in ("a", "b"):
            path = f"/api/v1/namespaces/{namespace}/services"
            api.put(path, "web", fake_api.service(namespace=namespace))
        async with following.following(api, namespaces=frozenset({"a", "b"})) as followed:
            await followed.synced()
            assert followed.informed.store.service_names() == {("a", "web"), ("b", "web")}
            assert not [asked for asked in api.asked if asked.path in {SERVICES, SLICES}]
            assert len(followed.informed.counters()) == 4
            assert "services in namespace a at" in followed.informed.describe()

    on_fake_time(scenario)


@pytest.mark.parametrize("what", ["services", "endpointslices", "both"])
def test_c9_a_namespace_without_rights_is_named_and_the_others_are_served(what: str) -> None:
    """And is served, within ten seconds, once the rights are granted (C6)."""

    async def scenario(api: fake_api.FakeApi) -> None:
        slices = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"
        services = "/api/v1/namespaces/{}/services"
        for namespace in ("a", "b"):
            api.put(services.format(namespace), "web", fake_api.service(namespace=namespace))
            body = fake_api.sliced("web", "10.1.0.1")
            body["metadata"]["namespace"] = namespace
            api.put(slices.format(namespace), "web-1", body)
        for path in (services, slices):
            if what in path or what == "both":
                api.script(path.format("b"), "list", *[fails(403, "Forbidden", "no")] * 10_000)
        async with following.following(api, namespaces=frozenset({"a", "b"})) as followed:
            begun = asyncio.get_running_loop().time()
            await followed.synced()
            assert asyncio.get_running_loop().time() - begun <= 10
            names_of_services = followed.informed.store.service_names
            assert names_of_services() == {("a", "web")}
            await asyncio.sleep(300)
            assert names_of_services() == {("a", "web")}
            (told,) = followed.sentences()
            assert " in namespace b: cannot list: " in told
            assert "kubectl create role kproxy --namespace=b --verb=list,watch" in told
            now = asyncio.get_running_loop().time()
            unread = metrics.unread(followed.informed.counters(), now)
            assert list(unread) == [told.partition(":")[0].replace(".discovery.k8s.io", "")]
            begun = asyncio.get_running_loop().time()
            api.forget_scripts()
            both = {("a", "web"), ("b", "web")}
            await followed.until(lambda: names_of_services() == both)
            assert asyncio.get_running_loop().time() - begun <= 10
            assert followed.changes[-1]

    on_fake_time(scenario)


def test_without_any_right_nothing_is_complete() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        refusals = [fails(403, "Forbidden", "no")] * 10_000
        api.script("/api/v1/namespaces/a/services", "list", *refusals)
        async with following.following(api, namespaces=frozenset({"a"})) as followed:
            await asyncio.sleep(100)
            assert not followed.informed.has_synced
            assert len(followed.told) == 1

    on_fake_time(scenario)


def test_headless_and_foreign_services_arrive_and_labels_of_slices_do_not_matter() -> None:
    """F15: the label service-proxy-name counts on Services only."""
    foreign = "service.kubernetes.io/service-proxy-name"

    async def scenario(api: fake_api.FakeApi) -> None:
        api.put(SERVICES, "web", fake_api.service())
        body = fake_api.sliced("web", "10.1.0.1")
        body["metadata"]["labels"][foreign] = "other"
        api.put(SLICES, "web-1", body)
        api.put(SERVICES, "theirs", fake_api.service("10.96.0.2", labels={foreign: "other"}))
        api.put(SERVICES, "headless", fake_api.service("None"))
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.backends("web") == {"10.1.0.1"}
            store = followed.informed.store
            proxied = {
                name.name: found.is_proxied
                for name in store.service_names()
                if (found := store.service(name))
            }
            assert proxied == {"web": True, "theirs": False, "headless": False}
            assert {each.query.get("labelSelector") for each in api.requests(SERVICES, "list")} == {
                None
            }

    on_fake_time(scenario)


def test_endpoints_are_found_again_when_the_server_was_upgraded() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.objects[BETA_SLICES] = dict(api.objects[SLICES])
        async with following.following(api) as followed:
            await followed.synced()
            assert api.requests(SLICES, "list") == []
            assert len(api.requests(BETA_SLICES, "list")) == 1
            api.versions = ("v1", "v1beta1")
            gone = fails(404, "NotFound", "the server could not find the requested resource")
            api.script(BETA_SLICES, "watch", gone)
            api.put(SLICES, "web-2", fake_api.sliced("web", "10.1.0.2"))
            api.emit(BETA_SLICES, "ERROR", fake_api.status_object(410, "Expired", "gone"))
            api.script(BETA_SLICES, "list", gone)
            await followed.until(lambda: followed.backends("web") == {"10.1.0.1", "10.1.0.2"})
            assert "endpointslices.discovery.k8s.io at" in followed.informed.describe()

    on_fake_time(scenario, fake_api.FakeApi(versions=("v1beta1",)))


def test_without_slices_endpoints_are_read_and_without_the_right_to_ask_v1() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        api.put(SERVICES, "web", fake_api.service())
        ports = [{"name": "http", "port": 8080}]
        subset = {"addresses": [{"ip": "10.1.0.5"}], "ports": ports}
        body = {"kind": "Endpoints", "apiVersion": "v1", "subsets": [subset]}
        api.put(fake_api.ENDPOINTS, "web", body)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.backends("web") == {"10.1.0.5"}
        api.versions = ("v1",)
        api.script(fake_api.GROUP, "get", fails(403, "Forbidden", "no"))
        async with following.following(api) as followed:
            await followed.synced()
            assert api.requests(SLICES, "list")

    on_fake_time(scenario, fake_api.FakeApi(versions=()))


def test_starting_before_the_server_is_there() -> None:
    """K01: it waits, tells it once, and syncs when the server has come up."""

    async def scenario(api: fake_api.FakeApi) -> None:
        nowhere = kubeconfig.ClusterAccess("http://127.0.0.1:9", "test")
        async with following.following(api, access=nowhere) as followed:
            await asyncio.sleep(120)
            assert not followed.informed.has_synced
            assert len(followed.told) == 2
            # 4 s at most between two attempts, drawn from all of it: see backoff.SOON.
            assert 120 / 4 <= sum(followed.of_services.failures.values()) <= 120

    on_fake_time(scenario)


async def test_cancelling_leaves_nothing_behind() -> None:
    async with fake_api.serving(fake_api.FakeApi()) as api:
        before = asyncio.all_tasks()
        async with following.following(api) as followed:
            await followed.until(lambda: bool(api.requests(SERVICES, "watch")))
        async with asyncio.timeout(60):
            while asyncio.all_tasks() - before - _of_server():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def _of_server() -> set["asyncio.Task[object]"]:
    """Tasks of the fake server, which may not have noticed yet that its client is gone."""
    return {task for task in asyncio.all_tasks() if "RequestHandler" in repr(task.get_coro())}
