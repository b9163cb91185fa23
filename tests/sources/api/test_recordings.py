"""What a real API server said (kube-apiserver v1.20.2), through the informer."""

import json
from pathlib import Path

import pytest

from kproxy.model import names
from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, sends
from tests.sources.api.rig.following import on_fake_time

RECORDINGS = (
    Path(__file__).parent.parent.parent / "fixtures" / "recordings" / "kube-apiserver-v1.20.2"
)


def _sends_json(body: object) -> fake_api.Behaviour:
    return sends(json.dumps(body).encode())


@pytest.mark.parametrize("is_expired", [False, True])
def test_every_recorded_list_and_watch_is_digested(is_expired: bool) -> None:
    """A server that speaks only in recordings of kube-apiserver v1.20.2."""
    pages = [RECORDINGS / f"list-services-page{number}.json" for number in (1, 2, 3, 4)]

    whole = json.loads(pages[3].read_text())
    whole["items"] = [item for page in pages for item in json.loads(page.read_text())["items"]]

    async def scenario(api: fake_api.FakeApi) -> None:
        group = (RECORDINGS / "discovery-group.json").read_bytes()
        api.script(fake_api.GROUP, "get", sends(group))
        expired = (RECORDINGS / "continue-expired-410.json").read_bytes()
        denied = (RECORDINGS / "unauthorized-401.json").read_bytes()
        api.script(
            SERVICES,
            "list",
            *[sends(denied, code=401)] * 2,
            sends((RECORDINGS / "not-found-404.json").read_bytes(), code=404),
            *(
                [sends(pages[0].read_bytes()), sends(expired, code=410), _sends_json(whole)]
                if is_expired
                else [sends(page.read_bytes()) for page in pages]
            ),
        )
        watch = (RECORDINGS / "watch-services.jsonl").read_bytes()
        too_old = (RECORDINGS / "watch-too-old-resourceversion.jsonl").read_bytes()
        short = (RECORDINGS / "watch-services-timeout-2s.jsonl").read_bytes()
        slices = (RECORDINGS / "list-endpointslices-v1beta1.json").read_bytes()
        selected = (RECORDINGS / "list-services-kube-proxy-selector.json").read_bytes()
        api.script(SERVICES, "watch", sends(watch), sends(short), sends(too_old))
        api.script(fake_api.BETA_SLICES, "list", sends(slices))
        events = (RECORDINGS / "watch-endpointslices-v1beta1.jsonl").read_bytes()
        api.script(fake_api.BETA_SLICES, "watch", sends(events))
        api.versions = ("v1beta1",)
        async with following.following(api) as followed:
            await followed.synced()
            assert followed.services() == {each["metadata"]["name"] for each in whole["items"]}
            api.script(SERVICES, "list", sends(selected))
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 4)
            chosen = {each["metadata"]["name"] for each in json.loads(selected)["items"]}
            assert followed.services() == chosen
            assert followed.informed.counters()[1].events["BOOKMARK"] >= 1
            assert followed.informed.counters()[1].malformed == 0
            assert followed.of_services.malformed == 0

    on_fake_time(scenario)


def test_recorded_endpoints_serve_a_cluster_without_slices() -> None:
    listed = (RECORDINGS / "list-endpoints.json").read_bytes()
    events = (RECORDINGS / "watch-endpoints.jsonl").read_bytes()

    async def scenario(api: fake_api.FakeApi) -> None:
        api.versions = ()
        absent = (RECORDINGS / "discovery-v1-absent.txt").read_bytes()
        api.script(fake_api.GROUP, "get", sends(absent, code=404))
        api.script(fake_api.ENDPOINTS, "list", sends(listed))
        api.script(fake_api.ENDPOINTS, "watch", sends(events))
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(fake_api.ENDPOINTS, "watch")) == 2)
            big = names.NamespacedName("rec", "big")
            (port,) = {
                entry["ports"][0]["name"]
                for item in json.loads(listed)["items"]
                if item["metadata"]["name"] == "big"
                for entry in item["subsets"]
            }
            found = followed.informed.store.endpoints(names.ServicePortName(big, port))
            assert len(found) == 1000

    on_fake_time(scenario)


def test_a_recorded_refusal_names_a_user() -> None:
    body = (RECORDINGS / "forbidden-403.json").read_bytes()

    async def scenario(api: fake_api.FakeApi) -> None:
        api.script("/api/v1/namespaces/web/services", "list", *[sends(body, code=403)] * 2)
        async with following.following(api, namespaces=frozenset({"web"})) as followed:
            await followed.until(lambda: bool(followed.told))
            told = followed.sentences()[0]
            assert "kubectl create role kproxy --namespace=web" in told
            assert "--role=kproxy --user=nobody" in told

    on_fake_time(scenario)
