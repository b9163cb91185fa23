"""Routes of the portal that other programs remove come back, and no others do.

The process is in a network namespace of its own.
"""

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator

import pytest
import structlog.testing

from kproxy.portal.local import route_watch, routes
from tests.ops import surfaces
from tests.portal.local.test_routes import ip, local_routes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make routes"),
]
SERVICES = ("10.94.0.0/16", "fd00:10:94::/112")


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[routes.Routes]:
    """The routes of SERVICES, watched."""
    made = routes.Routes(map(ipaddress.ip_network, SERVICES))
    made.follow(["127.0.0.1"], "127.0.0.1")
    watch = route_watch.RouteWatch(made)
    watch.follow()
    try:
        yield made
    finally:
        watch.close()
        made.close()
        assert local_routes() == set()


async def routed(*networks: str) -> None:
    """Return when just these have a route."""
    await surfaces.until(lambda: local_routes() == set(networks))


def remove(network: str, *more: str) -> None:
    ip("route", "del", "local", network, "dev", "lo", "table", "local", *more)


@pytest.mark.parametrize("network", SERVICES)
async def test_a_route_that_another_program_removes_comes_back(network: str) -> None:
    async with watched():
        with structlog.testing.capture_logs() as lines:
            remove(network)
            await routed(*SERVICES)
            remove(network)
            await routed(*SERVICES)
            await surfaces.until(lambda: len(lines) == 2)
        assert [(line["log_level"], line["first"]) for line in lines] == 2 * [
            ("warning", [network])
        ]


@pytest.mark.parametrize("address", ["203.0.113.74", "fd01::74"])
async def test_the_route_of_an_address_comes_back_while_it_is_held(address: str) -> None:
    async with watched() as made:
        made.hold(address)
        remove(address)
        await routed(*SERVICES, address)

        made.let_go(address)
        remove(SERVICES[0])
        await routed(*SERVICES)


async def test_another_programs_route_that_goes_is_replaced() -> None:
    ip("route", "add", "local", "203.0.113.75", "dev", "lo", "proto", "42")
    async with watched() as made:
        made.hold("203.0.113.75")
        assert local_routes() == set(SERVICES)
        remove("203.0.113.75", "proto", "42")
        await routed(*SERVICES, "203.0.113.75")


async def test_after_lost_notifications_all_routes_are_looked_at() -> None:
    async with watched() as made:
        made.hold("203.0.113.76")
        with structlog.testing.capture_logs() as lines:
            many = [f"198.19.{n // 250}.{n % 250 + 1}" for n in range(5000)]
            await asyncio.sleep(0)
            ip_batch("add", many)
            remove(SERVICES[0])
            ip_batch("del", many)  # more than a socket holds, while the loop does not turn
            remove("203.0.113.76")
            await routed(*SERVICES, "203.0.113.76")
        assert not [line for line in lines if line["log_level"] == "error"]


def ip_batch(what: str, addresses: list[str]) -> None:
    """Add or remove local routes to many addresses."""
    lines = (f"route {what} local {each} dev lo table local" for each in addresses)
    ip("-batch", "-", text="\n".join(lines))
