"""Hostile Ingresses: none injects a directive, reads a file, or keeps another from being served.

Each row of `HOSTILE` is one that ingress-nginx was, or could have been, harmed by:
CVE-2021-25742 and CVE-2023-5043 (snippets), CVE-2021-25745 and CVE-2022-4886 (path),
CVE-2021-25748 (a newline in a value), CVE-2023-5044 (permanent-redirect), CVE-2025-24514
(auth-url), CVE-2025-1097 (auth-tls-match-cn), CVE-2025-1098 (mirror, UID), and CVE-2025-1974, which
ran all of these in the test of the configuration.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from kproxy.ingress import nginx_config
from kproxy.ingress.nginx_text import syntax
from kproxy.model import addresses
from tests.ingress.rig import nginx_reader, nginx_rig, objects

GOOD = objects.ingress("good", "Prefix /", host="good.example")
BREAK_OUT = [
    "; include /etc/passwd;",
    "/x { include /etc/passwd; } #",
    '"; include "/etc/passwd"; #',
    "'; load_module '/tmp/x.so'; #",
    "}}}}\nssl_engine /tmp/evil.so;\nhttp { server { location /",
    "\nroot /;\n",
    "\\",
    '\\"; include /etc/passwd; "',
    "$(id)",
    "${http_x}; alias /;",
    "$host",
    "\x00; autoindex on;",
    "\r\nX-Injected: 1",
    "#;\n{}",
]

SETTINGS = nginx_config.Settings(
    directory="/run/kproxy-test",
    control="unix:/run/kproxy-test/control",
    default_certificate=nginx_rig.DEFAULT_CERTIFICATE,
    http=(addresses.SocketAddress("127.0.0.1", 80),),
    https=(addresses.SocketAddress("127.0.0.1", 443),),
)


def annotated(key: str, value: str) -> dict[str, Any]:
    """An Ingress with this annotation, for each prefix."""
    name = "hostile"
    return objects.ingress(
        name,
        "Prefix /",
        host="hostile.example",
        annotations={f"nginx.ingress.kubernetes.io/{key}": value},
    )


def _hostile() -> Iterator[tuple[str, dict[str, Any]]]:
    named = {
        "CVE-2021-25742": (
            "server-snippet",
            "location /x { content_by_lua_block { ngx.say(1) } alias /; }",
        ),
        "CVE-2023-5043": ("configuration-snippet", "include /etc/passwd;"),
        "CVE-2023-5044": ("permanent-redirect", "https://a;\n}\nlocation /x { alias /; #"),
        "CVE-2025-24514": ("auth-url", "http://a/#;\nssl_engine /proc/1/fd/3;\n"),
        "CVE-2025-1097": ("auth-tls-match-cn", "CN=x#(\n){}\nssl_engine /proc/1/fd/3;\n"),
        "CVE-2025-1098": ("mirror-target", "http://a/#;\nssl_engine /proc/1/fd/3;\n"),
        "stream-snippet": ("stream-snippet", "server { listen 1; }"),
        "modsecurity-snippet": ("modsecurity-snippet", "Include /etc/passwd"),
        "app-root": ("app-root", "/x; include /etc/passwd;"),
        "proxy-redirect": ("proxy-redirect-from", "x; include /etc/passwd;"),
        "upstream-vhost": ("upstream-vhost", "x; include /etc/passwd;"),
    }
    for name, (key, value) in named.items():
        yield name, annotated(key, value)
    for key in (
        "rewrite-target",
        "backend-protocol",
        "proxy-body-size",
        "proxy-connect-timeout",
        "proxy-read-timeout",
        "proxy-send-timeout",
        "ssl-redirect",
        "use-regex",
        "allowlist-source-range",
        "denylist-source-range",
    ):
        for number, text in enumerate(BREAK_OUT):
            yield f"{key} {number}", annotated(key, f"/{text}" if key == "rewrite-target" else text)
    for number, text in enumerate(BREAK_OUT):
        for kind in ("Prefix", "Exact", "ImplementationSpecific"):
            yield f"CVE-2021-25745: {kind} {number}", _with_path(kind, f"/x{text}")
            pattern = _with_path(kind, f"/x{text}(.*)")
            pattern["metadata"]["annotations"] = {
                "nginx.ingress.kubernetes.io/use-regex": "true",
                "nginx.ingress.kubernetes.io/rewrite-target": "/$1",
            }
            yield f"pattern: {kind} {number}", pattern
        yield f"canary {number}", _canary(text)
        yield f"host {number}", objects.ingress("hostile", "Prefix /", host=f"a{text}.example")
        yield f"class {number}", objects.ingress("hostile", "Prefix /", ingressClassName=text)
        yield f"secret {number}", _with_secret(text)
        uid = objects.ingress("hostile", "Prefix /", host="hostile.example")
        uid["metadata"]["uid"] = text
        yield f"CVE-2025-1098: uid {number}", uid
        named_so = objects.ingress("hostile", "Prefix /", host="hostile.example")
        named_so["metadata"] |= {"name": f"a{text}", "namespace": text}
        yield f"name {number}", named_so
        yield f"service {number}", _to(text, {"number": 80})
        yield f"port {number}", _to("web", {"name": text})
    for path in ("/log_format", "/;{}", "/%3B%7B%0a", "/x%00", "/..%2f..%2fetc/passwd"):
        yield f"CVE-2022-4886: {path}", _with_path("ImplementationSpecific", path)
    yield "a long path", _with_path("Prefix", "/" + "a" * 100_000)
    yield "a long pattern", _with_pattern("/" + "(a)" * 1000)
    for text in ("/(a+)+$", "/(a|aa)+$", "/(.*)*x", "/((a*)*)*", "/(?:a{1,99}){1,99}"):
        yield f"catastrophic {text}", _with_pattern(text)
    for text in ("/(", "/)", "/[", "/a**", "/*", "/?", "/(?<x>a)", "/(?=a)", "/\\1", "/(?i)a"):
        yield f"bad pattern {text}", _with_pattern(text)


def _with_path(kind: str, path: str) -> dict[str, Any]:
    entry = {"path": path, "pathType": kind, "backend": objects.backend("hostile")}
    return objects.ingress("hostile", rules=[objects.rule("hostile.example", entry)])


def _with_pattern(path: str) -> dict[str, Any]:
    made = _with_path("ImplementationSpecific", path)
    made["metadata"]["annotations"] = {"nginx.ingress.kubernetes.io/use-regex": "true"}
    return made


def _with_secret(text: str) -> dict[str, Any]:
    tls = [{"hosts": ["hostile.example"], "secretName": f"../..{text}"}]
    return objects.ingress("hostile", "Prefix /", host="hostile.example", tls=tls)


def _to(service: str, port: dict[str, Any]) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": port}}
    entry = {"path": "/", "pathType": "Prefix", "backend": backend}
    return objects.ingress("hostile", rules=[objects.rule("hostile.example", entry)])


def _canary(text: str) -> dict[str, Any]:
    """A canary of the good Ingress, whose rules get into the same server."""
    prefix = "nginx.ingress.kubernetes.io/canary"
    annotations = {
        prefix: "true",
        f"{prefix}-by-header": text,
        f"{prefix}-by-header-value": text,
        f"{prefix}-by-header-pattern": text,
        f"{prefix}-by-cookie": text,
        f"{prefix}-weight": text,
    }
    return objects.ingress("hostile", "Prefix /", host="good.example", annotations=annotations)


HOSTILE = list(_hostile())


def rendered(*documents: dict[str, Any]) -> nginx_config.Rendered:
    """The configuration of the good Ingress, and of those of `documents` that are valid."""
    valid = filter(objects.is_valid, documents)
    return nginx_config.render(objects.made(GOOD, *valid), SETTINGS, objects.somewhere)


def check(made: nginx_config.Rendered) -> None:
    """It consists of our directives, in the blocks where they belong, and the good one is there."""
    tree = nginx_reader.read(made.text)
    assert {each.name for each in tree.body} == TOP
    (http,) = tree.find("http")
    assert INSIDE_HTTP <= {each.name for each in http.body} <= INSIDE_HTTP | {"split_clients"}
    for server in http.find("server"):
        assert {each.name for each in server.body} <= INSIDE_SERVER
        for location in server.find("location"):
            for _, node in location.walk():
                assert node.name in INSIDE_LOCATION | {"location"}, node.words
    names = [each.words for each in http.find("server", "server_name")]
    assert ["server_name", "good.example"] in names
    assert not any(name.startswith("/etc") for name in made.files)


def _names(*parts: str) -> set[str]:
    return {each for part in parts for each in part.split()}


TOP = {
    "daemon",
    "worker_processes",
    "worker_shutdown_timeout",
    "pid",
    "lock_file",
    "error_log",
    "events",
    "http",
}
INSIDE_HTTP = {
    each.name
    for each in nginx_reader.read(
        nginx_config.render(objects.made(GOOD), SETTINGS, objects.somewhere).text
    )
    .find("http")[0]
    .body
}
INSIDE_SERVER = _names("listen server_name ssl_certificate ssl_certificate_key location")
INSIDE_LOCATION = _names(
    "return if rewrite allow deny proxy_pass grpc_pass client_max_body_size error_page stub_status",
    *(
        f"{module}_{time}_timeout"
        for module in ("proxy", "grpc")
        for time in _names("connect send read")
    ),
)


def test_our_directives_are_known_to_the_builder() -> None:
    assert TOP | INSIDE_HTTP | INSIDE_SERVER | INSIDE_LOCATION <= syntax.DIRECTIVES


@pytest.mark.parametrize("document", [pytest.param(each, id=name) for name, each in HOSTILE])
def test_a_hostile_ingress_adds_no_directive_of_its_own(document: dict[str, Any]) -> None:
    check(rendered(document))


@nginx_rig.needs_nginx
def test_nginx_takes_them_all_at_once_and_serves_the_good_one(tmp_path: Path) -> None:
    valid = {}
    for number, (_, each) in enumerate(HOSTILE):
        if not objects.is_valid(each):
            continue
        spec = each["spec"]
        rules = [
            rule if rule.get("host") == "good.example" else rule | {"host": f"h{number}.example"}
            for rule in spec["rules"]
        ]
        name = f"hostile-{number}"
        valid[name] = each | {
            "metadata": each["metadata"] | {"name": name},
            "spec": spec | {"rules": rules},
        }
    assert len(valid) > 150
    made = objects.made(GOOD, *valid.values())
    with nginx_rig.running(tmp_path, made) as nginx:
        answer = nginx.get("good.example", "/")
        assert (answer.status, answer.backend) == (200, "default/good")


@nginx_rig.needs_nginx
def test_an_expression_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    """Four repeats are allowed, and on a long path they would take hours."""
    slow = _with_pattern("/.*a.*a.*a.*b$")
    slow["spec"]["rules"][0]["host"] = "slow.example"
    with nginx_rig.running(tmp_path, objects.made(GOOD, slow)) as nginx:
        assert nginx.get("slow.example", "/" + "a" * 4000 + "bc").status == 500
        assert nginx.get("slow.example", "/aaab").backend == "default/hostile"
        assert nginx.get("good.example", "/").status == 200


NASTY = st.text(
    st.sampled_from("\"'\\;{}#$()[]|*+?^.~=@%/ \n\r\t\0ax1") | st.characters(codec="utf-8"),
    max_size=30,
)


@pytest.mark.extra
@hypothesis.given(
    path=NASTY,
    annotations=st.dictionaries(
        st.sampled_from(
            [
                "rewrite-target",
                "use-regex",
                "proxy-body-size",
                "proxy-read-timeout",
                "backend-protocol",
                "canary-by-header",
                "canary",
                "configuration-snippet",
            ]
        ),
        NASTY | st.just("true"),
    ),
    kind=st.sampled_from(["Prefix", "Exact", "ImplementationSpecific"]),
)
@hypothesis.settings(max_examples=1000)
def test_no_text_adds_a_directive(path: str, annotations: dict[str, str], kind: str) -> None:
    document = _with_path(kind, f"/{path}")
    document["metadata"]["annotations"] = {
        f"nginx.ingress.kubernetes.io/{key}": value for key, value in annotations.items()
    }
    check(rendered(document))
