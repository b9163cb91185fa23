"""A file in which ten documents are wrong, each in its own way, and one Service is right."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

_REAL = "10.244.3.1"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemon.Daemon]:
    """A proxy on the broken file, with a real backend in the place of good-one's.

    Loopback endpoints are allowed for that, so the file's own 127.0.0.1 is no mistake here; see
    `test_an_endpoint_on_loopback_is_never_dialled_unless_allowed`.
    """
    folder = tmp_path_factory.mktemp("broken")
    with sockets.namers((manifests.fresh_ip(127), "good-one answers")) as (real,):
        text = (manifests.EXAMPLES / "broken.yaml").read_text()
        ip, port = real.address
        given = f"addresses: [{{ip: {_REAL}}}], ports: [{{port: 8080}}]"
        assert given in text
        path = folder / "broken.yaml"
        path.write_text(
            text.replace(given, f"addresses: [{{ip: {ip}}}], ports: [{{port: {port}}}]")
        )
        with daemon.running(folder / "kproxy", path) as proxy:
            proxy.wait_logged("ready ")  # what is wrong with the file is logged before
            yield proxy
            assert proxy.stop() == 0


def complaints(proxy: daemon.Daemon) -> list[str]:
    """What it has said at warning level or above."""
    return [*proxy.log_lines("[warning"), *proxy.log_lines("[error")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param(
            "document 1: Service default/port-out-of-range",
            ["spec.ports[0].port", "70000", "1 to 65535", "skipped"],
            id="a port out of range",
        ),
        pytest.param(
            "document 2: Service default/two-unnamed-ports",
            ["spec.ports[0].name", "spec.ports[1].name", "more than one port", "skipped"],
            id="two ports without names",
        ),
        pytest.param(
            "document 3: Service default/not-an-ip",
            ["spec.clusterIP", "10.0.30.999", "IP address", "skipped"],
            id="a ClusterIP that is no address",
        ),
        pytest.param(
            "document 4: Service default/affinity-too-long",
            ["timeoutSeconds", "90000", "1 to 86400", "skipped"],
            id="an affinity timeout out of range",
        ),
        pytest.param(
            "document 7: Endpoints default/bad-endpoints",
            ["169.254.169.254", "link-local", "224.0.0.1", "multicast", "left out"],
            id="endpoints that no proxy may dial",
        ),
        pytest.param(
            "service=default/same-ip-as-good-one",
            ["10.0.30.4:8080", "taken", "owner=default/good-one"],
            id="a ClusterIP that another has",
        ),
        pytest.param("document 9: ", ["is a list", "mapping", "skipped"], id="a list"),
        pytest.param(
            "document 10: Service without a name",
            ["metadata.name", "absent", "skipped"],
            id="no metadata",
        ),
    ],
)
def test_each_bad_document_is_named_once_with_the_reason(
    broken: daemon.Daemon, name: str, said: list[str]
) -> None:
    lines = [line for line in complaints(broken) if name in line]

    assert len(lines) == 1
    assert [word for word in said if word not in lines[0]] == []


def test_every_complaint_about_a_document_says_which_file(broken: daemon.Daemon) -> None:
    about_documents = broken.log_lines(", document ")

    assert len(about_documents) == 7
    named = [re.search(r"broken\.yaml:(\d+), document (\d+)", line) for line in about_documents]
    assert [match and match[2] for match in named] == ["1", "2", "3", "4", "7", "9", "10"]
    lines = (manifests.EXAMPLES / "broken.yaml").read_text().splitlines()
    for match in named:
        assert match
        assert lines[int(match[1]) - 1].startswith(("apiVersion", "- ", "kind"))


def test_the_good_documents_are_not_complained_about(broken: daemon.Daemon) -> None:
    assert len(complaints(broken)) == 8
    assert not [line for line in complaints(broken) if "document 5" in line or "document 6" in line]


def test_the_good_one_is_served_and_its_rival_is_shown_as_colliding(broken: daemon.Daemon) -> None:
    rival = broken.service("same-ip-as-good-one")["frontends"][0]

    assert sockets.ask(broken.address("good-one")) == "good-one answers"
    assert rival["state"] == "collision"
    assert broken.listening() == {("127.0.30.4", 8080)}


def test_an_endpoint_on_loopback_is_never_dialled_unless_allowed(
    tmp_path: Path, run: conftest.Run
) -> None:
    with sockets.backend(manifests.fresh_ip(127)) as canary:
        cluster_ip = manifests.fresh_ip()
        path = manifests.write(
            tmp_path / "ssrf.yaml",
            manifests.service("ssrf", cluster_ip, manifests.PORT),
            manifests.endpoints("ssrf", [canary.getsockname()]),
        )
        proxy = run(path, allow_loopback=False)

        assert sockets.is_refused((manifests.bound(cluster_ip), manifests.PORT))
        daemon.wait_until(
            lambda: proxy.log_lines("[warning", "Endpoints default/ssrf", "loopback"), "a warning"
        )
        canary.setblocking(False)
        with pytest.raises(BlockingIOError):
            canary.accept()


def test_no_traceback_is_shown(broken: daemon.Daemon) -> None:
    assert "Traceback" not in broken.log()
