"""nginx behind a Service, asked with curl."""

from pathlib import Path

from tests.e2e import conftest
from tests.e2e.rig import manifests, programs


def test_curl_sees_two_nginx_alternate(tmp_path: Path, run: conftest.Run) -> None:
    first, second = manifests.fresh_ip(127), manifests.fresh_ip(127)
    backends = [(ip, manifests.free_port(ip)) for ip in (first, second)]
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(
        tmp_path / "web.yaml",
        manifests.service("web", cluster_ip, manifests.PORT),
        manifests.endpoints("web", backends),
    )
    with programs.nginx(tmp_path / "nginx", *backends):
        run(path)
        url = f"http://{manifests.bound(cluster_ip)}:{manifests.PORT}/"
        answers = [programs.curl(url) for _ in range(6)]

    assert answers in ([first, second] * 3, [second, first] * 3)
