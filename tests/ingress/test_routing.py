"""Routing rules: hosts, precedence, conflicts, classes, backends, default backends."""

from typing import Any

import pytest

from kproxy.ingress import routing, table
from kproxy.ingress.rules import matching
from kproxy.model import admission, steps
from tests.ingress.rig import objects
from tests.ingress.rig.objects import ingress, ingress_class, made, said, service


def chosen(found: table.Table, host: str, path: str = "/") -> str:
    """The Service port that a request goes to; "404", or "503" where there is none."""
    route = matching.route(found, host, path)
    if route is None:
        return "404"
    if route.target is None or route.policy.is_refused:
        return "503"
    return str(route.target)


class TestHosts:
    FOUND = made(
        ingress("exact", "Prefix /", host="a.shop.example"),
        ingress("wild", "Prefix /", host="*.shop.example"),
        ingress("all", "Prefix /all"),
    )

    @pytest.mark.parametrize(
        ("host", "target"),
        [
            ("a.shop.example", "default/exact"),
            ("A.Shop.Example", "default/exact"),
            ("a.shop.example:8080", "default/exact"),
            ("a.shop.example.", "default/exact"),
            ("b.shop.example", "default/wild"),
            ("b.a.shop.example", "404"),
            ("shop.example", "404"),
            ("other.example", "404"),
            ("", "404"),
            ("10.0.0.1", "404"),
        ],
    )
    def test_a_wildcard_stands_for_one_label(self, host: str, target: str) -> None:
        assert chosen(self.FOUND, host) == target

    def test_a_rule_without_a_host_is_for_the_hosts_that_no_other_names(self) -> None:
        assert chosen(self.FOUND, "other.example", "/all") == "default/all"
        assert chosen(self.FOUND, "a.shop.example", "/all") == "default/exact"

    def test_two_ingresses_share_a_host(self) -> None:
        found = made(
            ingress("a", "Prefix /a", host="shop.example"),
            ingress("b", "Prefix /b", host="shop.example", namespace="other"),
        )
        assert chosen(found, "shop.example", "/a") == "default/a"
        assert chosen(found, "shop.example", "/b/c") == "other/b"
        assert not found.problems


class TestPrecedence:
    def test_the_longest_prefix_wins_and_a_whole_path_beats_it(self) -> None:
        found = made(
            ingress(
                "web",
                "Prefix / -> root",
                "Prefix /a -> a",
                "Prefix /a/b -> ab",
                "Exact /a/b -> exact",
                host="h.example",
            )
        )
        asked = {
            "/": "root",
            "/ab": "root",
            "/a": "a",
            "/a/c": "a",
            "/a/b/c": "ab",
            "/a/b": "exact",
        }
        assert {path: chosen(found, "h.example", path) for path in asked} == {
            path: f"default/{name}" for path, name in asked.items()
        }

    def test_implementation_specific_is_a_prefix_of_letters(self) -> None:
        found = made(ingress("web", "ImplementationSpecific /foo", "Prefix /foo -> p", host="h"))
        assert chosen(found, "h", "/foobar") == "default/web"
        assert chosen(found, "h", "/foo") == "default/p"
        assert chosen(found, "h", "/foo/bar") == "default/p"
        assert not found.problems

    def test_paths_are_compared_decoded(self) -> None:
        found = made(ingress("web", "Exact /a%20b", host="h"))
        assert chosen(found, "h", "/a%20b") == "default/web"
        assert chosen(found, "h", "/%61%20b") == "default/web"

    def test_paths_are_compared_with_case(self) -> None:
        found = made(ingress("web", "Prefix /Foo", host="h"))
        assert chosen(found, "h", "/foo") == "404"


REGEX = {"nginx.ingress.kubernetes.io/use-regex": "true"}


class TestPatterns:
    def test_an_expression_begins_at_the_beginning_and_has_no_case(self) -> None:
        found = made(
            ingress("web", "ImplementationSpecific /a[0-9]+$", host="h", annotations=REGEX)
        )
        asked = {"/a1": True, "/A1": True, "/a": False, "/b/a1": False, "/a1/b": False}
        assert {path: chosen(found, "h", path) == "default/web" for path in asked} == asked

    def test_without_the_annotation_it_is_a_path_of_odd_characters(self) -> None:
        found = made(ingress("web", "ImplementationSpecific /a[0-9]+$", host="h"))
        assert chosen(found, "h", "/a1") == "404"
        assert chosen(found, "h", "/a[0-9]+$") == "default/web"

    def test_an_expression_takes_nothing_from_a_longer_path_of_another_ingress(self) -> None:
        found = made(
            ingress("greedy", "ImplementationSpecific /.*", host="h", annotations=REGEX),
            ingress("other", "Prefix /api", "Exact /x", host="h", namespace="other"),
        )
        assert chosen(found, "h", "/api/v1") == "other/other"
        assert chosen(found, "h", "/x") == "other/other"
        assert chosen(found, "h", "/y") == "default/greedy"

    def test_an_expression_inside_of_a_prefix_beats_it(self) -> None:
        found = made(
            ingress("re", "ImplementationSpecific /api/v[0-9]+/", host="h", annotations=REGEX),
            ingress("plain", "Prefix /api", host="h"),
        )
        assert chosen(found, "h", "/api/v1/x") == "default/re"
        assert chosen(found, "h", "/api/w1/x") == "default/plain"

    def test_a_bad_expression_is_said_and_its_neighbours_are_served(self) -> None:
        found = made(ingress("re", "Prefix /a(b", "Prefix /ok -> re", host="h", annotations=REGEX))
        assert said(found) == {"re": ["InvalidPath"]}
        assert 'path "/a(b" is not served: it has a ( without a )' in str(found.problems[0])
        assert chosen(found, "h", "/ok") == "default/re"

    def test_expressions_of_an_ingress_are_bounded(self) -> None:
        paths = [f"Prefix /{number}/(.*)" for number in range(routing.MOST_PATTERNS + 9)]
        found = made(ingress("re", *paths, "Prefix /ok", host="h", annotations=REGEX))
        assert said(found) == {"re": ["TooManyPatterns"]}
        assert chosen(found, "h", "/99/x") == "default/re"
        assert chosen(found, "h", "/100/x") == "404"
        assert chosen(found, "h", "/ok") == "default/re"


class TestConflicts:
    def test_the_older_ingress_keeps_a_path(self) -> None:
        found = made(
            ingress("a", "Prefix /x", host="h", created="2026-01-02T00:00:00Z"),
            ingress("b", "Prefix /x/", "Prefix /y", host="h", created="2026-01-01T00:00:00Z"),
        )
        assert chosen(found, "h", "/x") == "default/b"
        assert chosen(found, "h", "/y") == "default/b"
        assert said(found) == {"a": ["Conflict"]}
        assert str(found.problems[0]) == (
            'Ingress default/a: path "/x" of host h is that of Ingress default/b, which is older'
        )

    def test_of_two_of_one_age_the_first_by_name_does(self) -> None:
        found = made(
            ingress("b", "Exact /x", host="h", namespace="a"),
            ingress("a", "Exact /x", host="h", namespace="b"),
        )
        assert chosen(found, "h", "/x") == "a/b"

    def test_a_path_that_stands_twice_counts_once(self) -> None:
        found = made(ingress("a", "Exact /x", "Exact /x -> b", host="h"))
        assert chosen(found, "h", "/x") == "default/a"
        assert said(found) == {"a": ["Conflict"]}

    def test_exact_and_prefix_are_no_conflict(self) -> None:
        assert not made(ingress("a", "Exact /x", "Prefix /x -> b", host="h")).problems

    def test_problems_of_one_ingress_are_counted_beyond_some(self) -> None:
        paths = [f"Exact /{number} -> none{number}" for number in range(100)]
        found = objects.table_of(objects.world(ingress("a", *paths, host="h")))
        assert [each.reason for each in found.problems] == ["MoreProblems"] + [
            "ServiceNotFound"
        ] * 5
        assert "95 more problems" in str(found.problems[0])


class TestClasses:
    OTHER = ingress_class("nginx", "k8s.io/ingress-nginx")
    OURS = ingress_class("kproxy")

    @pytest.mark.parametrize(
        ("classes", "named", "named_by_annotation", "is_served"),
        [
            pytest.param([], None, None, True, id="no class anywhere"),
            pytest.param([], "kproxy", None, True, id="ours, without an object"),
            pytest.param([], None, "kproxy", True, id="ours, by annotation"),
            pytest.param([], "nginx", None, False, id="another, without an object"),
            pytest.param([OURS], "kproxy", None, True, id="ours"),
            pytest.param([ingress_class("mine")], "mine", None, True, id="ours, by its controller"),
            pytest.param([OTHER], "nginx", None, False, id="another's"),
            pytest.param([OTHER], None, "nginx", False, id="another's, by annotation"),
            pytest.param([OTHER], None, None, False, id="another's only"),
            pytest.param([OURS, OTHER], None, None, False, id="no default"),
            pytest.param(
                [ingress_class("kproxy", default=True), OTHER], None, None, True, id="the default"
            ),
            pytest.param(
                [OURS, ingress_class("nginx", "k8s.io/ingress-nginx", default=True)],
                None,
                None,
                False,
                id="another is the default",
            ),
            pytest.param([OURS, OTHER], "kproxy", "kproxy", True, id="both ways"),
            pytest.param([], "some-invalid-class-name", None, False, id="no such class"),
        ],
    )
    def test_an_ingress_is_served_by_its_class(
        self,
        classes: list[dict[str, Any]],
        named: str | None,
        named_by_annotation: str | None,
        *,
        is_served: bool,
    ) -> None:
        document = ingress("web", "Prefix /", host="h")
        if named is not None:
            document["spec"]["ingressClassName"] = named
        if named_by_annotation is not None:
            document["metadata"]["annotations"]["kubernetes.io/ingress.class"] = named_by_annotation
        found = made(document, *classes)
        assert chosen(found, "h") == ("default/web" if is_served else "404")
        assert bool(found.served) is is_served
        assert {each.severity for each in found.problems} <= {admission.Severity.NOTE}

    def test_another_class_can_be_taken_over(self) -> None:
        document = ingress("web", "Prefix /", host="h", ingressClassName="nginx")
        assert chosen(made(document, self.OTHER, ingress_class="nginx"), "h") == "default/web"

    def test_one_that_nobody_serves_is_said(self) -> None:
        document = ingress("web", "Prefix /", host="h", ingressClassName="ngnix")
        assert said(made(document, self.OURS)) == {"web": ["NoSuchClass"]}
        assert said(made(ingress("web", "Prefix /", host="h"), self.OTHER)) == {"web": ["NoClass"]}


class TestBackends:
    @pytest.mark.parametrize(
        ("target", "services", "reason"),
        [
            ("web:80", [service("web", "http:80")], ""),
            ("web:http", [service("web", "http:80")], ""),
            ("web:53", [service("web", "dns:53/UDP", "dns-tcp:53")], ""),
            ("web:80", [], "ServiceNotFound"),
            ("web:80", [service("web", namespace="other")], "ServiceNotFound"),
            ("web:81", [service("web")], "PortNotFound"),
            ("web:https", [service("web", "http:80")], "PortNotFound"),
            ("web:53", [service("web", "53/UDP")], "PortNotFound"),
            (
                "web:80",
                [service("web", clusterIP="", type="ExternalName", externalName="a.example")],
                "ServiceNotReachable",
            ),
        ],
    )
    def test_what_is_not_there_is_said_and_answered_503(
        self, target: str, services: list[dict[str, Any]], reason: str
    ) -> None:
        document = ingress("web", f"Prefix / -> {target}", host="h")
        found = objects.table_of(objects.world(document, *services))
        assert said(found) == ({"web": [reason]} if reason else {})
        assert (chosen(found, "h") == "503") is bool(reason)

    @pytest.mark.parametrize("through_endpoints", [True, False])
    @pytest.mark.parametrize(
        "found",
        [
            service("web", clusterIP="None"),
            objects.labelled(service("web"), "service.kubernetes.io/service-proxy-name", "x"),
        ],
    )
    def test_of_a_service_without_a_frontend_it_is_said_that_nginx_reloads(
        self, found: dict[str, Any], *, through_endpoints: bool
    ) -> None:
        document = ingress("web", "Prefix /", host="h")
        table = made(document, found, through_endpoints=through_endpoints)
        assert chosen(table, "h") == "default/web"
        assert said(table) == ({} if through_endpoints else {"web": ["ReloadsForEndpoints"]})

    def test_a_resource_is_said(self) -> None:
        resource = {"kind": "StorageBucket", "name": "static"}
        found = made(ingress("web", defaultBackend={"resource": resource}))
        assert said(found) == {"web": ["ResourceNotSupported"]}
        assert chosen(found, "h") == "503"

    def test_the_port_that_is_meant_is_told(self) -> None:
        document = ingress("web", "Prefix / -> web:8080", host="h")
        found = objects.table_of(objects.world(document, service("web", "http:80", "dns:9090/UDP")))
        assert "has no TCP port 8080; it has 80 (http); requests" in str(found.problems[0])


class TestDefaultBackends:
    def test_one_without_rules_is_for_everything(self) -> None:
        found = made(
            ingress("all", defaultBackend=objects.backend("all")),
            ingress("web", "Prefix /a", host="h"),
        )
        assert chosen(found, "other", "/x") == "default/all"
        assert chosen(found, "h", "/x") == "default/all"
        assert chosen(found, "h", "/a") == "default/web"

    def test_one_with_rules_is_for_its_hosts_first(self) -> None:
        found = made(
            ingress("all", defaultBackend=objects.backend("all")),
            ingress("web", "Prefix /a", host="h", defaultBackend=objects.backend("own")),
        )
        assert chosen(found, "h", "/x") == "default/own"
        assert chosen(found, "other", "/x") == "default/all"

    def test_one_with_rules_is_for_everything_if_there_is_no_other(self) -> None:
        found = made(ingress("web", "Prefix /a", host="h", defaultBackend=objects.backend("own")))
        assert chosen(found, "other", "/x") == "default/own"

    def test_a_path_of_the_whole_host_beats_it(self) -> None:
        found = made(ingress("web", "Prefix /", host="h", defaultBackend=objects.backend("own")))
        assert chosen(found, "h", "/x") == "default/web"

    def test_the_older_of_two_counts(self) -> None:
        found = made(
            ingress("a", defaultBackend=objects.backend("a")),
            ingress("b", defaultBackend=objects.backend("b")),
        )
        assert chosen(found, "h") == "default/a"
        assert said(found) == {"b": ["Conflict"]}

    def test_a_host_without_paths_is_answered_by_it(self) -> None:
        found = made(ingress("web", host="h", defaultBackend=objects.backend("own")))
        assert chosen(found, "h", "/x") == "default/own"


def test_targets_are_what_requests_may_go_to() -> None:
    found = made(ingress("web", "Prefix /a -> a", "Exact /b -> b", host="h"))
    assert sorted(map(str, found.targets)) == ["default/a", "default/b"]


def test_a_table_does_not_depend_on_the_order_of_its_objects() -> None:
    documents = [
        ingress(name, "Prefix /x", "Exact /y", host=host)
        for name in ("a", "b", "c")
        for host in ("h", "*.h.example")
    ]
    world = objects.world(*documents, *(service(name) for name in "abc"))
    turned = routing.World(
        ingresses=tuple(reversed(tuple(world.ingresses))), services=world.services, now=world.now
    )
    assert objects.table_of(world) == objects.table_of(turned)


def test_a_table_is_made_in_many_steps() -> None:
    world = objects.world(*(ingress(f"web-{n}", "Prefix /", host=f"h{n}") for n in range(200)))
    taken = routing.build_in_steps(world)
    assert sum(1 for _ in taken) > 400
    assert len(steps.at_once(routing.build_in_steps(world)).hosts) == 201
