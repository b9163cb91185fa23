"""The node's addresses: which have node ports, which clients are near, and what changes them.

The kernel is a value in most tests. The others give this process's own network namespace addresses.
"""

import asyncio
import contextlib
import ipaddress
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog.testing

from kproxy import errors
from kproxy.portal import node_addresses, portal

LOCAL = ("127.0.0.1", "192.0.2.5", "198.51.100.5", "::1", "2001:db8::5")
READING = node_addresses.Reading(LOCAL, ("192.0.2.5", "2001:db8::5"))


def node_ports(*cidrs: str) -> portal.NodePorts:
    return portal.NodePorts(tuple(map(ipaddress.ip_network, cidrs)))


def of(
    allowed: portal.NodePorts,
    reading: node_addresses.Reading = READING,
    near: tuple[str, ...] = (),
) -> portal.Node:
    """The node of a portal to which the kernel shows `reading`."""
    networks = tuple(map(ipaddress.ip_network, near))
    return node_addresses.NodeAddresses(allowed, networks, lambda: reading).node


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        pytest.param(portal.NodePorts(), LOCAL, id="nothing is said: all"),
        pytest.param(portal.NodePorts(is_primary=True), READING.primary, id="primary"),
        pytest.param(
            node_ports("192.0.2.0/24", "::/0"),
            ("192.0.2.5", "::1", "2001:db8::5"),
            id="those in a network, of both families",
        ),
        pytest.param(node_ports("0.0.0.0/0", "::/0"), LOCAL, id="zero CIDRs: all"),
        pytest.param(
            node_ports("0.0.0.0/0", "192.0.2.0/24", "::/0"), LOCAL, id="a zero CIDR takes the rest"
        ),
        pytest.param(
            node_ports("192.0.2.0/24"),
            ("192.0.2.5", "::1", "2001:db8::5"),
            id="a family without a CIDR: all of it, as kube-proxy",
        ),
        pytest.param(node_ports("192.0.2.5/32", "fd00::/8"), ("192.0.2.5",), id="one address"),
        pytest.param(node_ports("203.0.113.0/24", "fd00::/8"), (), id="none matches: no node port"),
    ],
)
def test_row_12_node_ports_are_where_the_operator_allows(
    allowed: portal.NodePorts, expected: tuple[str, ...]
) -> None:
    assert of(allowed).addresses == expected


def test_row_12_a_network_without_an_address_of_the_node_is_said_once_for_each_change() -> None:
    readings = [READING]
    with structlog.testing.capture_logs() as logs:
        seen = node_addresses.NodeAddresses(
            node_ports("203.0.113.0/24", "::/0"), reader=lambda: readings[-1]
        )
        assert not seen.refresh()
        readings.append(node_addresses.Reading((*LOCAL, "203.0.113.9")))
        assert seen.refresh()
        assert "203.0.113.9" in seen.node.addresses
        readings.append(READING)
        seen.refresh()
    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert [each["unmatched"] for each in warnings] == [["203.0.113.0/24"]] * 2


def test_a_node_without_a_default_route_has_no_primary_address_and_that_is_said() -> None:
    with structlog.testing.capture_logs() as logs:
        made = of(portal.NodePorts(is_primary=True), node_addresses.Reading(LOCAL))
    assert made.addresses == ()
    assert [each["unmatched"] for each in logs if "unmatched" in each] == [["primary"]]


def test_row_27_clients_on_the_node_and_in_the_cluster_are_near() -> None:
    near = of(node_ports("192.0.2.0/24", "fd00::/8"), near=("10.244.0.0/16", "fd00:10::/64")).near
    assert near == (
        *("127.0.0.0/8", "::1/128", "10.244.0.0/16", "fd00:10::/64"),
        *("192.0.2.5/32", "198.51.100.5/32", "2001:db8::5/128"),
    )


def test_the_node_is_the_same_object_until_something_changes() -> None:
    readings = [READING]
    seen = node_addresses.NodeAddresses(reader=lambda: readings[-1])
    first = seen.node
    assert not seen.refresh()
    assert seen.node is first
    readings.append(node_addresses.Reading(LOCAL[:2]))
    assert seen.refresh()
    assert seen.node.addresses == LOCAL[:2]


def test_without_netlink_one_sentence_says_what_to_do() -> None:
    def refuse() -> node_addresses.Reading:
        raise PermissionError(1, "Operation not permitted")

    with pytest.raises(errors.KproxyError, match=r"netlink.*--portal loopback"):
        node_addresses.NodeAddresses(reader=refuse)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def batch(what: str, addresses: list[str]) -> None:
    """Add or remove many addresses."""
    lines = "".join(f"address {what} {each}" for each in addresses)
    subprocess.run(["ip", "-batch", "-"], input=lines.encode(), check=True)


needs_a_network = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs a network namespace of its own, which root can have"
)


@contextlib.contextmanager
def held(*words: str) -> Iterator[None]:
    """Add an address or interface for the time of a test: `ip OBJECT add …`."""
    kind, *rest = words
    ip(kind, "add", *rest)
    try:
        yield
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # the test removed it
            ip(kind, "del", *rest)


@contextlib.contextmanager
def interface(name: str) -> Iterator[None]:
    """One end of a cable whose other end is its peer, for the time of a test."""
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    try:
        ip("link", "set", name, "up")
        ip("link", "set", f"{name}p", "up")
        yield
    finally:
        ip("link", "del", name)


@needs_a_network
def test_the_kernel_says_which_addresses_there_are() -> None:
    with (
        interface("kpaddr0"),
        held("address", "192.0.2.7/24", "dev", "kpaddr0"),
        held("address", "192.0.2.8/24", "dev", "kpaddr0"),
        held("address", "169.254.7.7/16", "dev", "kpaddr0", "scope", "link"),
        held("address", "2001:db8::7/64", "dev", "kpaddr0", "nodad"),
        held("address", "192.0.2.9", "peer", "192.0.2.10", "dev", "kpaddr0"),
    ):
        local = node_addresses.read().local
        assert {"127.0.0.1", "192.0.2.7", "192.0.2.8", "192.0.2.9", "2001:db8::7"} <= set(local)
        others = {"169.254.7.7", "192.0.2.10"}.union(each for each in local if each[:4] == "fe80")
        assert others.isdisjoint(local)
        ip("link", "set", "kpaddr0", "down")
        assert "192.0.2.7" not in node_addresses.read().local


@needs_a_network
def test_the_addresses_of_kube_proxy_in_ipvs_mode_are_not_the_nodes() -> None:
    with interface("kube-ipvs0"), held("address", "10.96.7.7/32", "dev", "kube-ipvs0"):
        assert "10.96.7.7" not in node_addresses.read().local


@needs_a_network
def test_the_primary_address_is_the_one_from_which_the_node_connects_to_others() -> None:
    with (
        interface("kpaddr1"),
        held("address", "192.0.2.17/24", "dev", "kpaddr1"),
        held("address", "192.0.2.18/24", "dev", "kpaddr1"),
        held("address", "2001:db8::17/64", "dev", "kpaddr1", "nodad"),
        held("route", "default", "via", "192.0.2.1", "dev", "kpaddr1", "src", "192.0.2.18"),
        held("route", "default", "via", "2001:db8::1", "dev", "kpaddr1"),
    ):
        assert node_addresses.read().primary == ("192.0.2.18", "2001:db8::17")


async def heard(changed: asyncio.Event) -> None:
    """Wait for a change that the test has made."""
    async with asyncio.timeout(30):
        await changed.wait()
    changed.clear()


def found(seen: node_addresses.NodeAddresses) -> list[str]:
    return list(seen.node.addresses)


@contextlib.asynccontextmanager
async def following(
    allowed: portal.NodePorts,
) -> AsyncIterator[tuple[node_addresses.NodeAddresses, asyncio.Event]]:
    """A node that is followed; the event is set when it has changed."""
    seen = node_addresses.NodeAddresses(allowed)
    changed = asyncio.Event()
    seen.follow(changed.set)
    try:
        yield seen, changed
    finally:
        seen.close()


@needs_a_network
async def test_row_12_an_address_that_comes_and_goes_is_followed() -> None:
    async with following(node_ports("192.0.2.0/24", "2001:db8::/32")) as (seen, changed):
        assert found(seen) == []
        with held("address", "192.0.2.27/32", "dev", "lo"):
            await heard(changed)
            assert found(seen) == ["192.0.2.27"]
            assert "192.0.2.27/32" in seen.node.near
            with held("address", "2001:db8::27/128", "dev", "lo"):
                await heard(changed)
                assert found(seen) == ["192.0.2.27", "2001:db8::27"]
            await heard(changed)
        await heard(changed)
        assert found(seen) == []


@needs_a_network
async def test_an_address_whose_uniqueness_is_not_established_yet_comes_when_it_is() -> None:
    with interface("kpaddr2"):
        async with following(node_ports("192.0.2.0/24", "2001:db8:2::/64")) as (seen, changed):
            ip("address", "add", "2001:db8:2::7/64", "dev", "kpaddr2")  # needs about a second
            while "2001:db8:2::7" not in found(seen):
                await heard(changed)


@needs_a_network
async def test_a_thousand_notifications_are_few_changes() -> None:
    many = [f"198.18.{n // 250}.{n % 250 + 1}/32 dev lo\n" for n in range(1000)]
    async with following(node_ports("198.18.0.0/15", "fd00::/8")) as (seen, changed):
        batch("add", many)
        try:
            while len(found(seen)) < len(many):
                await heard(changed)
        finally:
            batch("del", many)


@needs_a_network
async def test_what_is_closed_hears_nothing_more() -> None:
    async with following(portal.NodePorts()) as (seen, changed):
        before = seen.node
        seen.close()
        with held("address", "192.0.2.37/32", "dev", "lo"):
            await asyncio.sleep(0)
            assert not changed.is_set()
            assert seen.node is before
