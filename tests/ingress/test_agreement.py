"""Agreement: nginx takes the route that the rules say, for drawn Ingresses and requests."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.ingress import nginx_config, table
from kproxy.ingress.rules import matching
from tests.ingress.rig import nginx_rig, objects

pytestmark = [nginx_rig.needs_nginx, pytest.mark.extra]

HOSTS = ["", "a.example", "b.a.example", "*.example", "*.a.example"]
ASKED = [
    "a.example",
    "A.example:80",
    "b.a.example",
    "c.a.example",
    "c.example",
    "d.c.a.example",
    "x",
    "c.example.",
]
PARTS = ["a", "b", "ab", "A", "a.b", "a b", "ä", "%61", "+", "a;b", "{", '"', "$host", "\\n"]

PARTS_OF_PATHS = st.lists(st.sampled_from(PARTS), max_size=3)
PATHS = st.builds(
    lambda parts, end: "/" + "/".join(parts) + (end if parts else ""),
    PARTS_OF_PATHS,
    st.sampled_from(["", "/"]),
)
PATTERNS = st.sampled_from(
    ["/.*", "/a(/|$)(.*)", "/(a|b)", "/a/[a-z]+", "/a/b/.*", "/ab?", "/a.b$", "/A/b{1,2}", "/a|/b"]
)
ENTRIES = st.one_of(
    st.tuples(st.sampled_from(["Exact", "Prefix", "ImplementationSpecific"]), PATHS),
    st.tuples(st.just("pattern"), PATTERNS),
)
INGRESSES = st.lists(
    st.tuples(st.sampled_from(HOSTS), st.lists(ENTRIES, min_size=1, max_size=4), st.booleans()),
    min_size=1,
    max_size=8,
)
REQUESTS = st.lists(
    st.builds(
        lambda parts, end: "/" + "/".join(parts) + end,
        st.lists(
            st.sampled_from(
                [
                    "a",
                    "b",
                    "ab",
                    "A",
                    "a.b",
                    "a%20b",
                    "%C3%A4",
                    "%61",
                    "+",
                    "a;b",
                    "{",
                    "%22",
                    "$host",
                    "%5Cn",
                    "",
                    ".",
                    "..",
                    "%2F",
                    "axb",
                ]
            ),
            max_size=4,
        ),
        st.sampled_from(["", "/"]),
    ),
    min_size=20,
    max_size=60,
)


def documents(drawn: list[tuple[str, list[tuple[str, str]], bool]]) -> Iterator[dict[str, Any]]:
    for number, (host, entries, has_default) in enumerate(drawn):
        patterns = [entry for entry in entries if entry[0] == "pattern"]
        for use_regex in (False, True):
            chosen = patterns if use_regex else [each for each in entries if each not in patterns]
            if not chosen:
                continue
            name = f"i{number}-{'pattern' if use_regex else 'plain'}"
            rules = [
                {
                    "path": path,
                    "pathType": "ImplementationSpecific" if use_regex else kind,
                    "backend": objects.backend(f"{name}-{index}"),
                }
                for index, (kind, path) in enumerate(chosen)
            ]
            more: dict[str, Any] = {}
            if has_default:
                more["defaultBackend"] = objects.backend(f"{name}-default")
            yield objects.ingress(
                name,
                rules=[objects.rule(host, *rules)],
                created=f"2026-01-01T00:00:{number:02}Z",
                annotations={"kproxy.io/use-regex": str(use_regex).lower()},
                **more,
            )


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_rig.Nginx]:
    with nginx_rig.running(tmp_path_factory.mktemp("n"), table.EMPTY) as started:
        yield started


@hypothesis.settings(max_examples=60)
@hypothesis.given(drawn=INGRESSES, requests=REQUESTS)
def test_nginx_and_the_rules_choose_alike(
    nginx: nginx_rig.Nginx,
    drawn: list[tuple[str, list[tuple[str, str]], bool]],
    requests: list[str],
) -> None:
    made = objects.made(*documents(drawn))
    nginx.serve(made)
    for number, path in enumerate(requests):
        host = ASKED[number % len(ASKED)]
        found = matching.route(made, host, path)
        answer = nginx.get(host, path)
        expected = (200, str(found.target)) if found else (404, "")
        if answer.status == 400:  # nginx refuses paths that leave the root
            continue
        assert (answer.status, answer.backend) == expected, (host, path)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WILD = st.lists(
    st.fixed_dictionaries(
        {
            "host": st.sampled_from(["", "a.example", "*.example", "b.example"]),
            "kind": st.sampled_from(["Exact", "Prefix", "ImplementationSpecific"]),
            "path": ANY_TEXT.map(lambda text: f"/{text}") | PATTERNS | PATHS,
            "annotations": st.dictionaries(
                st.sampled_from(
                    [
                        "backend-protocol",
                        "canary",
                        "canary-by-cookie",
                        "canary-by-header",
                        "canary-by-header-pattern",
                        "canary-by-header-value",
                        "canary-weight",
                        "canary-weight-total",
                        "force-ssl-redirect",
                        "proxy-body-size",
                        "proxy-read-timeout",
                        "rewrite-target",
                        "use-regex",
                    ]
                ),
                st.sampled_from(
                    [
                        "true",
                        "7",
                        "0",
                        "GRPC",
                        "grpcs",
                        "HTTPS",
                        "/$1",
                        "/a?b=$2",
                        "x-a",
                        "8m",
                        "^a.*$",
                    ]
                )
                | ANY_TEXT,
            ),
        }
    ),
    min_size=20,
    max_size=60,
)


@hypothesis.settings(max_examples=40)
@hypothesis.given(drawn=WILD)
def test_nginx_takes_every_configuration(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]]
) -> None:
    """Forty tests of some forty Ingresses each."""
    directory = tmp_path_factory.mktemp("t")
    made = []
    for number, each in enumerate(drawn):
        entry = {
            "path": each["path"],
            "pathType": each["kind"],
            "backend": objects.backend(f"s{number % 7}"),
        }
        document = objects.ingress(
            f"i{number}",
            rules=[objects.rule(each["host"], entry)],
            annotations={f"kproxy.io/{key}": value for key, value in each["annotations"].items()},
        )
        if objects.is_valid(document):
            made.append(document)
    settings = nginx_config.Settings(
        directory=str(directory),
        control=f"unix:{directory}/control",
        default_certificate=nginx_rig.DEFAULT_CERTIFICATE,
        http=(nginx_rig.unused(),),
        https=(nginx_rig.unused(),),
        version=nginx_rig.version(),
    )
    text = nginx_config.render(objects.made(*made), settings, objects.somewhere)
    nginx_rig.checked(nginx_rig.written(text, directory))
