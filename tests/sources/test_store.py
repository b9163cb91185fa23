"""The Store: which object is current, which endpoints a port has, and what is dirty.

Cases: C14, S09 of docs/faults.md.

Behaviour: row 36 of docs/behaviour.md.
"""

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model import addresses, admission, names
from kproxy.model.kinds import (
    endpoint_slice_kind,
    endpoints,
    endpoints_kind,
    registry,
    service_kind,
    services,
)
from kproxy.sources import store

TCP = names.Protocol.TCP
WEB = names.NamespacedName("default", "web")
DB = names.NamespacedName("default", "db")
WEB_PORT = names.ServicePortName(WEB, "http")
NOTHING: frozenset[names.NamespacedName] = frozenset()


def service(name: names.NamespacedName = WEB, ip: str = "10.0.0.1") -> services.Service:
    ports = (services.ServicePort("http", TCP, 80),)
    return services.Service(name, services.ServiceType.CLUSTER_IP, ip, ports)


def at(ip: str, *, ready: bool = True) -> endpoints.Endpoint:
    return endpoints.Endpoint(addresses.SocketAddress(ip, 8080), ready=ready)


def sliced(name: str, *ips: str, of: names.NamespacedName = WEB) -> endpoints.EndpointsObject:
    key = names.NamespacedName(of.namespace, name)
    port = endpoints.EndpointPort("http", TCP, endpoints.merged(map(at, ips)))
    return endpoints.EndpointsObject(key, of, endpoint_slice_kind.KIND.name, (port,))


def single(*ips: str) -> endpoints.EndpointsObject:
    port = endpoints.EndpointPort("http", TCP, endpoints.merged(map(at, ips)))
    return endpoints.EndpointsObject(WEB, WEB, endpoints_kind.KIND.name, (port,))


def test_a_service_is_dirty_when_it_comes_changes_and_goes_and_not_otherwise() -> None:
    kept = store.Store()
    assert kept.apply(service()) == {WEB}
    assert kept.apply(service()) == NOTHING
    assert kept.apply(service(ip="10.0.0.2")) == {WEB}
    assert kept.service(WEB) == service(ip="10.0.0.2")
    assert kept.service_names() == {WEB}
    assert kept.delete(service_kind.KIND.name, WEB) == {WEB}
    assert kept.delete(service_kind.KIND.name, WEB) == NOTHING
    assert kept.service(WEB) is None


def test_slices_of_a_service_add_up_without_duplicates() -> None:
    kept = store.Store()
    kept.apply(sliced("web-1", "10.1.0.2", "10.1.0.1"))
    kept.apply(sliced("web-2", "10.1.0.3", "10.1.0.1"))
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.1"), at("10.1.0.2"), at("10.1.0.3"))


def test_an_endpoint_that_moves_between_slices_is_never_lost() -> None:
    kept = store.Store()
    kept.apply(sliced("web-1", "10.1.0.1"))
    kept.apply(sliced("web-2", "10.1.0.1"))
    kept.apply(sliced("web-1"))
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.1"),)


def test_ports_are_joined_by_name_and_protocol() -> None:
    kept = store.Store()
    kept.apply(single("10.1.0.1"))
    assert kept.endpoints(names.ServicePortName(WEB, "http", names.Protocol.UDP)) == ()
    assert kept.endpoints(names.ServicePortName(WEB, "https")) == ()
    assert kept.endpoints(names.ServicePortName(DB, "http")) == ()


def test_an_endpoints_object_counts_only_while_no_slice_names_its_service() -> None:
    kept = store.Store()
    assert kept.apply(single("10.1.0.1")) == {WEB}
    assert kept.apply(sliced("web-1", "10.1.0.2")) == {WEB}
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.2"),)
    assert kept.apply(single("10.1.0.3")) == NOTHING
    slice_name = names.NamespacedName("default", "web-1")
    assert kept.delete(endpoint_slice_kind.KIND.name, slice_name) == {WEB}
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.3"),)
    assert kept.delete(endpoints_kind.KIND.name, WEB) == {WEB}
    assert kept.endpoints(WEB_PORT) == ()


def test_a_slice_that_changes_hands_concerns_both_services() -> None:
    kept = store.Store()
    kept.apply(sliced("s", "10.1.0.1"))
    assert kept.apply(sliced("s", "10.1.0.1", of=DB)) == {WEB, DB}
    assert kept.endpoints(WEB_PORT) == ()
    assert kept.endpoints(names.ServicePortName(DB, "http")) == (at("10.1.0.1"),)


def test_slices_of_one_name_in_two_namespaces_are_two() -> None:
    other = names.NamespacedName("other", "web")
    kept = store.Store()
    kept.apply(sliced("s", "10.1.0.1"))
    kept.apply(sliced("s", "10.1.0.2", of=other))
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.1"),)


@pytest.mark.parametrize("label", ["web", "default/web", "web.default"])
def test_s09_a_slice_never_joins_a_service_of_another_namespace(label: str) -> None:
    kept = store.Store()
    kept.apply(service(WEB))
    document = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "web-1",
            "namespace": "other",
            "labels": {"kubernetes.io/service-name": label},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.6.6.6"]}],
        "ports": [{"name": "http", "port": 8080}],
    }
    for admitted in admission.admit(document):
        if admitted.accepted is not None:
            assert WEB not in kept.apply(admitted.accepted)
    assert kept.endpoints(WEB_PORT) == ()


def test_replacing_a_kind_dirties_what_differs_and_leaves_other_kinds_alone() -> None:
    kept = store.Store()
    kept.apply(service(WEB))
    kept.apply(service(DB))
    kept.apply(single("10.1.0.1"))
    new = names.NamespacedName("default", "new")
    fresh = {WEB: service(WEB), new: service(new)}
    assert kept.replace(service_kind.KIND.name, fresh) == {DB, new}
    assert kept.service_names() == {WEB, new}
    assert kept.endpoints(WEB_PORT) == (at("10.1.0.1"),)
    assert kept.replace(endpoints_kind.KIND.name, {}) == {WEB}
    assert kept.replace(endpoint_slice_kind.KIND.name, {}) == NOTHING


some_objects: st.SearchStrategy[admission.Accepted] = st.one_of(
    st.builds(service, st.sampled_from([WEB, DB]), st.sampled_from(["10.0.0.1", "10.0.0.2"])),
    st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2"])).map(lambda ips: single(*ips)),
    st.builds(
        lambda name, ips, of: sliced(name, *ips, of=of),
        st.sampled_from(["s1", "s2"]),
        st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2"])),
        st.sampled_from([WEB, DB]),
    ),
)
steps = st.lists(
    st.one_of(
        some_objects,
        st.tuples(
            st.sampled_from([each.name for each in registry.KINDS]),
            st.sampled_from(
                [WEB, DB, *(names.NamespacedName("default", name) for name in ("s1", "s2"))]
            ),
        ),
    )
)


def visible(kept: store.Store, name: names.NamespacedName) -> object:
    return kept.service(name), kept.endpoints(names.ServicePortName(name, "http"))


@given(steps)
def test_any_history_ends_like_a_fresh_start_and_what_is_not_dirty_looks_the_same(
    history: list[admission.Accepted | tuple[str, names.NamespacedName]],
) -> None:
    kept = store.Store()
    last: dict[tuple[str, names.NamespacedName], admission.Accepted] = {}
    for step in history:
        before = {name: visible(kept, name) for name in (WEB, DB)}
        if isinstance(step, tuple):
            dirty = kept.delete(*step)
            last.pop(step, None)
        else:
            dirty = kept.apply(step)
            kind = step.kind
            last[kind, step.name] = step
        for name, seen in before.items():
            assert name in dirty or visible(kept, name) == seen
    fresh = store.Store()
    for accepted in reversed(last.values()):
        fresh.apply(accepted)
    assert all(visible(kept, name) == visible(fresh, name) for name in (WEB, DB))
    assert kept.service_names() == fresh.service_names()


@pytest.mark.parametrize("kind", [each.name for each in registry.KINDS])
def test_deleting_what_is_unknown_dirties_nothing(kind: str) -> None:
    assert store.Store().delete(kind, WEB) == NOTHING


def test_every_subscriber_is_called_until_it_cancels() -> None:
    kept = store.Store()
    first: list[store.Dirty] = []
    second: list[store.Dirty] = []
    ended = kept.subscribe(first.append)
    kept.subscribe(second.append)
    kept.announce(frozenset({WEB}))
    ended.cancel()
    ended.cancel()
    kept.announce(frozenset({DB}))
    assert first == [{WEB}]
    assert second == [{WEB}, {DB}]


def test_a_subscriber_that_cancels_another_one_from_its_call_is_obeyed_at_once() -> None:
    kept = store.Store()
    heard: list[store.Dirty] = []
    kept.subscribe(lambda _: later.cancel())
    later = kept.subscribe(heard.append)
    kept.announce(frozenset({WEB}))
    assert heard == []


def test_a_subscriber_that_raises_harms_no_other_and_gets_the_changes_again() -> None:
    kept = store.Store()
    bad: list[store.Dirty] = []
    good: list[store.Dirty] = []

    def fails_once(dirty: store.Dirty) -> None:
        bad.append(dirty)
        if len(bad) == 1:
            raise ZeroDivisionError

    kept.subscribe(fails_once)
    kept.subscribe(good.append)
    with structlog.testing.capture_logs() as logs:
        kept.announce(frozenset({WEB}))
    kept.announce(frozenset({DB}))
    kept.announce(frozenset())
    assert good == [{WEB}, {DB}, NOTHING]
    assert bad == [{WEB}, {WEB, DB}, NOTHING]
    assert [each["log_level"] for each in logs] == ["error"]


def test_objects_are_found_by_the_service_that_they_concern() -> None:
    kept = store.Store()
    kept.apply(sliced("web", "10.1.0.1"))
    kept.apply(sliced("other", "10.1.0.2"))
    kept.apply(sliced("db", "10.1.0.3"))
    found = kept.of_service(endpoint_slice_kind.KIND, WEB)
    assert {each.name.name for each in found} == {"web", "other", "db"}
    assert kept.of_service(endpoint_slice_kind.KIND, DB) == ()
    assert kept.all(endpoint_slice_kind.KIND).keys() == {each.name for each in found}


def test_objects_may_go_while_those_of_a_service_are_looked_at() -> None:
    kept = store.Store()
    kept.apply(sliced("web", "10.1.0.1"))
    kept.apply(sliced("other", "10.1.0.2"))
    looking = kept.each_of_service(endpoint_slice_kind.KIND, WEB)
    first = next(looking)
    for name in ("web", "other"):
        kept.delete(endpoint_slice_kind.NAME, WEB._replace(name=name))
    kept.apply(sliced("late", "10.1.0.3"))
    assert first.name.name in {"web", "other"}
    assert list(looking) == []
