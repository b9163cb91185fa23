"""SIGKILL at random moments of a churn: what the next life finds, and what it leaves.

A program at sk_lookup, its maps and all sockets go with the process. Routes stay, until the next
start or `kproxy run --cleanup`. The process of the tests is in a network namespace of its own.
"""

import ctypes
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.portal.local import bpf
from tests.e2e.conftest import Run
from tests.e2e.local.conftest import Way
from tests.e2e.rig import daemon, manifests, sockets
from tests.portal.local import test_routes

pytestmark = [
    pytest.mark.netns,
    pytest.mark.extra,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make routes"),
]
RANGE = "10.91.0.0/16"
LIVES = 4
_PROG_QUERY = 16


@pytest.fixture(params=Way, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    asked: Way = request.param
    return asked


@pytest.fixture
def aliens() -> Iterator[set[str]]:
    """Local routes of another program, one of them inside of what kproxy serves."""
    made = {"10.91.77.0/24", "203.0.113.200"}
    for each in made:
        test_routes.ip("route", "add", "local", each, "dev", "lo", "proto", "99")
    yield made
    assert test_routes.local_routes("openr") == made, "another program's routes have changed"
    for each in made:
        test_routes.ip("route", "del", "local", each, "dev", "lo", "proto", "99")


def programs() -> int:
    """How many programs are at sk_lookup in this network namespace."""
    ids = (ctypes.c_uint32 * 64)()
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        asked = struct.pack("=IIIIQI", namespace, 36, 0, 0, ctypes.addressof(ids), len(ids))
        held = ctypes.create_string_buffer(asked, bpf._ATTRIBUTE_BYTES)
        bpf._called(_PROG_QUERY, held)
        count: int = struct.unpack_from("=I", held.raw, 24)[0]
        return count
    finally:
        os.close(namespace)


def write(path: Path, pod: daemon.Address, numbers: range) -> None:
    """Services with a ClusterIP and an external IP each."""
    documents = []
    for number in numbers:
        name = f"web-{number}"
        cluster_ip = f"10.91.0.{number}"
        external = [f"203.0.113.{number}"]
        documents.append(manifests.service(name, cluster_ip, 8080, externalIPs=external))
        documents.append(manifests.endpoints(name, [pod]))
    manifests.write(path, *documents)


def churn(path: Path, pod: daemon.Address, is_over: threading.Event) -> None:
    """Write other Services again and again."""
    rng = random.Random(7)
    while not is_over.wait(rng.uniform(0.01, 0.1)):
        first = rng.randrange(1, 40)
        write(path, pod, range(first, first + rng.randrange(1, 40)))


def connects(address: daemon.Address) -> bool:
    try:
        with socket.create_connection(address, 10):
            return True
    except OSError:
        return False


def test_the_next_life_starts_afresh(run: Run, tmp_path: Path, way: Way, aliens: set[str]) -> None:
    path = tmp_path / "services.yaml"
    rng = random.Random()
    flags = (
        *("--portal", "local", "--service-cluster-ip-range", RANGE, *way.flags),
        *("--external-ip-cidrs", "203.0.113.0/24", "--grace-period", "0"),
    )
    with sockets.backend("127.0.0.1") as backend:
        pod = backend.getsockname()
        write(path, pod, range(1, 20))
        for _ in range(LIVES):
            proxy = run(path, *flags)
            is_over = threading.Event()
            churning = threading.Thread(target=churn, args=(path, pod, is_over))
            churning.start()
            try:
                is_over.wait(rng.uniform(0.05, 1.0))  # the moment is what is tried
                proxy.signal(signal.SIGKILL)
                proxy.wait()
            finally:
                is_over.set()
                churning.join()
            assert programs() == 0
            assert RANGE in test_routes.local_routes()

        write(path, pod, range(5, 9))
        last = run(path, *flags)

        wanted = {RANGE, *(f"203.0.113.{number}" for number in range(5, 9))}
        assert test_routes.local_routes() == wanted
        assert programs() == (way is Way.FAST)
        for number in range(1, 12):
            is_served = number in range(5, 9)
            assert connects((f"10.91.0.{number}", 8080)) == is_served
        assert last.stop() == 0, last.log()
        assert "Traceback" not in last.log()
    assert test_routes.local_routes() == set()
    assert programs() == 0


def test_cleanup_removes_what_a_killed_proxy_left(
    run: Run, tmp_path: Path, aliens: set[str]
) -> None:
    path = tmp_path / "services.yaml"
    with sockets.backend("127.0.0.1") as backend:
        write(path, backend.getsockname(), range(1, 4))
        proxy = run(
            *(path, "--portal", "local", "--service-cluster-ip-range", RANGE),
            *("--external-ip-cidrs", "203.0.113.0/24"),
        )
        refused = cleanup()
        assert refused.returncode == 1, "a proxy that runs is left alone"
        assert "stop it first" in refused.stderr
        proxy.signal(signal.SIGKILL)
        proxy.wait()
    assert len(test_routes.local_routes()) == 4

    done = cleanup()

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "4 routes removed\n"
    assert test_routes.local_routes() == set()
    assert cleanup().stdout == "0 routes removed\n"


def cleanup() -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kproxy", "run", "--cleanup"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
