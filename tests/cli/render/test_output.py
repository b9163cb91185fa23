"""Tables, templates and lists of views, without a proxy."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy import errors
from kproxy.cli.parse import asked_resources
from kproxy.cli.render import output, tables

SERVICES, _, _, _, ENDPOINTS, AFFINITY, CONNECTIONS, EVENTS, _ = asked_resources.KINDS
NAMESPACE = "kube-system"
NAME = "checkout-frontend-v2"


def service(name: str = NAME, **fields: Any) -> asked_resources.View:
    frontend = {
        "kind": "cluster-ip",
        "address": "10.196.123.101",
        "port": 18080,
        "bound_address": "127.196.123.101",
        "bound_port": 18080,
        "state": "no-endpoints",
        "detail": "connections are refused",
    }
    view = {
        "namespace": NAMESPACE,
        "name": name,
        "port_name": "http-metrics",
        "protocol": "TCP",
        "cluster_ip": "10.196.123.101",
        "port": 18080,
        "type": "LoadBalancer",
        "portal": "loopback",
        "strategy": "round-robin",
        "session_affinity": None,
        "frontends": [frontend, {**frontend, "kind": "node-port", "bound_port": 30080}],
        "endpoints": [{"in_use": True}, {"in_use": False}],
        "connections": {"active": 12345, "total": 1234567},
        "labels": {"app": "checkout"},
        "created": "2026-11-27T00:00:00Z",
    }
    return {**view, **fields}


VIEWS: dict[asked_resources.Kind, asked_resources.View] = {
    SERVICES: service(),
    ENDPOINTS: {
        "namespace": NAMESPACE,
        "service": NAME,
        "port_name": "http-metrics",
        "protocol": "TCP",
        "address": "10.244.112.101",
        "port": 18080,
        "ready": True,
        "in_use": False,
        "penalized_until": "2026-11-27T00:00:00Z",
        "serving": True,
        "terminating": False,
        "node": "node-1",
        "connections": {"total": 4, "active": 1, "dial_failures": 2, "share": 0.25},
    },
    AFFINITY: {
        "namespace": NAMESPACE,
        "service": NAME,
        "port_name": "http-metrics",
        "client": "10.244.112.101",
        "backend_address": "10.244.112.102",
        "backend_port": 18080,
        "expires_in_seconds": 10800,
        "scope": "cluster",
    },
    CONNECTIONS: {
        "namespace": NAMESPACE,
        "service": NAME,
        "port_name": "http-metrics",
        "client_address": "10.244.112.101",
        "client_port": 54321,
        "frontend_address": "127.196.123.101",
        "frontend_port": 18080,
        "backend_address": "10.244.112.102",
        "backend_port": 18080,
        "state": "half-closed",
        "age_seconds": 100.5,
        "bytes_from_client": 1536,
        "bytes_from_backend": 10,
    },
}
EVENT: asked_resources.View = {
    "namespace": NAMESPACE,
    "service": NAME,
    "port_name": "http",
    "reason": "DialFailed",
    "time": "2026-11-28T03:04:05.678+00:00",
    "details": {"client": "10.0.0.1:5", "attempt": 1, "added": ["10.1.0.1:80", "10.1.0.2:80"]},
}


def printed(text: str, *views: asked_resources.View, **shape: bool) -> str:
    """What -o TEXT prints of these Services."""
    printer = output.printer(text, output.Shape(**shape))
    return printer.every([output.Found(SERVICES, views)])


@pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: kind.plural)
def test_a_table_of_all_namespaces_fits_100_columns(kind: asked_resources.Kind) -> None:
    printer = output.printer("", output.Shape(has_namespace=True))

    lines = printer.every([output.Found(kind, [VIEWS[kind]])]).splitlines()

    assert max(map(len, lines)) <= 100
    assert lines[0].split()[0] == "NAMESPACE"


@pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: kind.plural)
def test_wide_appends_columns(kind: asked_resources.Kind) -> None:
    found = [output.Found(kind, [VIEWS[kind]])]

    narrow, _ = output.printer("table", output.Shape()).every(found).splitlines()
    wide, _ = output.printer("wide", output.Shape()).every(found).splitlines()

    assert wide.split()[: len(narrow.split())] == narrow.split()
    assert len(wide.split()) > len(narrow.split())


def test_only_a_state_is_coloured_and_columns_stay_aligned() -> None:
    shown = printed("", service(), service("web"), is_colourful=True)

    plain = shown.replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert plain == printed("", service(), service("web"))
    assert shown.count("\x1b[33mno-endpoints\x1b[0m") == 2


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_colours_are_for_terminals_that_want_them(
    environment: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    assert tables.is_colourful(environment, is_terminal=is_terminal) is expected


def changed(name: str, change: str = "") -> list[output.Changed]:
    return [output.Changed(service(name), change)]


def test_a_watched_table_grows_below_one_heading() -> None:
    printer = output.printer("", output.Shape())

    first = printer.several(SERVICES, changed("a"))
    second = printer.several(SERVICES, changed("a-long-name-indeed"))
    third = printer.several(SERVICES, changed("b"))

    assert first.splitlines()[0].split()[0] == "NAME"
    assert len(second.splitlines()) == len(third.splitlines()) == 1
    assert second.index("18080/TCP") == third.index("18080/TCP")


@pytest.mark.parametrize("text", ["", "custom-columns=NAME:.metadata.name,PORT:.port"])
def test_the_list_at_the_start_of_a_watch_is_aligned(text: str) -> None:
    printer = output.printer(text, output.Shape())

    assert printer.several(SERVICES, []) == ""
    lines = printer.several(SERVICES, changed("a") + changed("a-long-name-indeed")).splitlines()

    assert len({lines[0].index("PORT"), *(line.index("18080") for line in lines[1:])}) == 1


def test_watched_documents_stand_each_for_itself() -> None:
    as_yaml = output.printer("yaml", output.Shape())
    text = as_yaml.several(SERVICES, changed("a") + changed("b"))
    text += as_yaml.several(SERVICES, changed("c"))
    as_json = output.printer("json", output.Shape())
    template = output.printer("jsonpath={.metadata.name}", output.Shape())

    assert [each["name"] for each in yaml.safe_load_all(text)] == ["a", "b", "c"]
    assert json.loads(as_json.several(SERVICES, changed("a")))["kind"] == "Service"
    assert template.several(SERVICES, changed("a")) == "a"


def test_watched_changes_are_told_apart_as_kubectl_does_it() -> None:
    def shown(text: str, shape: output.Shape = output.Shape()) -> str:  # noqa: B008  # is frozen
        printer = output.printer(text, shape)
        every = changed("a", "ADDED") + changed("a", "MODIFIED"), changed("a", "DELETED")
        return "".join(printer.several(SERVICES, each) for each in every)

    table = shown("", output.Shape(has_namespace=True)).splitlines()
    assert [line.split()[0] for line in table] == ["EVENT", "ADDED", "MODIFIED", "DELETED"]
    assert table[0].split()[1] == "NAMESPACE"
    assert len({line.index(NAMESPACE) for line in table[1:]}) == 1
    events = [json.loads(line) for line in shown("json").splitlines()]
    assert [each["type"] for each in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert events[2]["object"]["metadata"]["name"] == "a"
    assert list(yaml.safe_load_all(shown("yaml"))) == events
    assert shown("name") == "service/a\n" * 3
    assert shown("jsonpath={.type}/{.object.metadata.name} ") == "ADDED/a MODIFIED/a DELETED/a "
    columns = shown("custom-columns=T:.type,N:.object.metadata.name").splitlines()
    assert [line.split() for line in columns[1:]] == [
        *(["ADDED", "a"], ["MODIFIED", "a"], ["DELETED", "a"])
    ]


@pytest.mark.parametrize("text", ["JSON", "Yaml", "NAME"])
def test_formats_without_an_argument_are_taken_in_any_case(text: str) -> None:
    shape = output.Shape()
    found = [output.Found(SERVICES, [service()])]

    assert output.printer(text, shape).every(found) == (
        output.printer(text.lower(), shape).every(found)
    )


@pytest.mark.parametrize("text", ["WIDE", "JSONPATH={.kind}", "Custom-Columns=N:.name"])
def test_other_formats_are_refused_in_upper_case(text: str) -> None:
    with pytest.raises(errors.ConfigError, match="is no format"):
        output.printer(text, output.Shape())


def test_an_event_is_a_row() -> None:
    heading, row = (
        output.printer("", output.Shape()).several(EVENTS, [output.Changed(EVENT)]).splitlines()
    )

    assert heading.split() == ["AGE", "TIME", "REASON", "SERVICE", "DETAILS"]
    assert row.split()[1:] == [
        *("03:04:05.678", "DialFailed", f"{NAME}:http"),
        *("client=10.0.0.1:5", "attempt=1", "added=10.1.0.1:80,10.1.0.2:80"),
    ]


def test_names_are_those_of_services_each_once() -> None:
    assert printed("name", service("a"), service("a", port=1), service("b")) == (
        "service/a\nservice/b\n"
    )


def test_yaml_keeps_texts_that_look_like_something_else() -> None:
    odd = service("yes", port_name="22:30", type="null", strategy="x" * 300)

    assert yaml.safe_load(printed("yaml", odd)) == json.loads(printed("json", odd))
    assert yaml.safe_load(printed("yaml", odd))["items"][0]["metadata"] == {
        "name": "yes",
        "namespace": NAMESPACE,
        "creationTimestamp": "2026-11-27T00:00:00Z",
        "labels": {"app": "checkout"},
    }


def test_columns_and_templates_from_files(tmp_path: Path) -> None:
    columns = tmp_path / "columns"
    columns.write_text("NAME   PORTS\n.metadata.name  .frontends[*].bound_port\n")
    template = tmp_path / "template"
    template.write_text("{.items[0].port}")

    assert printed(f"custom-columns-file={columns}", service("a")).split() == [
        *("NAME", "PORTS"),
        *("a", "18080,30080"),
    ]
    assert printed(f"jsonpath-file={template}", service()) == "18080"
    with pytest.raises(errors.ConfigError, match="No such file"):
        printed(f"jsonpath-file={tmp_path}/absent")
    columns.write_text("NAME\n")
    with pytest.raises(errors.ConfigError, match="a line of headings"):
        printed(f"custom-columns-file={columns}")


@pytest.mark.parametrize("spec", ["N:.name", "N:name", "N:{.name}", "N:{name}", "N:.metadata.name"])
def test_a_path_is_taken_with_or_without_braces(spec: str) -> None:
    assert printed(f"custom-columns={spec}", service("a"), has_headings=False) == "a\n"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".name", ["a", "b", "c"]),
        ("{.port}", ["b", "c", "a"]),
        (".metadata.labels.rank", ["c", "a", "b"]),
    ],
)
def test_views_are_sorted_by_numbers_and_by_texts(path: str, expected: list[str]) -> None:
    views = [
        service("b", port=9, labels={"rank": "z"}),
        service("c", port=80, labels={}),
        service("a", port=443, labels={"rank": "y"}),
    ]

    assert [view["name"] for view in output.in_order(views, SERVICES, path)] == expected


def test_a_field_to_sort_by_that_no_view_has_is_a_failure_as_for_kubectl() -> None:
    with pytest.raises(errors.KproxyError, match=r"none of the 2 items has such a field"):
        output.in_order([service("b"), service("a")], SERVICES, ".metadata.nonsense")
    assert output.in_order([], SERVICES, ".metadata.nonsense") == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["svc"], [("services", "")]),
        (["SERVICES", "a", "b"], [("services", "a"), ("services", "b")]),
        (["svc/a", "ep/b"], [("services", "a"), ("endpoints", "b")]),
        (["ep", "svc/a"], [("endpoints", "a")]),
        (["svc,ep,svc"], [("services", ""), ("endpoints", "")]),
        (["all"], [("services", ""), ("endpoints", "")]),
        (["conn"], [("connections", "")]),
        (["aff", "a"], [("affinity", "a")]),
    ],
)
def test_what_arguments_mean(arguments: list[str], expected: list[tuple[str, str]]) -> None:
    found = asked_resources.wanted(arguments)

    assert [(each.kind.plural, each.name) for each in found] == expected


@pytest.mark.parametrize(
    "arguments",
    [["pods"], ["svc,pods"], ["svc/"], ["svc/a/b"], ["svc/a", "b"], ["/a"], ["svc", ""]],
)
def test_arguments_that_mean_nothing_are_refused(arguments: list[str]) -> None:
    with pytest.raises(errors.ConfigError):
        asked_resources.wanted(arguments)
