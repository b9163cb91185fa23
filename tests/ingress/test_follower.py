"""When nginx gets a new configuration, and when it gets none. nginx is played by the test."""

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, cast

import pytest

from kproxy import errors
from kproxy.ingress import (
    certificates,
    follower,
    kinds,
    nginx_config,
    problems,
    state,
    table,
    upstreams,
)
from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoint_slice_kind, endpoints, registry, services
from kproxy.model.kinds.ingress import ingresses
from kproxy.sources import store
from tests import virtual_time
from tests.ops import observing

WEB = names.NamespacedName("default", "web")
SETTINGS = nginx_config.Settings(
    directory="/nowhere",
    control="unix:/nowhere/control",
    default_certificate=certificates.self_made(),
    http=(addresses.SocketAddress("127.0.0.1", 8080),),
)


class Played:
    """An nginx that accepts what does not have the word `refused` in it."""

    def __init__(self) -> None:
        self.in_force: list[nginx_config.Rendered] = []
        self.refused = "\0"

    async def refusal(self, configuration: nginx_config.Rendered) -> str:
        return "refused" if self.refused in configuration.text else ""

    async def put(self, configuration: nginx_config.Rendered) -> str:
        words = await self.refusal(configuration)
        if not words:
            self.in_force.append(configuration)
        return words


class World:
    """A Store that the test writes, what follows it, and what is shown of it."""

    def __init__(self, *, through_endpoints: bool = False) -> None:
        self.source = observing.StillSource(())
        self.source.store = store.Store((*registry.KINDS, *kinds.KINDS))
        self.nginx = Played()
        self.shown = state.IngressState()
        self.noted: list[table.Problem] = []
        self.taken: set[str] = set()
        """Addresses that other Services have."""
        reader = self.source.store
        upstream: upstreams.Endpoints | upstreams.Frontends = upstreams.Endpoints(reader)
        if not through_endpoints:
            upstream = upstreams.Frontends(reader, self._locate)
        self.follower = follower.Follower(
            self.source,
            upstream,
            follower.Choice("kproxy", through_endpoints=through_endpoints),
            problems.Report(self.shown, self.noted.append),
            self.shown,
        )

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[Played]:
        """Follow for the time of the block, from when the first table is in force."""
        running = self.follower.run(cast("Any", self.nginx), SETTINGS)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(running)
            await self.follower.is_in_force.wait()
            yield self.nginx
            task.cancel()

    def apply(self, accepted: object) -> None:
        """Store an object, and announce it."""
        self.source.store.announce(self.source.store.apply(accepted))  # type: ignore[arg-type]  # of all kinds

    def _locate(
        self, _: names.ServicePortName, frontend: forwarding.Frontend
    ) -> forwarding.PortalAddress | None:
        if frontend.address in self.taken:
            return None
        return forwarding.PortalAddress("127" + frontend.address[2:], frontend.port)


def service(name: str = "web", port: int = 80, ip: str = "10.96.0.1") -> services.Service:
    """A Service of one port."""
    return services.Service(
        names.NamespacedName("default", name),
        services.ServiceType.CLUSTER_IP,
        ip,
        (services.ServicePort("", names.Protocol.TCP, port),),
    )


def ingress(name: str, host: str = "", port: int = 80) -> ingresses.Ingress:
    """An Ingress of one host to Service `web`."""
    path = ingresses.Path("/", ingresses.PathType.PREFIX, ingresses.Backend("web", port))
    rule = ingresses.Rule(host or f"{name}.example", (path,))
    return ingresses.Ingress(names.NamespacedName("default", name), "kproxy", (rule,))


def slice_of(*ips: str) -> endpoints.EndpointsObject:
    """The endpoints of Service `web`."""
    found = tuple(endpoints.Endpoint(addresses.SocketAddress(ip, 8080)) for ip in ips)
    port = endpoints.EndpointPort("", names.Protocol.TCP, found)
    return endpoints.EndpointsObject(
        names.NamespacedName("default", "web-1"), WEB, endpoint_slice_kind.KIND.name, (port,)
    )


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test whose clock jumps."""

    @functools.wraps(test)
    def run() -> None:
        virtual_time.run(test)

    return run


async def settled() -> None:
    """Return when everything that a change brings has happened; the clock is virtual."""
    await asyncio.sleep(1)


@virtual
async def test_changes_in_quick_succession_are_one_configuration() -> None:
    world = World()
    world.apply(service())
    async with world.followed() as nginx:
        assert len(nginx.in_force) == 1
        for number in range(100):
            world.apply(ingress(f"i{number}"))
        await settled()

    assert len(nginx.in_force) == 2
    assert nginx.in_force[1].text.count("server_name i") == 100
    assert len(world.shown.served) == 100
    assert world.shown.version == nginx.in_force[1].version


@virtual
async def test_endpoints_change_nothing_where_kproxy_picks_them() -> None:
    world = World()
    world.apply(service())
    world.apply(ingress("web"))
    async with world.followed() as nginx:
        for number in range(1, 20):
            world.apply(slice_of(f"10.1.0.{number}"))
            await settled()

    assert len(nginx.in_force) == 1
    assert "127.96.0.1:80" in nginx.in_force[0].text


@virtual
async def test_endpoints_are_a_change_where_nginx_goes_to_them() -> None:
    world = World(through_endpoints=True)
    world.apply(service())
    world.apply(ingress("web"))
    async with world.followed() as nginx:
        world.apply(slice_of("10.1.0.1", "10.1.0.2"))
        await settled()

    assert "10.1.0.2:8080" in nginx.in_force[-1].text
    assert len(nginx.in_force) == 2


@virtual
async def test_nothing_is_sent_to_an_address_that_another_service_gets() -> None:
    world = World()
    world.apply(service())
    world.apply(ingress("web"))
    async with world.followed() as nginx:
        assert "127.96.0.1:80" in nginx.in_force[-1].text
        world.taken.add("10.96.0.1")
        world.follower.look_at(frozenset([WEB]))
        await settled()
        (problem,) = world.shown.problems

        assert "127.96.0.1:80" not in nginx.in_force[-1].text
        assert (problem.ingress.name, problem.reason) == ("web", "ServiceNotReachable")
        assert problem.text.startswith("Service port default/web is served at no address here")

        world.taken.clear()
        world.follower.look_at(frozenset([WEB]))
        await settled()

    assert "127.96.0.1:80" in nginx.in_force[-1].text
    assert not world.shown.problems


@virtual
async def test_a_service_that_comes_ends_the_problem_with_it() -> None:
    world = World()
    world.apply(ingress("web"))
    async with world.followed() as nginx:
        (problem,) = world.shown.problems
        world.apply(service())
        await settled()

    assert "web" in str(problem)
    assert world.noted == [problem]
    assert not world.shown.problems
    assert "127.96.0.1:80" in nginx.in_force[-1].text


@virtual
async def test_what_nginx_refuses_does_not_hold_up_the_others() -> None:
    world = World()
    world.apply(service())
    world.apply(ingress("old"))
    async with world.followed() as nginx:
        nginx.refused = "bad.example"
        for name in ("one", "bad", "two"):
            world.apply(ingress(name))
        await settled()
        served = set(world.shown.served)
        (problem,) = world.shown.problems

        assert {each.name for each in served} == {"old", "one", "two"}
        assert (problem.ingress.name, problem.reason) == ("bad", "Refused")
        assert "nginx refuses it: refused" in problem.text

        world.apply(ingress("bad", "good.example"))
        await settled()

    assert len(world.shown.served) == 4
    assert not world.shown.problems


@virtual
async def test_the_last_good_version_of_what_nginx_refuses_stays_in_force() -> None:
    world = World()
    world.apply(service())
    world.apply(ingress("web", "first.example"))
    async with world.followed() as nginx:
        nginx.refused = "bad.example"
        world.apply(ingress("web", "bad.example"))
        world.apply(ingress("other"))
        await settled()
        (problem,) = world.shown.problems
        text = nginx.in_force[-1].text

        assert "first.example" in text
        assert "other.example" in text
        assert {each.name for each in world.shown.served} == {"web", "other"}
        assert problem.text == (
            "its last good version stays in force, because nginx refuses this one: refused"
        )
        assert world.noted == [problem]

        world.apply(ingress("third"))
        await settled()
        assert "first.example" in nginx.in_force[-1].text
        assert world.noted == [problem]

        world.apply(ingress("web", "second.example"))
        await settled()

    assert "second.example" in nginx.in_force[-1].text
    assert "first.example" not in nginx.in_force[-1].text
    assert not world.shown.problems


@virtual
async def test_a_last_good_version_that_nginx_refuses_too_is_left_out() -> None:
    world = World()
    world.apply(service())
    world.apply(ingress("web", "first.example"))
    async with world.followed() as nginx:
        nginx.refused = "bad.example"
        world.apply(ingress("web", "bad.example"))
        await settled()
        nginx.refused = ".example"
        world.apply(ingress("other", "other.test"))
        await settled()
        (problem,) = world.shown.problems

    assert {each.name for each in world.shown.served} == {"other"}
    assert problem.text == "it is not served, because nginx refuses it: refused"


@virtual
async def test_an_ingress_of_a_name_that_another_had_does_not_get_its_last_version() -> None:
    world = World()
    world.apply(service())
    world.apply(dataclasses.replace(ingress("web", "first.example"), uid="1"))
    async with world.followed() as nginx:
        nginx.refused = "bad.example"
        world.apply(dataclasses.replace(ingress("web", "bad.example"), uid="2"))
        await settled()

    assert "first.example" not in nginx.in_force[-1].text
    assert not world.shown.served


@virtual
async def test_an_nginx_that_refuses_everything_ends_the_proxy_at_the_start() -> None:
    world = World()
    world.nginx.refused = ""
    with pytest.raises(ExceptionGroup) as failed:
        async with world.followed():
            pass

    assert isinstance(errors.first_expected(failed.value), errors.KproxyError)
