"""Rows 30 and 31 of docs/behaviour.md: frontends of healthCheckNodePort, and what they count."""

from dataclasses import replace
from typing import Any

import pytest

from kproxy.model import addresses, forwarding, names
from kproxy.model.kinds import endpoints, services
from kproxy.portal import portal
from tests.reconcile import builders
from tests.reconcile.test_proxier import Playbook

IPV4, IPV6 = addresses.Family
HEALTH_CHECK = forwarding.FrontendKind.HEALTH_CHECK
STATES = forwarding.FrontendState
WEB = builders.port_of("web")


def load_balanced(**fields: Any) -> services.Service:
    """A Service with a health check; `port` is its port."""
    port = fields.pop("port", 30999)
    return builders.service(
        type=services.ServiceType.LOAD_BALANCER,
        external_policy=services.TrafficPolicy.LOCAL,
        health_check_node_port=port,
        **fields,
    )


def here(text: str, **conditions: Any) -> endpoints.Endpoint:
    return builders.endpoint(text, node="n1", **conditions)


def there(text: str) -> endpoints.Endpoint:
    return builders.endpoint(text, node="n2")


def told(book: Playbook) -> list[tuple[tuple[addresses.Family, int], ...]]:
    """The counts that were sent since the last sync."""
    return [each.counts for each in book.sync() if isinstance(each, forwarding.SetLocalEndpoints)]


def asked_at(book: Playbook) -> list[str]:
    """Where health is asked."""
    return sorted(
        str(each.address) for each in book.plane.open.values() if each.frontend.kind is HEALTH_CHECK
    )


@pytest.mark.parametrize(
    ("found", "count"),
    [
        pytest.param([], 0, id="none"),
        pytest.param([there("10.1.0.1")], 0, id="elsewhere"),
        pytest.param([here("10.1.0.1"), there("10.1.0.2")], 1, id="here"),
        pytest.param([here("10.1.0.1"), here("10.1.0.2")], 2, id="two"),
        pytest.param([here("10.1.0.1:80"), here("10.1.0.1:81")], 1, id="one address, two ports"),
        pytest.param(
            [
                here("10.1.0.1", ready=False),
                here("10.1.0.2", ready=False, serving=True, terminating=True),
            ],
            0,
            id="not ready, and draining",
        ),
    ],
)
def test_row_30_addresses_of_ready_endpoints_on_this_node_are_counted(
    found: list[endpoints.Endpoint], count: int
) -> None:
    book = Playbook(node="n1")
    book.put(load_balanced(), builders.sliced("web", found))
    assert told(book) == [((IPV4, count), (IPV6, 0))]
    assert asked_at(book) == ["127.0.0.1:30999"]


def test_row_30_an_address_counts_once_over_all_ports_of_the_service() -> None:
    book = Playbook(node="n1")
    both = load_balanced(ports={"http": 80, "admin": 90})
    found = [here("10.1.0.1"), here("10.1.0.2")]
    book.put(both, builders.sliced("web", found, ports=("http", "admin")))
    assert told(book) == [((IPV4, 2), (IPV6, 0))]
    book.put(builders.sliced("web", found[:1], ports=("http",)))
    assert told(book) == [((IPV4, 1), (IPV6, 0))]


def test_row_30_a_node_without_a_name_has_no_endpoints() -> None:
    book = Playbook(node="")
    book.put(load_balanced(), builders.sliced("web", [builders.endpoint("10.1.0.1", node="")]))
    assert told(book) == [((IPV4, 0), (IPV6, 0))]


def test_row_30_a_change_of_endpoints_changes_the_count_alone() -> None:
    book = Playbook(node="n1")
    book.settle(load_balanced(), builders.sliced("web", [here("10.1.0.1")]))
    book.put(builders.sliced("web", [here("10.1.0.1"), here("10.1.0.2")]))
    kinds = [type(each) for each in book.sync()]
    assert kinds == [forwarding.SetBackends, forwarding.SetLocalEndpoints]


def test_row_31_the_port_changes_goes_and_comes_back() -> None:
    book = Playbook(node="n1")
    book.settle(load_balanced(), builders.sliced("web", [here("10.1.0.1")]))
    for port, expected in ((31000, ["127.0.0.1:31000"]), (0, []), (30999, ["127.0.0.1:30999"])):
        book.put(load_balanced(port=port))
        book.sync()
        assert asked_at(book) == expected


def test_row_31_a_port_that_is_taken_is_retried() -> None:
    book = Playbook(node="n1")
    at = forwarding.PortalAddress("127.0.0.1", 30999)
    book.plane.busy.add(at)
    book.put(load_balanced(), builders.sliced("web", [here("10.1.0.1")]))
    book.sync()
    assert book.states("web")[-1] == (STATES.UNAVAILABLE, "Address already in use")
    book.plane.busy.clear()
    book.retry()
    assert asked_at(book) == [str(at)]
    assert book.states("web")[-1] == (STATES.BOUND, "")


def test_row_31_it_follows_the_addresses_of_the_node() -> None:
    book = Playbook(node="n1")
    book.settle(load_balanced(), builders.sliced("web", [here("10.1.0.1")]))
    book.portal.node = portal.Node(("127.0.0.2",))
    book.retry()
    assert asked_at(book) == ["127.0.0.2:30999"]


def test_it_is_claimed_as_a_node_port_is_by_the_older_service() -> None:
    nodeport = services.ServicePort("http", names.Protocol.TCP, 80, 30999)
    other = builders.service(
        "other", "10.0.9.2", (nodeport,), type=services.ServiceType.NODE_PORT, created="2"
    )
    book = Playbook(node="n1")
    book.put(replace(load_balanced(), created="1"), builders.sliced("web", [here("10.1.0.1")]))
    book.put(other, builders.sliced("other"))
    book.sync()
    assert asked_at(book) == ["127.0.0.1:30999"]
    assert book.states("other")[1][0] is STATES.COLLISION
    book.put(replace(load_balanced(), created="3"))
    book.sync()
    assert asked_at(book) == []
    assert book.states("web")[-1][0] is STATES.COLLISION


def test_it_counts_as_a_listener_and_is_there_without_endpoints() -> None:
    book = Playbook(node="n1")
    book.put(load_balanced(), builders.sliced("web", []))
    book.sync()
    assert book.proxier.listening == 1
    assert [state for state, _ in book.states("web")] == [STATES.NO_ENDPOINTS, STATES.BOUND]
