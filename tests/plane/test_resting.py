"""Service ports without a client so far: all about them can be read, changed and reported."""

import random
from collections.abc import AsyncIterator

import pytest
import structlog

from kproxy.model import addresses, forwarding
from kproxy.plane import in_process
from tests.reconcile import builders

WEB = builders.port_of("web")
ONE, TWO = (addresses.SocketAddress("192.0.2.1", port) for port in (8001, 8002))
NOW = 100.0


@pytest.fixture
async def plane() -> AsyncIterator[in_process.InProcessPlane]:
    made = in_process.InProcessPlane(rng=random.Random(1))
    yield made
    made.close()


def balance(
    plane: in_process.InProcessPlane,
    *backends: addresses.SocketAddress,
    policy: forwarding.Policy = forwarding.Policy(),  # noqa: B008  # frozen
) -> None:
    pools = tuple(
        forwarding.Pool(scope, addresses.Family.IPV4, backends)
        for scope in forwarding.Scope
        if backends
    )
    plane.send(forwarding.SetBackends(WEB, policy, pools))


def used(plane: in_process.InProcessPlane) -> set[addresses.SocketAddress]:
    return {each for each in (ONE, TWO) if plane.endpoint(WEB, each).is_used}


async def test_what_never_had_a_client_is_read_as_all_others(
    plane: in_process.InProcessPlane,
) -> None:
    balance(plane, ONE)
    seen = plane.service_port(WEB)
    assert seen is not None
    assert (seen.accepted, seen.active, seen.ended, seen.affinity_entries) == (0, 0, {}, None)
    assert list(plane.affinity(WEB, 10)) == []
    assert used(plane) == {ONE}

    balance(plane, TWO)
    assert used(plane) == {TWO}
    assert {each.backend for each in plane.coming(WEB, "192.0.2.9")} == {TWO}
    assert used(plane) == {TWO}

    plane.send(forwarding.Forget(WEB))
    assert plane.service_port(WEB) is None
    assert used(plane) == set()


async def test_affinity_is_counted_before_there_are_clients(
    plane: in_process.InProcessPlane,
) -> None:
    balance(plane, ONE)
    balance(plane, ONE, policy=forwarding.Policy(affinity_seconds=60))
    seen = plane.service_port(WEB)
    assert seen is not None
    assert (seen.affinity_entries, seen.affinity_evictions) == (0, 0)


async def test_an_endpoint_in_the_penalty_box_is_not_used(
    plane: in_process.InProcessPlane,
) -> None:
    balance(plane, ONE, TWO)
    assert plane.box.fail(ONE, NOW)
    assert used(plane) == {TWO}
    plane.box.succeed(ONE)
    assert used(plane) == {ONE, TWO}


@pytest.mark.parametrize("is_forgotten", [True, False])
async def test_the_penalty_box_forgets_what_has_left(
    plane: in_process.InProcessPlane, is_forgotten: bool
) -> None:
    balance(plane, ONE, TWO)
    assert plane.box.fail(ONE, NOW)
    if is_forgotten:
        plane.send(forwarding.Forget(WEB))
    else:
        balance(plane, TWO)
    assert ONE not in plane.box


@pytest.mark.parametrize("is_barred_first", [True, False])
async def test_an_address_of_kproxys_own_is_reported_once(
    plane: in_process.InProcessPlane, is_barred_first: bool
) -> None:
    with structlog.testing.capture_logs() as log:
        if is_barred_first:
            plane.send(forwarding.Bar(ONE, "healthz"))
            balance(plane, ONE, TWO)
        else:
            balance(plane, ONE, TWO)
            plane.send(forwarding.Bar(ONE, "healthz"))
        assert used(plane) == {TWO}
        assert {each.backend for each in plane.coming(WEB, "192.0.2.9")} == {TWO}
    (line,) = log
    assert (line["service"], line["endpoints"]) == (str(WEB), [f"{ONE} of healthz"])


async def test_more_endpoints_than_a_client_may_wait_for(
    plane: in_process.InProcessPlane,
) -> None:
    many = [addresses.SocketAddress("192.0.2.3", port) for port in range(1, 2001)]
    balance(plane, ONE)
    balance(plane, *many)
    assert plane.backends(WEB) == set(many)
    balance(plane, ONE)
    assert used(plane) == {ONE}
