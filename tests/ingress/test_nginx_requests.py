"""What a real nginx makes of requests, with the configuration of many Ingresses."""

import contextlib
import http.client
import socket
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509

from kproxy.ingress import nginx_config
from kproxy.model import addresses, names
from tests.ingress.rig import nginx_rig, objects
from tests.ingress.rig.sites import DOCUMENTS, annotated

pytestmark = nginx_rig.needs_nginx


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nginx_rig.Nginx]:
    made = objects.made(*DOCUMENTS)
    with nginx_rig.Nginx(tmp_path_factory.mktemp("n"), redirect_port=443) as started:

        def upstream(target: names.ServicePortName) -> tuple[addresses.SocketAddress, ...]:
            return () if target.service.name == "gone" else started.backends(target)

        started.serve(made, upstream)
        yield started


class TestAnswers:
    @pytest.mark.parametrize("host", ["other.example", "10.0.0.1", "", "x.plain.example"])
    def test_404_for_a_host_that_no_rule_has(self, nginx: nginx_rig.Nginx, host: str) -> None:
        answer = nginx.get(host, "/")
        assert answer.status == (404 if host else 400)
        assert not answer.backend

    def test_404_says_what_is_not_there(self, nginx: nginx_rig.Nginx) -> None:
        answer = nginx.get("other.example", "/")
        assert answer.body == b"404: no Ingress has a rule for this host and path"
        assert answer.headers["Content-Type"] == "text/plain"
        assert answer.headers["Server"] == "nginx"

    @pytest.mark.parametrize("host", ["gone.example", "guarded.example"])
    def test_503_where_there_is_nothing_to_ask(self, nginx: nginx_rig.Nginx, host: str) -> None:
        answer = nginx.get(host, "/")
        assert answer.status == 503
        assert not answer.backend

    @pytest.mark.parametrize("path", ["/", "/e/"])
    @pytest.mark.parametrize(
        ("host", "status"), [("inside", 200), ("outside", 403), ("denied", 403), ("undenied", 200)]
    )
    def test_403_for_clients_that_are_kept_out(
        self, nginx: nginx_rig.Nginx, host: str, path: str, status: int
    ) -> None:
        assert nginx.get(f"{host}.example", path).status == status

    @pytest.mark.parametrize(
        ("path", "is_found"), [("/e/", True), ("/e", True), ("/i/x", True), ("/i", True)]
    )
    def test_no_path_is_redirected_to_one_with_a_slash(
        self, nginx: nginx_rig.Nginx, path: str, *, is_found: bool
    ) -> None:
        assert nginx.get("plain.example", path).status == (200 if is_found else 404)

    def test_the_version_is_asked_for_by_the_control_socket_only(
        self, nginx: nginx_rig.Nginx
    ) -> None:
        answer = nginx.get("plain.example", nginx_config.VERSION_PATH)
        assert answer.asked["path"] == nginx_config.VERSION_PATH


class TestRequests:
    def test_backends_learn_where_a_request_comes_from(self, nginx: nginx_rig.Nginx) -> None:
        forged = {
            "X-Forwarded-For": "1.2.3.4",
            "X-Forwarded-Proto": "https",
            "X-Real-IP": "1.2.3.4",
            "Proxy": "http://evil.example",
        }
        answer = nginx.get("plain.example:8080", "/x?y=z", headers=forged)
        headers = answer.asked["headers"]
        assert answer.asked["path"] == "/x?y=z"
        assert headers["host"] == "plain.example:8080"
        assert headers["x-forwarded-host"] == "plain.example:8080"
        assert headers["x-forwarded-for"] == headers["x-real-ip"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == headers["x-scheme"] == "http"
        assert headers["x-forwarded-port"] == str(nginx.http.port)
        assert len(headers["x-request-id"]) == 32
        assert "proxy" not in headers

    def test_a_host_in_the_request_line_is_the_one_that_backends_get(
        self, nginx: nginx_rig.Nginx
    ) -> None:
        answer = nginx.get("other.example:8080", "http://plain.example:8080/x?y=http://z/")
        headers = answer.asked["headers"]
        assert answer.asked["path"] == "/x?y=http://z/"
        assert headers["host"] == headers["x-forwarded-host"] == "plain.example"

    def test_a_url_in_a_query_is_none_in_the_request_line(self, nginx: nginx_rig.Nginx) -> None:
        answer = nginx.get("plain.example:8080", "/x?y=http://other.example/")
        assert answer.asked["headers"]["host"] == "plain.example:8080"

    def test_by_tls_they_learn_that(self, nginx: nginx_rig.Nginx) -> None:
        headers = nginx.get_by_tls("plain.example", "/").asked["headers"]
        assert headers["x-forwarded-proto"] == "https"
        assert headers["x-forwarded-port"] == str(nginx.https.port)

    def test_a_clients_request_id_is_kept(self, nginx: nginx_rig.Nginx) -> None:
        answer = nginx.get("plain.example", "/", headers={"X-Request-ID": "mine"})
        assert answer.asked["headers"]["x-request-id"] == "mine"

    def test_a_path_is_passed_on_as_it_is(self, nginx: nginx_rig.Nginx) -> None:
        path = "/a%20b/%2F/c;d/$e?f=%20&g=/"
        assert nginx.get("plain.example", path).asked["path"] == path

    def test_while_there_are_few_clients_each_request_has_a_connection(
        self, nginx: nginx_rig.Nginx
    ) -> None:
        before = nginx.backends.connections
        for _ in range(16):
            answer = nginx.get("unlimited.example", "/")
            assert answer.asked["headers"]["connection"] == "close"
        assert nginx.backends.connections - before == 16

    def test_with_many_clients_connections_are_kept_for_some_requests(
        self, nginx: nginx_rig.Nginx
    ) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection(nginx.http, nginx_rig.DEADLINE))
            nginx.wait_until(
                lambda: not nginx.get("plain.example", "/").asked["headers"].get("connection"),
                "nginx has accepted them all",
            )
            before = nginx.backends.connections
            for _ in range(110):  # a connection has 100; nginx keeps idle clients for a minute
                assert nginx.get("unlimited.example", "/").status == 200
            assert nginx.backends.connections - before == 2

    def test_an_upgrade_is_passed_on(self, nginx: nginx_rig.Nginx) -> None:
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        connection = http.client.HTTPConnection(*nginx.http, timeout=nginx_rig.DEADLINE)
        connection.request("GET", "/", headers={"Host": "plain.example", **upgrade})
        headers = nginx_rig.read(connection).asked["headers"]
        assert (headers["upgrade"], headers["connection"]) == ("websocket", "upgrade")

    def test_bodies_have_a_limit(self, nginx: nginx_rig.Nginx) -> None:
        def post(host: str, path: str, length: int) -> int:
            return nginx.get(host, path, method="POST", body=b"x" * length).status

        assert post("small.example", "/", 10) == 200
        assert post("small.example", "/", 11) == 413
        assert post("small.example", "/large/", 10) == 200
        assert post("small.example", "/large/", 11) == 413
        assert post("plain.example", "/", 1 << 20) == 200
        assert post("plain.example", "/e/", 1 << 20) == 200
        assert post("plain.example", "/", (1 << 20) + 1) == 413
        assert post("unlimited.example", "/", (1 << 20) + 1) == 200

    def test_an_expression_takes_nothing_over_from_the_path_around_it(
        self, nginx: nginx_rig.Nginx
    ) -> None:
        """They can be of two Ingresses."""
        post = {"method": "POST", "body": b"x" * 11}
        assert nginx.get("around.example", "/small/1").status == 403
        assert nginx.get("around.example", "/small/1", **post).status == 413
        answer = nginx.get("around.example", "/small/a", **post)
        assert (answer.status, answer.backend) == (200, "other/nested")


class TestRetries:
    def test_a_request_goes_to_another_address_when_one_refuses(
        self, nginx: nginx_rig.Nginx, tmp_path: Path
    ) -> None:
        """With endpoints as upstreams; kproxy's frontends try other endpoints themselves."""
        (alive,) = nginx.backends(names.ServicePortName(names.NamespacedName("default", "plain")))
        with nginx_rig.Nginx(tmp_path) as other:
            made = objects.made(annotated("plain"))
            other.serve(made, lambda _: (nginx_rig.unused(), alive))
            assert {other.get("plain.example", "/").status for _ in range(6)} == {200}

    def test_a_connection_that_was_closed_is_replaced(self, nginx: nginx_rig.Nginx) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(socket.create_connection(nginx.http, nginx_rig.DEADLINE))
            for _ in range(10):
                assert nginx.get("plain.example", "/").status == 200
                nginx.backends.hang_up()


class TestRewrites:
    @pytest.mark.parametrize(
        ("host", "asked", "path"),
        [
            ("rewritten", "/app", "/"),
            ("rewritten", "/app/x", "/"),
            ("rewritten", "/app/x?y=z", "/?y=z"),
            ("captured", "/app", "/"),
            ("captured", "/app/", "/"),
            ("captured", "/app/x/y", "/x/y"),
            ("captured", "/APP/x%20y?z=1", "/x%20y?z=1"),
            ("captured", "/q/abc/d", "/d"),
            ("with-query", "/a/x?y=z", "/b?c=d&y=z"),
        ],
    )
    def test_backends_see_another_path(
        self, nginx: nginx_rig.Nginx, host: str, asked: str, path: str
    ) -> None:
        assert nginx.get(f"{host}.example", asked).asked["path"] == path

    @pytest.mark.parametrize("asked", ["/apple", "/", "/q/1/d"])
    def test_other_paths_are_not_found(self, nginx: nginx_rig.Nginx, asked: str) -> None:
        assert nginx.get("captured.example", asked).status == 404


class TestTls:
    def names_for(self, nginx: nginx_rig.Nginx, host: str) -> list[str]:
        leaf = x509.load_der_x509_certificate(nginx.certificate(host))
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return found.value.get_values_for_type(x509.DNSName)

    @pytest.mark.parametrize(
        ("host", "has_own"),
        [
            ("own.example", True),
            ("a.wild.example", True),
            ("a.b.wild.example", False),
            ("plain.example", False),
            ("unknown.example", False),
        ],
    )
    def test_the_name_that_a_client_asks_for_chooses(
        self, nginx: nginx_rig.Nginx, host: str, *, has_own: bool
    ) -> None:
        expected = ["own.example", "*.wild.example"] if has_own else ["kproxy.invalid"]
        assert self.names_for(nginx, host) == expected

    @pytest.mark.parametrize("host", ["own.example", "x.wild.example", "plain.example"])
    def test_every_host_is_served(self, nginx: nginx_rig.Nginx, host: str) -> None:
        answer = nginx.get_by_tls(host, "/")
        assert answer.status == 200
        assert answer.asked["headers"]["host"] == host

    @pytest.mark.parametrize(
        ("host", "redirects"),
        [("own", True), ("x.wild", True), ("forced", True), ("open", False), ("plain", False)],
    )
    def test_http_is_redirected(
        self, nginx: nginx_rig.Nginx, host: str, *, redirects: bool
    ) -> None:
        answer = nginx.get(f"{host}.example", "/a%20b?c=d", method="POST", body=b"x")
        assert answer.status == (308 if redirects else 200)
        there = f"https://{host}.example/a%20b?c=d" if redirects else None
        assert answer.headers.get("Location") == there

    def test_http_2_is_offered(self, nginx: nginx_rig.Nginx) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(nginx.https, timeout=nginx_rig.DEADLINE) as raw,
            context.wrap_socket(raw, server_hostname="own.example") as secured,
        ):
            assert secured.selected_alpn_protocol() == "h2"
            assert secured.version() == "TLSv1.3"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_old_versions_of_tls_are_refused(
        self, nginx: nginx_rig.Nginx, version: ssl.TLSVersion
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(nginx.https, timeout=nginx_rig.DEADLINE) as raw,
            pytest.raises((ssl.SSLError, OSError)),
        ):
            context.wrap_socket(raw, server_hostname="own.example")


class TestCanaries:
    def backend(
        self, nginx: nginx_rig.Nginx, host: str, headers: Mapping[str, str] | None = None
    ) -> str:
        return nginx.get(f"{host}.example", "/", headers=headers).backend

    def test_a_share_of_requests_goes_to_it(self, nginx: nginx_rig.Nginx) -> None:
        asked = Counter(self.backend(nginx, "main") for _ in range(400))
        assert asked.keys() == {"default/main", "default/canary"}
        assert 60 <= asked["default/canary"] <= 180  # 120 expected, six times the deviation

    @pytest.mark.parametrize(
        ("headers", "target"),
        [
            ({"X-Canary": "always"}, "canary"),
            ({"X-Canary": "never"}, "main"),
            ({"Cookie": "canary=always"}, "canary"),
            ({"Cookie": "canary=never"}, "main"),
            ({"X-Canary": "never", "Cookie": "canary=always"}, "main"),
            ({"X-Canary": "always", "Cookie": "canary=never"}, "canary"),
            ({"X-Canary": "perhaps", "Cookie": "canary=always"}, "canary"),
        ],
    )
    def test_a_header_decides_before_a_cookie_and_both_before_the_share(
        self, nginx: nginx_rig.Nginx, headers: dict[str, str], target: str
    ) -> None:
        asked = {self.backend(nginx, "main", headers) for _ in range(20)}
        assert asked == {f"default/{target}"}

    @pytest.mark.parametrize(
        ("value", "target"),
        [
            ('a.b "$host" \\', "canary-valued"),
            ('A.b "$host" \\', "valued"),
            ('aXb "$host" \\', "valued"),
            ("always", "valued"),
            ("", "valued"),
        ],
    )
    def test_a_header_has_a_value(self, nginx: nginx_rig.Nginx, value: str, target: str) -> None:
        assert self.backend(nginx, "valued", {"X-Canary": value}) == f"default/{target}"

    @pytest.mark.parametrize(
        ("value", "target"),
        [("v1", "canary-matched"), ("v2", "canary-matched"), ("v3", "matched"), ("V1", "matched")],
    )
    def test_a_header_matches(self, nginx: nginx_rig.Nginx, value: str, target: str) -> None:
        assert self.backend(nginx, "matched", {"X-Canary": value}) == f"default/{target}"
