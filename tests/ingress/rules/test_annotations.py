"""Annotations: what they say, what is wrong with them, and what is never honoured."""

from collections.abc import Mapping
from typing import Any

import pytest

from kproxy.ingress import table
from kproxy.ingress.table import Policy, Protocol
from tests.ingress.rig.objects import ingress, made, said

NGINX = "nginx.ingress.kubernetes.io/"


def route(
    annotations: Mapping[str, str], path: str = "Prefix /"
) -> tuple[table.Table, table.Route]:
    """The table of one Ingress, and its only route."""
    found = made(ingress("web", path, host="h", annotations=annotations))
    (host,) = (each for each in found.hosts if each.name == "h")
    return found, next(iter(host.routes()))


def policy(**annotations: str) -> Policy:
    """That of annotations with ingress-nginx's prefix, none of which is wrong."""
    found, only = route({NGINX + key.replace("_", "-"): each for key, each in annotations.items()})
    assert not found.problems
    return only.policy


def test_without_annotations_it_is_as_in_ingress_nginx() -> None:
    assert policy() == Policy(
        protocol=Protocol.HTTP,
        body_size="1m",
        connect_timeout=5,
        send_timeout=60,
        read_timeout=60,
        ssl_redirect=True,
    )


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"backend_protocol": "HTTPS"}, Policy(protocol=Protocol.HTTPS)),
        ({"backend_protocol": "grpc"}, Policy(protocol=Protocol.GRPC)),
        ({"backend_protocol": "GRPCS"}, Policy(protocol=Protocol.GRPCS)),
        ({"proxy_body_size": "8m"}, Policy(body_size="8m")),
        ({"proxy_body_size": "0"}, Policy(body_size="0")),
        ({"proxy_body_size": "512K"}, Policy(body_size="512k")),
        ({"proxy_connect_timeout": "10"}, Policy(connect_timeout=10)),
        ({"proxy_read_timeout": "1h"}, Policy(read_timeout=3600)),
        ({"proxy_send_timeout": "120s"}, Policy(send_timeout=120)),
        ({"rewrite_target": "/"}, Policy(rewrite="/")),
        ({"rewrite_target": "/a/$1?b=$2"}, Policy(rewrite="/a/$1?b=$2")),
        ({"use_regex": "true"}, Policy(has_patterns=True)),
        ({"ssl_redirect": "false"}, Policy(ssl_redirect=False)),
        ({"force_ssl_redirect": "true"}, Policy(force_ssl_redirect=True)),
        ({"service_upstream": "true"}, Policy()),
    ],
)
def test_annotations_are_honoured(annotations: dict[str, str], expected: Policy) -> None:
    assert policy(**annotations) == expected


def test_our_own_prefix_is_the_stronger_one() -> None:
    both = {f"{NGINX}proxy-body-size": "1k", "kproxy.io/proxy-body-size": "2k"}
    assert route(both)[1].policy.body_size == "2k"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backend-protocol", "FCGI"),
        ("backend-protocol", ""),
        ("proxy-body-size", "8Mi"),
        ("proxy-body-size", "-1"),
        ("proxy-body-size", "99999999999"),
        ("proxy-read-timeout", "soon"),
        ("proxy-read-timeout", "0"),
        ("proxy-read-timeout", "1.5"),
        ("proxy-read-timeout", "9999999"),
        ("rewrite-target", "a"),
        ("rewrite-target", "/$uri"),
        ("rewrite-target", "/ x"),
        ("rewrite-target", "https://evil.example/"),
        ("rewrite-target", "/" + "a" * 600),
        ("ssl-redirect", "perhaps"),
    ],
)
def test_a_bad_value_counts_as_absent_and_is_said(key: str, value: str) -> None:
    found, only = route({NGINX + key: value})
    assert only.policy == Policy()
    assert said(found) == {"web": ["InvalidAnnotation"]}
    assert f"annotation {NGINX}{key} is " in str(found.problems[0])


def test_what_is_not_honoured_is_said_in_one_sentence() -> None:
    keys = ("configuration-snippet", "server-snippet", "enable-cors", "limit-rps", "x" * 100)
    found, only = route({NGINX + key: "x" for key in keys})
    assert only.policy == Policy()
    assert [each.reason for each in found.problems] == ["AnnotationIgnored"]
    text = str(found.problems[0])
    assert "not honoured by kproxy: configuration-snippet, enable-cors, limit-rps" in text
    assert len(text) < 300


def test_annotations_of_others_are_not_mentioned() -> None:
    assert not route({"cert-manager.io/cluster-issuer": "x"})[0].problems


@pytest.mark.parametrize("key", ["auth-type", "auth-secret", "auth-url", "auth-tls-secret"])
def test_a_protection_that_is_not_there_refuses_all_requests(key: str) -> None:
    """Users of such an Ingress believe that it is guarded."""
    found, only = route({NGINX + key: "10.0.0.0/8"})
    assert only.policy.is_refused
    assert [each.reason for each in found.problems] == ["ProtectionNotSupported"]
    assert f"asks for {key}" in str(found.problems[0])


@pytest.mark.parametrize(
    ("annotations", "allowed", "denied"),
    [
        ({"whitelist-source-range": "10.0.0.0/8"}, ("10.0.0.0/8",), ()),
        ({"allowlist-source-range": " 10.1.2.3/8, fd00::1 ,"}, ("10.0.0.0/8", "fd00::1/128"), ()),
        (
            {"allowlist-source-range": "10.0.0.0/8", "whitelist-source-range": "10.0.0.0/8,::/0"},
            ("10.0.0.0/8", "::/0"),
            (),
        ),
        ({"denylist-source-range": "192.0.2.1"}, (), ("192.0.2.1/32",)),
    ],
)
def test_networks_are_let_in_or_kept_out(
    annotations: dict[str, str], allowed: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    found, only = route({NGINX + key: value for key, value in annotations.items()})
    assert (only.policy.allowed, only.policy.denied) == (allowed, denied)
    assert not found.problems


@pytest.mark.parametrize("key", ["allowlist-source-range", "denylist-source-range"])
@pytest.mark.parametrize("value", ["", ",", "all", "10.0.0.0/33", "10.0.0.0/8; allow all", "10/8"])
def test_networks_that_cannot_be_read_refuse_all_requests(key: str, value: str) -> None:
    found, only = route({NGINX + key: value})
    assert only.policy.is_refused
    assert [each.reason for each in found.problems] == ["InvalidAnnotation"]


def test_a_path_is_an_expression_where_the_annotations_want_one() -> None:
    path = "ImplementationSpecific /a(/|$)(.*)"
    assert route({}, path)[1].pattern == ""
    assert route({f"{NGINX}use-regex": "true"}, path)[1].pattern == "/a(/|$)(.*)"
    assert route({f"{NGINX}rewrite-target": "/$2"}, path)[1].pattern == "/a(/|$)(.*)"
    assert route({f"{NGINX}use-regex": "true"}, "Exact /a(b")[1].pattern == ""
    assert route({f"{NGINX}use-regex": "true"}, "Prefix /a.b")[1].pattern == ""


class TestCanaries:
    MAIN = ingress("web", "Prefix /", host="h")

    @staticmethod
    def canary(
        *paths: str, name: str = "new", host: str = "h", **annotations: str
    ) -> dict[str, Any]:
        given = {f"{NGINX}canary": "true"} | {
            f"{NGINX}canary-{key.replace('_', '-')}": each for key, each in annotations.items()
        }
        return ingress(name, *(paths or ("Prefix /",)), host=host, annotations=given)

    def of(self, *canaries: dict[str, Any]) -> tuple[table.Table, table.Canary | None]:
        found = made(self.MAIN, *canaries)
        (host,) = (each for each in found.hosts if each.name == "h")
        return found, host.prefixes[0][1].canary

    def test_a_share_of_the_requests(self) -> None:
        found, canary = self.of(self.canary(weight="20"))
        assert canary is not None
        assert (str(canary.target), canary.rule.weight, canary.rule.total) == (
            "default/new",
            20,
            100,
        )
        assert not found.problems
        assert sorted(map(str, found.targets)) == ["default/new", "default/web"]
        assert [each.name for each in found.served] == ["new", "web"]

    def test_a_share_of_another_total(self) -> None:
        _, canary = self.of(self.canary(weight="1", weight_total="1000"))
        assert canary is not None
        assert (canary.rule.weight, canary.rule.total) == (1, 1000)

    def test_headers_and_cookies(self) -> None:
        _, canary = self.of(self.canary(by_header="X-Canary", by_cookie="canary"))
        assert canary is not None
        assert (canary.rule.header, canary.rule.cookie) == ("x-canary", "canary")
        _, canary = self.of(self.canary(by_header="X-Canary", by_header_value="a b$"))
        assert canary is not None
        assert canary.rule.header_value == "a b$"
        _, canary = self.of(self.canary(by_header="X-Canary", by_header_pattern="^v[12]$"))
        assert canary is not None
        assert canary.rule.header_pattern == "^v[12]$"

    @pytest.mark.parametrize(
        "annotations",
        [
            {"weight": "101"},
            {"weight": "-1"},
            {"weight_total": "0"},
            {"by_header": "a b"},
            {"by_cookie": "a-b"},
            {"by_header": "x", "by_header_pattern": "("},
            {"by_header": "x", "by_header_value": "\n"},
        ],
    )
    def test_bad_values_are_said(self, annotations: dict[str, str]) -> None:
        found, _ = self.of(self.canary(**annotations))
        assert said(found) == {"new": ["InvalidAnnotation"]}

    def test_one_without_an_ingress_beside_it_is_said(self) -> None:
        for paths, host in (((), "other"), (("Prefix /x",), "h"), (("Exact /",), "h")):
            found, canary = self.of(self.canary(*paths, host=host))
            assert canary is None
            assert said(found) == {"new": ["CanaryWithoutMain"]}

    def test_there_is_one_for_each_path(self) -> None:
        found, canary = self.of(self.canary(), self.canary(name="newer"))
        assert canary is not None
        assert canary.ingress.name == "new"
        assert said(found) == {"newer": ["Conflict"]}

    def test_it_finds_a_path_that_is_an_expression(self) -> None:
        main = ingress(
            "web", "Prefix /a(.*)", host="h", annotations={f"{NGINX}rewrite-target": "/$1"}
        )
        found = made(main, self.canary("Prefix /a(.*)", weight="5"))
        (host,) = (each for each in found.hosts if each.name == "h")
        assert host.patterns[0][1].canary is not None
        assert not found.problems

    def test_its_other_annotations_are_ignored(self) -> None:
        document = self.canary(weight="5")
        document["metadata"]["annotations"][f"{NGINX}rewrite-target"] = "/x"
        found, canary = self.of(document)
        assert canary is not None
        assert not found.problems
