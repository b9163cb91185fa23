"""Events in any order end in the same state."""

import asyncio
import itertools
import random

import pytest

from tests.sources.api.rig import fake_api, following
from tests.sources.api.rig.fake_api import SERVICES, SLICES, sends
from tests.sources.api.rig.following import on_fake_time


@pytest.mark.parametrize("seed", range(8))
def test_events_of_any_order_end_in_the_newest_state(seed: int) -> None:
    """K14: shuffled, repeated, unknown and stale events; the newest version of each counts."""
    rng = random.Random(seed)

    async def scenario(api: fake_api.FakeApi) -> None:
        async with following.following(api) as followed:
            await followed.synced()
            events, newest = [], {}
            for version in range(1000, 1060):
                name = rng.choice(["a", "b", "c", "d"])
                kind = rng.choice(["ADDED", "MODIFIED", "MODIFIED", "DELETED"])
                body = fake_api.service(f"10.96.1.{version - 999}")
                body["metadata"] = {
                    "name": name,
                    "namespace": "default",
                    "resourceVersion": str(version),
                }
                newest[name] = (kind, body)
                events += [fake_api.event(kind, body)] * rng.randint(1, 2)
            rng.shuffle(events)
            await followed.until(lambda: bool(api.requests(SERVICES, "watch")))
            api.version = 2000
            api.history[SERVICES].append((2000, b"".join(events)))
            api.emit(SLICES, "MODIFIED", {"metadata": {}})  # stirs
            expected = {
                name: body["spec"]["clusterIP"]
                for name, (kind, body) in newest.items()
                if kind != "DELETED"
            }
            await asyncio.sleep(1)
            found = {
                name.name: service.cluster_ip
                for name in followed.informed.store.service_names()
                if (service := followed.informed.store.service(name))
            }
            assert found == expected
            assert followed.informed.counters()[0].failures == {"streaming-list-refused": 1}

    on_fake_time(scenario)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_services_and_slices_in_any_order_end_alike(order: tuple[int, ...]) -> None:
    """K15."""

    async def scenario(api: fake_api.FakeApi) -> None:
        async with following.following(api) as followed:
            await followed.synced()
            steps = (
                lambda: api.put(SERVICES, "web", fake_api.service()),
                lambda: api.put(SLICES, "web-1", fake_api.sliced("web", "10.1.0.1")),
                lambda: api.put(SLICES, "web-2", fake_api.sliced("web", "10.1.0.2")),
                lambda: api.put(SERVICES, "db", fake_api.service("10.96.0.2")),
            )
            for step in order:
                steps[step]()
                await asyncio.sleep(0.1)
            assert followed.services() == {"web", "db"}
            assert followed.backends("web") == {"10.1.0.1", "10.1.0.2"}

    on_fake_time(scenario)


def test_bookmarks_move_the_version_and_unknown_things_are_counted() -> None:
    """K16."""

    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        surprises = fake_api.event("FUTURE", {"kind": "Service"}), fake_api.bookmark(777)
        unnamed = fake_api.event("ADDED", {"kind": "Service", "metadata": {}})
        api.script(SERVICES, "watch", sends(*surprises, unnamed))
        async with following.following(api) as followed:
            await followed.until(lambda: len(api.requests(SERVICES, "watch")) == 2)
            assert api.requests(SERVICES, "watch")[1].query["resourceVersion"] == "777"
            assert followed.of_services.events["other"] == 1
            assert followed.of_services.malformed == 1
            assert followed.services() == {"web"}

    on_fake_time(scenario)
