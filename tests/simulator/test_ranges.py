"""Ranges that clusters on one machine do not share."""

import contextlib
import ipaddress
import itertools
import os
from dataclasses import replace

import pytest

from kproxy import errors
from kproxy.simulator import ranges


def test_no_two_clusters_have_an_address_in_common() -> None:
    networks = [
        ipaddress.IPv4Network(cidr)
        for each in ranges.ALL
        for cidr in (each.services, each.pods, each.load_balancers)
    ]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))


def test_the_first_clusters_have_no_node_port_in_common() -> None:
    picked = [each.picked for each in ranges.ALL[:9]]
    assert not any(set(one) & set(other) for one, other in itertools.combinations(picked, 2))
    assert all(each[0] in ranges.NODE_PORTS and each[-1] in ranges.NODE_PORTS for each in picked)


def test_ranges_are_claimed_until_the_end() -> None:
    # As names that no cluster has: others may run on this machine.
    two = [replace(each, services=f"{each.services}-test-{os.getpid()}") for each in ranges.ALL[:2]]
    with ranges.claimed(two) as first:
        with ranges.claimed(two) as second:
            assert [first, second] == two
            with pytest.raises(errors.KproxyError, match=r"^2 simulated clusters run"):
                contextlib.ExitStack().enter_context(ranges.claimed(two))
        with ranges.claimed(two) as again:
            assert again == second
