"""A kind that a test adds with one record: files and an API server fill the same Store with it."""

import asyncio
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from kproxy.model import names, objects
from kproxy.model.judging import field_rules, findings
from kproxy.model.kinds import registry
from kproxy.model.kinds.kind import Collection, Kind, Policy
from kproxy.sources.files import manifests
from tests.sources.api.rig import fake_api, following

if TYPE_CHECKING:
    from kproxy.sources import source, store

PATIENCE_SECONDS = 60.0
ROUTES = "/apis/example.org/v1/routes"
WEB = names.NamespacedName("default", "web")
DB = names.NamespacedName("default", "db")
SPLIT = names.NamespacedName("default", "split")


@dataclass(frozen=True, slots=True)
class Route:
    """Which Services a host name leads to."""

    kind: ClassVar[str] = "Route"

    name: names.NamespacedName
    host: str
    to: tuple[names.NamespacedName, ...]


class RouteSpec(msgspec.Struct, frozen=True):
    """`spec` of a Route."""

    host: str | None = None
    services: tuple[str, ...] | None = None


class RouteShape(msgspec.Struct, frozen=True):
    """The JSON of a Route."""

    metadata: objects.ObjectMeta | None = None
    spec: RouteSpec | None = None


def judge(
    shape: RouteShape, found: findings.Findings, _: Policy, /
) -> Generator[None, None, Route | None]:
    """A Route needs a host."""
    yield
    spec = shape.spec or RouteSpec()
    name = field_rules.identity(shape.metadata, field_rules.DNS_LABEL, found)
    if not spec.host:
        found.violate("spec.host", spec.host, "must be given")
    to = tuple(names.NamespacedName(name.namespace, each) for each in spec.services or ())
    return None if found.violations else Route(name, spec.host or "", to)


def owner(route: Route) -> tuple[names.NamespacedName, ...]:
    """The Services that it leads to."""
    return route.to


KIND = Kind("Route", Collection("routes", "example.org"), RouteShape, judge, owner)
OPTIONAL = replace(KIND, collection=replace(KIND.collection, needed=False))


def route(*services: str, host: str | None = "example.org", name: str = "split") -> dict[str, Any]:
    """A Route as users write it."""
    metadata = {"name": name, "namespace": "default"}
    spec = {"host": host, "services": list(services)}
    return {"apiVersion": "example.org/v1", "kind": "Route", "metadata": metadata, "spec": spec}


def write(path: Path, *documents: dict[str, Any]) -> None:
    """Put documents into a file at once."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    scratch = path.with_suffix(".scratch")
    scratch.write_bytes(msgspec.json.encode(listed))
    scratch.replace(path)


async def test_files_give_it_and_keep_its_last_good_version(tmp_path: Path) -> None:
    told: list[source.Problem] = []
    changes: list[store.Dirty] = []
    stirred = asyncio.Event()
    path = tmp_path / "routes.json"
    write(path, route("web", "db"))
    read = manifests.ManifestSource(
        [tmp_path], on_problem=told.append, kinds=(*registry.KINDS, KIND)
    )
    read.store.subscribe(changes.append)
    read.store.subscribe(lambda _: stirred.set())

    async def until_changed() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await stirred.wait()
        stirred.clear()

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read.run())
        await until_changed()
        assert read.store.get(KIND, SPLIT) == Route(SPLIT, "example.org", (WEB, DB))
        assert changes == [{WEB, DB}]
        write(path, route("db"), route(host=None, name="bad"))
        await until_changed()
        assert changes[-1] == {WEB, DB}
        assert [each.name for each in read.store.of_service(KIND, DB)] == [SPLIT]
        assert read.store.of_service(KIND, WEB) == ()
        (problem,) = read.problems()
        assert "Route default/bad: spec.host is absent but must be given; skipped" in str(problem)
        write(path, route("db", host=None), route("db", name="other"))
        await until_changed()
        assert read.store.all(KIND).keys() == {SPLIT, names.NamespacedName("default", "other")}
        assert str(told[-1]).endswith("its last good version stays")
        reading.cancel()


def test_an_api_server_gives_it() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(ROUTES, "split", route("web"))
        serve(api, times=1)
        async with following.following(api, kinds=(*registry.KINDS, KIND)) as followed:
            await followed.synced()
            kept = followed.informed.store
            assert kept.get(KIND, SPLIT) == Route(SPLIT, "example.org", (WEB,))
            assert "routes.example.org at" in followed.informed.describe()
            api.put(ROUTES, "split", route("db"))
            await followed.until(lambda: followed.changes[-1] == {WEB, DB})
            api.put(ROUTES, "split", route("db", host=None))
            await followed.until(lambda: bool(followed.told))
            assert followed.sentences()[-1].endswith("its last good version stays")
            api.remove(ROUTES, "split")
            await followed.until(lambda: not kept.all(KIND))
            assert followed.informed.problems() == ()

    following.on_fake_time(scenario)


def test_a_kind_that_is_not_needed_holds_up_nothing_and_is_found_when_it_is_served() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        api.put(ROUTES, "split", route("web"))
        async with following.following(api, kinds=(*registry.KINDS, OPTIONAL)) as followed:
            await followed.synced()
            await asyncio.sleep(600)
            assert followed.services() == {"web"}
            assert not followed.informed.store.all(OPTIONAL)
            assert followed.told == []
            assert "out of contact" not in followed.informed.describe()
            serve(api, times=1)
            await followed.until(lambda: bool(followed.informed.store.all(OPTIONAL)))

    following.on_fake_time(scenario)


def test_a_kind_that_is_needed_and_not_served_is_waited_for() -> None:
    async def scenario(api: fake_api.FakeApi) -> None:
        fake_api.serve_web(api, "10.1.0.1")
        async with following.following(api, kinds=(*registry.KINDS, KIND)) as followed:
            await followed.until(lambda: bool(followed.told))
            assert not followed.informed.has_synced
            assert (
                "routes: cannot watch: the server has no routes.example.org"
                in (followed.sentences()[0])
            )
            serve(api, times=1)
            await followed.synced()

    following.on_fake_time(scenario)


def serve(api: fake_api.FakeApi, *, times: int) -> None:
    """Answer so often that the group example.org is there; else the fake names no version."""
    group = fake_api.reply({"kind": "APIGroup", "versions": [{"version": "v1"}]})

    async def answer(_: object) -> Any:
        return group

    api.script("/apis/example.org", "list", *[answer] * times)


@pytest.mark.parametrize(
    ("spec", "is_headless", "external_name"),
    [
        ({"clusterIP": "None"}, True, ""),
        ({"type": "ExternalName", "externalName": "db.example.org"}, False, "db.example.org"),
        ({"type": "ExternalName", "clusterIP": "None"}, False, ""),
    ],
)
def test_services_that_are_not_proxied_are_kept(
    spec: dict[str, Any], is_headless: bool, external_name: str
) -> None:
    """Headless ones and those of type ExternalName; another proxy's are too."""

    async def scenario(api: fake_api.FakeApi) -> None:
        plain = fake_api.service("10.96.0.1")
        foreign = {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}
        api.put("/api/v1/services", "foreign", {**plain, "metadata": foreign})
        bare = {key: value for key, value in plain["spec"].items() if key != "clusterIP"}
        api.put("/api/v1/services", "web", {**plain, "spec": {**bare, **spec}})
        async with following.following(api) as followed:
            await followed.synced()
            kept = followed.informed.store
            foreign_one, web = (
                kept.service(names.NamespacedName("default", name)) for name in ("foreign", "web")
            )
            assert foreign_one is not None
            assert foreign_one.proxied_elsewhere
            assert not foreign_one.is_proxied
            assert web is not None
            assert not web.is_proxied
            assert (web.is_headless, web.external_name) == (is_headless, external_name)

    following.on_fake_time(scenario)
