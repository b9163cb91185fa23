"""ServiceCIDRs, as seen through `admission.admit`."""

import ipaddress
from typing import Any

import pytest

from kproxy.model import admission
from kproxy.model.kinds import registry, service_cidr_kind

KINDS = (*registry.KINDS, service_cidr_kind.KIND)


def admitted(cidrs: object, version: str = "v1", **metadata: Any) -> admission.Admission:
    raw = {
        "apiVersion": f"networking.k8s.io/{version}",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", **metadata},
        "spec": {"cidrs": cidrs},
    }
    (judged,) = admission.admit(raw, kinds=KINDS)
    return judged


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize(
    "cidrs",
    [["10.96.0.0/16"], ["10.96.0.0/16", "fd00:10:96::/112"], ["fd00:10:96::/112", "10.96.0.0/16"]],
)
def test_its_networks_are_read(version: str, cidrs: list[str]) -> None:
    made = admitted(cidrs, version).accepted
    assert isinstance(made, service_cidr_kind.ServiceCidr)
    assert made.networks == tuple(map(ipaddress.ip_network, cidrs))


def test_one_that_is_being_deleted_counts_until_it_is_gone() -> None:
    assert admitted(["10.96.0.0/16"], deletionTimestamp="2026-11-28T06:00:00Z").accepted


@pytest.mark.parametrize(
    "cidrs",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="none"),
        pytest.param(["10.96.0.0/16", "10.97.0.0/16"], id="two of a family"),
        pytest.param(["10.96.0.0/16", "fd00:10:96::/112", "10.97.0.0/16"], id="three"),
        pytest.param(["10.96.0.1/16"], id="host bits"),
        pytest.param(["10.96.0.0/33"], id="too long"),
        pytest.param(["ten"], id="no address"),
    ],
)
def test_bad_networks_are_named(cidrs: object) -> None:
    judged = admitted(cidrs)
    assert judged.accepted is None
    assert judged.finding is not None
    assert "spec.cidrs" in str(judged.finding)
