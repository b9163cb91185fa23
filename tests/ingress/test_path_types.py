"""Path types: Kubernetes' own table, by the rules and by nginx.

https://kubernetes.io/docs/concepts/services-networking/ingress/#examples
"""

from collections.abc import Iterator

import pytest

from kproxy.ingress import routing, table
from kproxy.ingress.rules import matching
from tests.ingress.rig import nginx_rig, objects

# The paths of an Ingress, the paths of requests, and which path each of them takes.
EXAMPLES: list[tuple[tuple[str, ...], dict[str, str]]] = [
    (("Prefix /",), {"/": "/", "/any/path": "/"}),
    (
        ("Exact /foo",),
        {"/foo": "/foo", "/bar": "", "/foo/": ""},
    ),
    (("Exact /foo/",), {"/foo": "", "/foo/": "/foo/"}),
    (("Prefix /foo",), {"/foo": "/foo", "/foo/": "/foo"}),
    (("Prefix /foo/",), {"/foo": "/foo/", "/foo/": "/foo/"}),
    (("Prefix /aaa/bb",), {"/aaa/bbb": ""}),
    (
        ("Prefix /aaa/bbb",),
        {
            "/aaa/bbb": "/aaa/bbb",
            "/aaa/bbb/": "/aaa/bbb",
            "/aaa/bbb/ccc": "/aaa/bbb",
            "/aaa/bbbxyz": "",
        },
    ),
    (("Prefix /aaa/bbb/",), {"/aaa/bbb": "/aaa/bbb/"}),
    (("Prefix /", "Prefix /aaa"), {"/aaa/ccc": "/aaa"}),
    (
        ("Prefix /", "Prefix /aaa", "Prefix /aaa/bbb"),
        {"/aaa/bbb": "/aaa/bbb", "/ccc": "/"},
    ),
    (("Prefix /aaa",), {"/ccc": ""}),
    (("Exact /foo", "Prefix /foo"), {"/foo": "Exact /foo", "/foo/": "Prefix /foo"}),
]
CASES = [
    pytest.param(f"case-{number}.example", asked, taken, id=f"{' and '.join(paths)}: {asked}")
    for number, (paths, requests) in enumerate(EXAMPLES)
    for asked, taken in requests.items()
]


def _table() -> table.Table:
    """All examples, each under a host of its own; each path has a Service of its own."""
    documents = []
    for number, (paths, _) in enumerate(EXAMPLES):
        entries = [
            objects.path_of(path, f"case-{number}-{index}") for index, path in enumerate(paths)
        ]
        host = f"case-{number}.example"
        documents.append(objects.ingress(f"case-{number}", rules=[objects.rule(host, *entries)]))
    return objects.made(*documents)


TABLE = _table()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_rig.Nginx]:
    with nginx_rig.running(tmp_path_factory.mktemp("n"), TABLE) as started:
        yield started


def _service(host: str, taken: str) -> str:
    """The Service of the path that a request takes, which is a path, or a type and a path."""
    number = int(host.partition(".")[0].removeprefix("case-"))
    for index, path in enumerate(EXAMPLES[number][0]):
        if taken and taken in (path, path.partition(" ")[2]):
            return f"default/case-{number}-{index}"
    return ""


def test_nothing_is_wrong_with_the_examples() -> None:
    assert not TABLE.problems


@pytest.mark.parametrize(("host", "asked", "taken"), CASES)
def test_the_rules_choose_as_kubernetes_says(host: str, asked: str, taken: str) -> None:
    found = matching.route(TABLE, host, asked)
    assert (str(found.target) if found else "") == _service(host, taken)


@nginx_rig.needs_nginx
@pytest.mark.parametrize(("host", "asked", "taken"), CASES)
def test_nginx_chooses_as_kubernetes_says(
    nginx: nginx_rig.Nginx, host: str, asked: str, taken: str
) -> None:
    answer = nginx.get(host, asked)
    assert answer.backend == _service(host, taken)
    assert answer.status == (200 if taken else 404)


def test_an_empty_world_serves_nothing() -> None:
    made = objects.table_of(routing.World(now=objects.NOW))
    assert made == table.EMPTY
    assert matching.route(made, "shop.example", "/") is None
