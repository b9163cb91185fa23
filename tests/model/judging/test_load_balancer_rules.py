"""loadBalancerSourceRanges and healthCheckNodePort, as seen through `admission.admit`."""

from typing import Any

import pytest

from kproxy.model import admission
from kproxy.model.judging import load_balancer_rules
from kproxy.model.kinds import services


def admit(**spec: Any) -> admission.Admission:
    whole = {"clusterIP": "10.0.0.1", "ports": [{"port": 80}], "type": "LoadBalancer", **spec}
    (admitted,) = admission.admit(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": whole}
    )
    return admitted


def accepted(**spec: Any) -> services.Service:
    admitted = admit(**spec)
    assert isinstance(admitted.accepted, services.Service), admitted.finding
    return admitted.accepted


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        pytest.param(None, (), id="null"),
        pytest.param([], (), id="empty"),
        pytest.param(["10.0.0.0/8", "fd00::/8"], ("10.0.0.0/8", "fd00::/8"), id="both families"),
        pytest.param([" 10.0.0.0/8\t"], ("10.0.0.0/8",), id="padded"),
        pytest.param(["192.0.2.7/24"], ("192.0.2.0/24",), id="host bits"),
        pytest.param(["010.000.0.0/8", "10.0.0.0/8"], ("10.0.0.0/8",), id="leading zeros, doubles"),
        pytest.param(["FD00:0::0/8"], ("fd00::/8",), id="another spelling"),
        pytest.param(["0.0.0.0/0"], ("0.0.0.0/0",), id="every network"),
    ],
)
def test_row_17_ranges_are_read_as_an_api_server_reads_them(
    given: list[str] | None, networks: tuple[str, ...]
) -> None:
    assert accepted(loadBalancerSourceRanges=given).source_ranges == networks


@pytest.mark.parametrize(
    "text",
    [
        *("", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "10.0.0.0/ 8", "10.0.0.0/٨"),
        *("fd00::/129", "fe80::%eth0/64", "::ffff:10.0.0.0/104", "example.com/8", "1" * 99 + "/8"),
        *("10..0.0/8", "/8", "10.0.0.0/8,10.1.0.0/16"),
    ],
)
def test_row_17_what_is_no_range_makes_the_service_invalid(text: str) -> None:
    admitted = admit(loadBalancerSourceRanges=["10.0.0.0/8", text])
    assert admitted.accepted is None
    assert admitted.finding is not None
    assert admitted.finding.text.startswith("spec.loadBalancerSourceRanges[1] is ")


def test_row_17_ranges_are_for_load_balancers() -> None:
    admitted = admit(type="NodePort", loadBalancerSourceRanges=["10.0.0.0/8"])
    assert admitted.finding is not None
    assert "must be absent unless the type is LoadBalancer" in admitted.finding.text


def test_of_too_many_ranges_one_more_is_kept_than_can_be_enforced() -> None:
    most = load_balancer_rules.MOST_SOURCE_RANGES
    many = [f"10.{n // 250}.{n % 250}.0/24" for n in range(2 * most)]
    assert len(accepted(loadBalancerSourceRanges=many).source_ranges) == most + 1
    assert len(accepted(loadBalancerSourceRanges=many[:most]).source_ranges) == most


@pytest.mark.parametrize(("given", "port"), [(None, 0), (0, 0), (30999, 30999)])
def test_row_30_the_health_check_node_port_is_read(given: int | None, port: int) -> None:
    made = accepted(externalTrafficPolicy="Local", healthCheckNodePort=given)
    assert made.health_check_node_port == port


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        pytest.param({}, "must be absent unless", id="policy Cluster"),
        pytest.param({"type": "NodePort"}, "must be absent unless", id="no load balancer"),
        pytest.param(
            {"externalTrafficPolicy": "Local", "healthCheckNodePort": 65536},
            "must be from 0 to 65535",
            id="no port",
        ),
        pytest.param(
            {"externalTrafficPolicy": "Local", "healthCheckNodePort": -1},
            "must be from 0 to 65535",
            id="negative",
        ),
    ],
)
def test_row_30_a_health_check_node_port_that_an_api_server_refuses(
    spec: dict[str, Any], rule: str
) -> None:
    admitted = admit(**{"healthCheckNodePort": 30999, **spec})
    assert admitted.finding is not None
    assert "spec.healthCheckNodePort" in admitted.finding.text
    assert rule in admitted.finding.text
