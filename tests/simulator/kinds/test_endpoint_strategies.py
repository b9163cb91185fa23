"""Endpoints and EndpointSlices as kube-apiserver would refuse them."""

from typing import Any

import pytest

from kproxy.simulator.kinds import endpoint_strategies
from kproxy.simulator.store import registry, resources, statuses
from kproxy.simulator.store.storage import Object
from tests.simulator.objects import new_storage

GOOD = "127.244.1.2"


@pytest.fixture
def objects() -> registry.Registry:
    strategies: dict[resources.Resource, registry.Strategy] = {
        resources.ENDPOINTS: endpoint_strategies.for_endpoints(),
        resources.ENDPOINT_SLICES: endpoint_strategies.for_endpoint_slices(),
    }
    made = registry.Registry(new_storage(), strategies)
    made.create(resources.NAMESPACES, {"metadata": {"name": "default"}})
    return made


def endpoints(*ips: str, **port: Any) -> Object:
    addresses = [{"ip": ip} for ip in ips]
    subset = {"addresses": addresses, "ports": [{"port": 80, "protocol": "TCP", **port}]}
    return {"metadata": {"name": "web", "namespace": "default"}, "subsets": [subset]}


def sliced(*ips: str, **fields: Any) -> Object:
    return {
        "metadata": {"name": "web-1", "namespace": "default"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]} for ip in ips],
        "ports": [{"name": "", "port": 80}],
        **fields,
    }


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("10.0.0.999", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ],
)
def test_an_address_that_is_no_pods_is_refused(
    objects: registry.Registry, address: str, rule: str
) -> None:
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.ENDPOINTS, endpoints(GOOD, address))
    assert refused.value.code == 422
    assert refused.value.message == (
        'Endpoints "web" is invalid: subsets[0].addresses[1].ip: '
        f'Invalid value: "{address}": {rule}'
    )
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.ENDPOINT_SLICES, sliced(GOOD, address))
    assert refused.value.message == (
        'EndpointSlice.discovery.k8s.io "web-1" is invalid: endpoints[1].addresses[0]: '
        f'Invalid value: "{address}": {rule}'
    )


@pytest.mark.parametrize("address", [GOOD, "10.244.1.2", "2001:db8::1", "239.1.1.1"])
def test_others_are_stored_as_they_are(objects: registry.Registry, address: str) -> None:
    made = objects.create(resources.ENDPOINTS, endpoints(address))
    assert made["subsets"] == endpoints(address)["subsets"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({**endpoints(), "subsets": [{}]}, "must specify `addresses` or `notReadyAddresses`"),
        (endpoints(GOOD, port=0), "subsets[0].ports[0].port: Invalid value: 0: must be between"),
        (endpoints(GOOD, protocol="tcp"), 'Unsupported value: "tcp": supported values: "SCTP"'),
        (endpoints(GOOD, port="80"), "cannot be handled as a Endpoints: Expected `int"),
        (sliced(GOOD, addressType="IP"), 'addressType: Unsupported value: "IP"'),
        (sliced(GOOD, ports=[{"port": 70000}]), "is invalid: ports[0].port: Invalid value: 70000"),
        (sliced(endpoints=[{}]), "endpoints[0].addresses: Required value: must contain at least"),
    ],
)
def test_what_else_is_refused(objects: registry.Registry, wrong: Object, told: str) -> None:
    is_slice = "endpoints" in wrong
    with pytest.raises(statuses.StatusError) as refused:
        objects.create(resources.ENDPOINT_SLICES if is_slice else resources.ENDPOINTS, wrong)
    assert told in refused.value.message


def test_a_change_is_looked_at_too(objects: registry.Registry) -> None:
    stored = objects.create(resources.ENDPOINTS, endpoints(GOOD))
    with pytest.raises(statuses.StatusError, match="link-local"):
        objects.update(resources.ENDPOINTS, endpoints("169.254.1.1"))
    assert objects.get(resources.ENDPOINTS, "web", "default") == stored
