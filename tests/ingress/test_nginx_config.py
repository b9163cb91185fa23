"""nginx's configuration: its text, its files, and what nginx says of them."""

from pathlib import Path
from typing import Any

import pytest

from kproxy.ingress import nginx_config, table
from kproxy.model import addresses
from tests.ingress.rig import nginx_rig, objects
from tests.ingress.rig.objects import ingress
from tests.ingress.rig.sites import DOCUMENTS, NGINX, annotated

pytestmark = nginx_rig.needs_nginx


def settings(**more: Any) -> nginx_config.Settings:
    given: dict[str, Any] = {
        "directory": "/run/kproxy-test",
        "control": "unix:/run/kproxy-test/control",
        "default_certificate": nginx_rig.DEFAULT_CERTIFICATE,
        "http": (addresses.SocketAddress("127.0.0.1", 80),),
        "https": (addresses.SocketAddress("::1", 443),),
    }
    return nginx_config.Settings(**(given | more))


class TestRendering:
    MADE = objects.made(*DOCUMENTS)

    def test_the_same_table_gives_the_same_text(self) -> None:
        first = nginx_config.render(self.MADE, settings(), objects.somewhere)
        again = nginx_config.render(objects.made(*DOCUMENTS), settings(), objects.somewhere)
        assert first == again

    def test_another_gives_another_version(self) -> None:
        versions = {
            nginx_config.render(made, settings(**more), upstream).version
            for made, more, upstream in (
                (self.MADE, {}, objects.somewhere),
                (self.MADE, {}, objects.nowhere),
                (table.EMPTY, {}, objects.nowhere),
                (table.EMPTY, {"workers": 3}, objects.nowhere),
                (table.EMPTY, {"https": ()}, objects.nowhere),
                (objects.made(*DOCUMENTS[:-1]), {}, objects.somewhere),
            )
        }
        assert len(versions) == 6

    def test_files_are_named_by_their_content(self) -> None:
        found = nginx_config.render(self.MADE, settings(), objects.somewhere)
        assert len(found.files) == 4
        for name, content in found.files.items():
            assert f"/run/kproxy-test/{name};" in found.text
            assert (b"PRIVATE KEY" in content) is name.endswith(".key")
        assert "PRIVATE" not in found.text
        assert "PRIVATE" not in repr(found)

    def test_without_https_there_is_no_tls_and_no_redirect(self) -> None:
        found = nginx_config.render(self.MADE, settings(https=()), objects.somewhere)
        assert not found.files
        assert "ssl" not in found.text
        assert "308" not in found.text

    @pytest.mark.parametrize(
        ("version", "is_option"), [((), True), ((1, 22, 1), True), ((1, 25, 1), False)]
    )
    def test_http_2_is_asked_for_as_the_version_has_it(
        self, version: tuple[int, ...], *, is_option: bool
    ) -> None:
        made = settings(version=version)
        text = nginx_config.render(self.MADE, made, objects.somewhere).text
        assert ("ssl http2;" in text) is is_option
        assert ("\n  http2 on;" in text) is not is_option

    def test_a_path_with_a_dollar_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"no path with a \$"):
            settings(directory="/tmp/$x")

    def test_upstreams_of_several_protocols_share_no_connections(self) -> None:
        made = objects.made(
            annotated("a", "Prefix / -> web"),
            annotated("b", "Prefix / -> web", backend_protocol="GRPC"),
            annotated("c", "Prefix / -> web", backend_protocol="HTTPS"),
        )
        text = nginx_config.render(made, settings(), objects.somewhere).text
        for passing in (
            'proxy_pass "http://web.default.only.http"',
            'grpc_pass "grpc://web.default.only.grpc"',
            'proxy_pass "https://web.default.only.https"',
        ):
            assert passing in text

    def test_an_address_is_never_thought_to_be_down(self) -> None:
        """Or else one bad moment would be ten seconds of 502."""
        text = nginx_config.render(self.MADE, settings(), objects.somewhere).text
        assert "127.0.0.1:9 max_fails=0;" in text

    def test_a_configuration_is_made_in_many_steps(self) -> None:
        made = objects.made(*(annotated(f"h{number}") for number in range(100)))
        taken = nginx_config.render_in_steps(made, settings(), objects.somewhere)
        assert sum(1 for _ in taken) > 200

    @pytest.mark.parametrize("length", [20, 60, 120, 200, 253])
    def test_names_of_any_length_fit(self, tmp_path: Path, length: int) -> None:
        host = ".".join("a" * 40 for _ in range(7))[: length - 2] + ".b"
        made = objects.made(ingress("web", "Prefix /", "Exact /" + "x" * 1000, host=host))
        given = settings(
            directory=str(tmp_path),
            control=f"unix:{tmp_path}/control",
            http=(nginx_rig.unused(),),
            https=(nginx_rig.unused(),),
            version=nginx_rig.version(),
        )
        text = nginx_config.render(made, given, objects.somewhere)
        nginx_rig.checked(nginx_rig.written(text, tmp_path))

    @pytest.mark.extra
    @pytest.mark.parametrize("suffix", [".example", f".{'a' * 60}.{'b' * 60}.example"])
    def test_tables_have_room_for_thousands_of_hosts(self, tmp_path: Path, suffix: str) -> None:
        """Of a table that is full, nginx says so at each reload."""
        hosts = [f"h{number}{suffix}" for number in range(3000)]
        mains = [
            ingress(f"m{number}", "Prefix /", host=host, service="web")
            for number, host in enumerate(hosts)
        ]
        given = {f"{NGINX}canary": "true", f"{NGINX}canary-by-cookie": "c"}
        others = [
            ingress(f"c{number}", "Prefix /", host=host, service="new", annotations=given)
            for number, host in enumerate(hosts[:500])
        ]
        made = settings(
            directory=str(tmp_path),
            control=f"unix:{tmp_path}/control",
            http=(nginx_rig.unused(),),
            https=(nginx_rig.unused(),),
            version=nginx_rig.version(),
        )
        found = nginx_config.render(objects.made(*mains, *others), made, objects.somewhere)
        nginx_rig.checked(nginx_rig.written(found, tmp_path))
