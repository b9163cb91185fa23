"""What a user without rights gets: everything, with low ports moved up.

Cases: S05, S16 of docs/faults.md.
"""

import contextlib
import os
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import manifests, programs, sockets

_FIRST_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def test_without_the_right_to_bind_it_port_80_is_served_at_10080(
    tmp_path: Path, run: conftest.Run
) -> None:
    if int(_FIRST_UNPRIVILEGED.read_text()) <= 80:
        pytest.skip("port 80 needs no privilege here: see net.ipv4.ip_unprivileged_port_start")
    cluster_ip = manifests.fresh_ip()
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, 80),
            manifests.endpoints("web", [pod.address]),
        )
        proxy = run(path, wrapper=programs.unprivileged())

        assert proxy.address("web") == (manifests.bound(cluster_ip), 10080)
        assert sockets.ask(proxy.address("web")) == "pod"
        assert len(proxy.wait_logged(f"{cluster_ip}:80", ":10080")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may bind every port")
def test_with_the_right_to_bind_it_port_80_is_served_at_80(
    tmp_path: Path, run: conftest.Run
) -> None:
    cluster_ip = manifests.fresh_ip()
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        path = manifests.write(
            tmp_path / "web.yaml",
            manifests.service("web", cluster_ip, 80),
            manifests.endpoints("web", [pod.address]),
        )
        proxy = run(path)

        assert proxy.address("web") == (manifests.bound(cluster_ip), 80)
        assert sockets.ask(proxy.address("web")) == "pod"


def test_nothing_listens_outside_loopback_whatever_a_service_asks_for(
    tmp_path: Path, run: conftest.Run
) -> None:
    asked = ["8.8.8.8", "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.1.1"]
    port = manifests.free_port("127.0.0.1")
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (pod,):
        documents = [
            each
            for number, cluster_ip in enumerate(asked)
            for each in (
                manifests.service(f"s{number}", cluster_ip, port, externalIPs=["192.0.2.7"]),
                manifests.endpoints(f"s{number}", [pod.address]),
            )
        ]
        proxy = run(manifests.write(tmp_path / "odd.yaml", *documents))
        listening = proxy.listening()

    assert ("127.8.8.8", port) in listening
    assert [ip for ip, _ in listening if not ip.startswith("127.")] == []


def capabilities(pid: int) -> dict[str, int]:
    """The sets of capabilities of all threads of a process, as the kernel says; the union."""
    found: dict[str, int] = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            for line in status.read_text().splitlines():
                if line.startswith("Cap"):
                    name, value = line.split()
                    found[name] = found.get(name, 0) | int(value, 16)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to lose")
def test_root_keeps_the_right_to_bind_low_ports_and_nothing_else(
    tmp_path: Path, run: conftest.Run
) -> None:
    path = manifests.write(
        tmp_path / "web.yaml", manifests.service("web", manifests.fresh_ip(), 80)
    )

    proxy = run(path, "--oom-score-adj", "987")

    kept = 1 << 10  # CAP_NET_BIND_SERVICE
    assert Path(f"/proc/{proxy.pid}/oom_score_adj").read_text() == "987\n"
    assert {value & ~kept for value in capabilities(proxy.pid).values()} == {0}
    assert capabilities(proxy.pid)["CapEff:"] == kept
    assert proxy.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to read another user's file")
def test_the_right_to_read_another_users_file_is_kept_where_one_is_named(
    tmp_path: Path, run: conftest.Run
) -> None:
    path = manifests.write(
        tmp_path / "web.yaml", manifests.service("web", manifests.fresh_ip(), 80)
    )
    path.chmod(0o600)
    os.chown(path, 65534, 65534)

    proxy = run(path)

    assert capabilities(proxy.pid)["CapEff:"] == 1 << 10 | 1 << 2  # and CAP_DAC_READ_SEARCH
    assert capabilities(proxy.pid)["CapBnd:"] == 1 << 10  # which plugins do not get
    assert proxy.wait_logged("right to read every file", str(path))
