"""Editing a manifest changes the running proxy, and costs no open connection anything.

Cases: C03, C06, C08 of docs/faults.md.

Behaviour: rows 45 and 46 of docs/behaviour.md.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets

SOON = daemon.DEADLINE
"""Seconds in which an edit must be in force; how fast it is, a benchmark says."""


@pytest.fixture
def pods() -> Iterator[list[sockets.Namer]]:
    ips = [manifests.fresh_ip(127) for _ in range(2)]
    with sockets.namers((ips[0], "first"), (ips[1], "second")) as made:
        yield made


def web(cluster_ip: str, *pods: sockets.Namer, port: int = manifests.PORT) -> list[object]:
    """The documents of a Service called web over these pods."""
    return [
        manifests.service("web", cluster_ip, port),
        manifests.endpoints("web", [pod.address for pod in pods]),
    ]


def answers(address: daemon.Address, name: str) -> bool:
    """Whether four connections in a row are answered by `name`."""
    with contextlib.suppress(OSError):
        return {sockets.ask(address, 1.0) for _ in range(4)} == {name}
    return False


def test_a_new_service_becomes_reachable(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer]
) -> None:
    path = manifests.write(tmp_path / "web.yaml")
    proxy = run(path)
    assert proxy.ready["services"] == []
    cluster_ip = manifests.fresh_ip()

    manifests.write(path, *web(cluster_ip, pods[0]))

    address = (manifests.bound(cluster_ip), manifests.PORT)
    daemon.wait_until(lambda: answers(address, "first"), "web answers", SOON)


def test_a_new_file_in_a_directory_is_served_and_its_removal_ends_that(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer]
) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    run(folder)
    cluster_ip = manifests.fresh_ip()
    address = (manifests.bound(cluster_ip), manifests.PORT)

    path = manifests.write(folder / "web.yaml", *web(cluster_ip, pods[0]))
    daemon.wait_until(lambda: answers(address, "first"), "web answers", SOON)
    path.unlink()

    daemon.wait_until(lambda: sockets.is_refused(address), "web is refused", SOON)


def test_an_endpoint_is_replaced(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer]
) -> None:
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(tmp_path / "web.yaml", *web(cluster_ip, pods[0]))
    address = run(path).address("web")
    assert {sockets.ask(address) for _ in range(4)} == {"first"}

    manifests.write(path, *web(cluster_ip, pods[1]))

    daemon.wait_until(lambda: answers(address, "second"), "the other pod answers", SOON)


def test_a_service_that_loses_its_endpoints_refuses_until_it_has_some(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer]
) -> None:
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(tmp_path / "web.yaml", *web(cluster_ip, pods[0]))
    address = run(path).address("web")

    manifests.write(path, *web(cluster_ip))
    daemon.wait_until(lambda: sockets.is_refused(address), "web is refused", SOON)
    manifests.write(path, *web(cluster_ip, pods[1]))

    daemon.wait_until(lambda: answers(address, "second"), "web answers again", SOON)


@pytest.mark.parametrize(
    "last_words",
    [
        pytest.param("spec", id="not YAML"),
        pytest.param("spec:", id="YAML, but no Service, and the endpoints are missing"),
    ],
)
def test_a_half_written_file_changes_nothing_says_so_and_heals(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer], last_words: str
) -> None:
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(tmp_path / "web.yaml", *web(cluster_ip, pods[0]))
    proxy = run(path)
    address = proxy.address("web")
    good = path.read_text()

    os.truncate(path, good.index("spec:") + len(last_words))  # in place, and in one step
    daemon.wait_until(lambda: proxy.log_lines("[error", "web.yaml"), "the error is told", SOON)

    assert {sockets.ask(address) for _ in range(4)} == {"first"}
    (complaint,) = proxy.wait_logged("[error")
    assert "stays" in complaint
    manifests.write(path, *web(cluster_ip, pods[1]))
    daemon.wait_until(lambda: answers(address, "second"), "the mended file counts", SOON)
    assert "Traceback" not in proxy.log()


def test_a_connection_outlives_its_endpoint(tmp_path: Path, run: conftest.Run) -> None:
    cluster_ip = manifests.fresh_ip()
    ip = manifests.fresh_ip(127)
    with sockets.backend(ip) as old, sockets.namers((ip, "new")) as (new,):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, manifests.PORT),
            manifests.endpoints("web", [old.getsockname()]),
        )
        address = run(path).address("web")
        with sockets.stream(address, old) as through:
            manifests.write(path, *web(cluster_ip, new))
            daemon.wait_until(lambda: answers(address, "new"), "the new pod answers", SOON)

            through.check()


def test_a_connection_outlives_its_service(tmp_path: Path, run: conftest.Run) -> None:
    cluster_ip = manifests.fresh_ip()
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, manifests.PORT),
            manifests.endpoints("web", [pod.getsockname()]),
        )
        proxy = run(path)
        address = proxy.address("web")
        with sockets.stream(address, pod) as through:
            manifests.write(path)
            daemon.wait_until(lambda: sockets.is_refused(address), "web is closed", SOON)

            assert not proxy.listening()
            through.check()


def test_a_connection_outlives_a_change_of_port(tmp_path: Path, run: conftest.Run) -> None:
    cluster_ip = manifests.fresh_ip()
    with sockets.backend(manifests.fresh_ip(127)) as pod:
        given = manifests.endpoints("web", [pod.getsockname()])
        path = manifests.write(
            tmp_path / "web.yaml", manifests.service("web", cluster_ip, manifests.PORT), given
        )
        proxy = run(path)
        ip, _ = address = proxy.address("web")
        other_port = manifests.free_port(ip)
        with sockets.stream(address, pod) as through:
            manifests.write(path, manifests.service("web", cluster_ip, other_port), given)
            daemon.wait_until(lambda: (ip, other_port) in proxy.listening(), "it is open", SOON)

            daemon.wait_until(lambda: sockets.is_refused(address), "the other one is not", SOON)
            with sockets.stream((ip, other_port), pod) as other:
                other.check()
            through.check()


def test_a_cluster_ip_changes_hands_without_reaching_the_old_pods(
    tmp_path: Path, run: conftest.Run, pods: list[sockets.Namer]
) -> None:
    cluster_ip = manifests.fresh_ip()
    path = manifests.write(tmp_path / "web.yaml", *web(cluster_ip, pods[0]))
    address = run(path).address("web")

    manifests.write(
        path,
        manifests.service("api", cluster_ip, manifests.PORT),
        manifests.endpoints("api", [pods[1].address]),
    )

    daemon.wait_until(lambda: answers(address, "second"), "the new owner answers", SOON)
