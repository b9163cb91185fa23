"""Endpoints without a Service: said, with the Service that may be meant."""

from kproxy.model import admission, names
from kproxy.model.kinds import endpoint_slice_kind, endpoints, endpoints_kind, services
from kproxy.sources.files import ownerless

PLACES = {
    (endpoints_kind.KIND.name, names.NamespacedName("default", "web")): "a.yaml:9, document 2",
}


def pause() -> None:
    """Nothing else waits here."""


def service(namespace: str, name: str) -> services.Service:
    kind = services.ServiceType.CLUSTER_IP
    return services.Service(names.NamespacedName(namespace, name), kind, "10.0.0.1", ())


def given_for(
    namespace: str, name: str, kind: str = endpoints_kind.KIND.name
) -> endpoints.EndpointsObject:
    own = name if kind == endpoints_kind.KIND.name else f"{name}-1"
    return endpoints.EndpointsObject(
        names.NamespacedName(namespace, own), names.NamespacedName(namespace, name), kind
    )


def told(
    *objects: admission.Accepted, most: int = 10, quiet: frozenset[str] = frozenset()
) -> list[str]:
    tables: dict[str, dict[names.NamespacedName, admission.Accepted]] = {}
    for each in objects:
        tables.setdefault(each.kind, {})[each.name] = each
    return [str(problem) for problem in ownerless.notes(tables, PLACES, quiet, most, pause)]


def test_endpoints_of_a_service_that_is_there_are_no_news() -> None:
    assert told(service("default", "web"), given_for("default", "web")) == []


def test_endpoints_without_a_service_are_said_with_their_place() -> None:
    (note,) = told(service("default", "db"), given_for("default", "web"))
    assert note.startswith("a.yaml:9, document 2: Endpoints default/web: no file has the Service")


def test_a_document_about_which_worse_is_known_is_not_named_twice() -> None:
    assert told(given_for("default", "web"), quiet=frozenset(PLACES.values())) == []


def test_a_service_in_another_namespace_or_case_is_named() -> None:
    (namespace,) = told(service("prod", "web"), given_for("default", "web"))
    assert namespace.endswith("; is Service prod/web meant?")
    (case,) = told(
        service("default", "web"), given_for("default", "Web", endpoint_slice_kind.KIND.name)
    )
    assert "EndpointSlice default/Web-1: no file has the Service default/Web" in case
    assert case.endswith("; is Service default/web meant?")


def test_many_are_counted() -> None:
    many = [given_for("default", f"web-{number}") for number in range(12)]
    *_, last = lines = told(*many)
    assert len(lines) == 11
    assert "2 more objects" in last
