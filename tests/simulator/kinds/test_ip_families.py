"""Families of a Service's addresses in a cluster of one family and in a dual-stack one."""

import ipaddress
import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from kproxy.simulator.kinds import addressing, service_strategy
from kproxy.simulator.store import registry, resources, statuses, storage
from kproxy.simulator.store.storage import Object

IPV4 = ipaddress.ip_network("127.96.0.0/16")
IPV6 = ipaddress.ip_network("fd00:10:96::/112")


def made(*ranges: ipaddress.IPv4Network | ipaddress.IPv6Network) -> registry.Registry:
    serial = itertools.count()
    stored = storage.Storage(
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC), new_uid=lambda: f"uid-{next(serial)}"
    )
    rng = random.Random(1)
    allocators = [addressing.ClusterIPs(each, rng) for each in ranges]
    strategy = service_strategy.ServiceStrategy(stored, allocators, addressing.NodePorts(rng))
    objects = registry.Registry(stored, {resources.SERVICES: strategy})
    objects.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return objects


@pytest.fixture
def dual() -> registry.Registry:
    return made(IPV4, IPV6)


@pytest.fixture
def single() -> registry.Registry:
    return made(IPV4)


def create(objects: registry.Registry, name: str = "web", **spec: Any) -> Object:
    metadata = {"name": name, "namespace": "default"}
    new = {"metadata": metadata, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, **spec}}
    stored = objects.create(resources.SERVICES, new)
    spec_made: Object = stored["spec"]
    return spec_made


def patch(objects: registry.Registry, **spec: Any) -> Object:
    stored = objects.patch(resources.SERVICES, "default", "web", "merge", {"spec": spec})
    made_of_it: Object = stored["spec"]
    return made_of_it


def families(spec: Object) -> tuple[list[str], str, list[int]]:
    """Families, policy, and the IP versions of the addresses; these are in the cluster's ranges."""
    found = [ipaddress.ip_address(each) for each in spec["clusterIPs"]]
    assert all(each in IPV4 or each in IPV6 for each in found)
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    return spec["ipFamilies"], spec["ipFamilyPolicy"], [each.version for each in found]


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(statuses.StatusError) as refused:
        act()
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    return refused.value.message.removeprefix('Service "web" is invalid: ')


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, (["IPv4"], "SingleStack", [4])),
        ({"ipFamilies": ["IPv6"]}, (["IPv6"], "SingleStack", [6])),
        ({"ipFamilyPolicy": "PreferDualStack"}, (["IPv4", "IPv6"], "PreferDualStack", [4, 6])),
        ({"ipFamilyPolicy": "RequireDualStack"}, (["IPv4", "IPv6"], "RequireDualStack", [4, 6])),
        (
            {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]},
            (["IPv6", "IPv4"], "RequireDualStack", [6, 4]),
        ),
        (
            {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]},
            (["IPv6", "IPv4"], "PreferDualStack", [6, 4]),
        ),
        ({"clusterIP": "fd00:10:96::99"}, (["IPv6"], "SingleStack", [6])),
        (
            {
                "clusterIP": "127.96.3.3",
                "clusterIPs": ["127.96.3.3", "fd00:10:96::9"],
                "ipFamilyPolicy": "PreferDualStack",
            },
            (["IPv4", "IPv6"], "PreferDualStack", [4, 6]),
        ),
    ],
)
def test_a_dual_stack_cluster_gives_what_is_asked_for(
    dual: registry.Registry, spec: Object, expected: object
) -> None:
    assert families(create(dual, **spec)) == expected


def test_a_cluster_of_one_family_gives_what_it_has(single: registry.Registry) -> None:
    spec = create(single, ipFamilyPolicy="PreferDualStack")
    assert families(spec) == (["IPv4"], "PreferDualStack", [4])


def test_headless_ones_without_a_selector_are_of_both_families(single: registry.Registry) -> None:
    """Even in a cluster of one family: the author of the endpoints decides."""
    spec = create(single, clusterIP="None", selector=None)
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")
    assert spec["clusterIPs"] == ["None"]


def test_headless_ones_with_a_selector_follow_the_rule(dual: registry.Registry) -> None:
    spec = create(dual, clusterIP="None", ipFamilyPolicy="PreferDualStack")
    assert (spec["ipFamilies"], spec["clusterIPs"]) == (["IPv4", "IPv6"], ["None"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"ipFamilies": ["IPv4", "IPv6"]},
            (
                'spec.ipFamilyPolicy: Invalid value: "SingleStack": must be '
                "'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
            ),
        ),
        (
            {"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"},
            'spec.ipFamilies[1]: Duplicate value: "IPv4"',
        ),
        (
            {"ipFamilies": ["IPv5"]},
            'spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"',
        ),
        (
            {"ipFamilyPolicy": "Both"},
            (
                'spec.ipFamilyPolicy: Unsupported value: "Both": supported values: '
                '"PreferDualStack", "RequireDualStack", "SingleStack"'
            ),
        ),
        (
            {"clusterIP": "127.96.3.3", "ipFamilies": ["IPv6"]},
            (
                'spec.clusterIPs[0]: Invalid value: "127.96.3.3": expected an IPv6 value as '
                "indicated by `ipFamilies[0]`"
            ),
        ),
        (
            {
                "clusterIP": "127.96.3.3",
                "clusterIPs": ["127.96.3.3", "127.96.3.4"],
                "ipFamilyPolicy": "PreferDualStack",
            },
            (
                'spec.clusterIPs: Invalid value: ["127.96.3.3","127.96.3.4"]: may specify no more '
                "than one IP for each IP family"
            ),
        ),
        (
            {"clusterIP": "fd00:10:97::1"},
            (
                'spec.clusterIPs: Invalid value: ["fd00:10:97::1"]: failed to allocate IP '
                "fd00:10:97::1: the provided IP (fd00:10:97::1) is not in the valid range. The "
                "range of valid IPs is fd00:10:96::/112"
            ),
        ),
    ],
)
def test_what_a_dual_stack_cluster_refuses(
    dual: registry.Registry, spec: Object, message: str
) -> None:
    assert refusal(lambda: create(dual, **spec)) == message
    assert dual.list(resources.SERVICES) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"ipFamilyPolicy": "RequireDualStack"},
            (
                'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not '
                "configured for dual-stack services"
            ),
        ),
        (
            {"ipFamilies": ["IPv6"]},
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
        ),
        (
            {"clusterIP": "fd00:10:96::9"},
            (
                'spec.clusterIPs[0]: Invalid value: ["fd00:10:96::9"]: IPv6 is not configured on '
                "this cluster"
            ),
        ),
    ],
)
def test_what_a_cluster_of_one_family_refuses(
    single: registry.Registry, spec: Object, message: str
) -> None:
    assert refusal(lambda: create(single, **spec)) == message


def test_a_service_becomes_dual_stack_and_single_again(dual: registry.Registry) -> None:
    first = create(dual)["clusterIP"]
    both = patch(dual, ipFamilyPolicy="RequireDualStack")
    assert families(both) == (["IPv4", "IPv6"], "RequireDualStack", [4, 6])
    assert both["clusterIP"] == first
    assert patch(dual, sessionAffinity="ClientIP")["clusterIPs"] == both["clusterIPs"]
    again = patch(dual, ipFamilyPolicy="SingleStack")
    assert families(again) == (["IPv4"], "SingleStack", [4])
    assert again["clusterIP"] == first
    other = create(dual, "other", clusterIP=both["clusterIPs"][1])
    assert other["clusterIPs"] == [both["clusterIPs"][1]]


def test_the_second_address_is_given_up_by_the_policy_alone(dual: registry.Registry) -> None:
    both = create(dual, ipFamilyPolicy="RequireDualStack")
    message = refusal(lambda: patch(dual, clusterIPs=both["clusterIPs"][:1]))
    assert message == (
        "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to "
        "release the secondary cluster IP"
    )
    message = refusal(lambda: patch(dual, ipFamilies=["IPv4"]))
    assert message.endswith("must be 'SingleStack' to release the secondary IP family")


def test_the_first_family_may_not_change(dual: registry.Registry) -> None:
    create(dual, ipFamilyPolicy="RequireDualStack")
    message = refusal(lambda: patch(dual, ipFamilies=["IPv6", "IPv4"]))
    assert "expected an IPv6 value as indicated by `ipFamilies[0]`" in message


def test_an_external_name_has_no_families(dual: registry.Registry) -> None:
    create(dual, ipFamilyPolicy="RequireDualStack")
    spec = patch(dual, type="ExternalName", externalName="db.example.org")
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & spec.keys()
    back = patch(dual, type="ClusterIP", externalName=None)
    assert families(back) == (["IPv4"], "SingleStack", [4])
