"""Where manifests come from: standard input, several paths, and places where strangers write."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import conftest
from tests.e2e.rig import daemon, manifests, sockets


@pytest.fixture
def pod() -> Iterator[sockets.Namer]:
    with sockets.namers((manifests.fresh_ip(127), "pod")) as (made,):
        yield made


def web(folder: Path, pod: sockets.Namer, name: str = "web") -> tuple[Path, daemon.Address]:
    """A file with a Service over `pod`, and where that is bound."""
    ip = manifests.fresh_ip()
    documents = manifests.service(name, ip, 8080), manifests.endpoints(name, [pod.address])
    return manifests.write(folder / f"{name}.yaml", *documents), (manifests.bound(ip), 8080)


@contextlib.contextmanager
def with_input(folder: Path, stdin: int, *flags: str) -> Iterator[daemon.Daemon]:
    """`kproxy run -f -` with this on standard input."""
    ready, log = folder / "ready.json", folder / "log"
    command = [sys.executable, "-m", "kproxy", "run", "-f", "-", "--ready-file", str(ready)]
    command += ["--healthz-bind-address", "", "--metrics-bind-address", "", *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--allow-loopback-endpoints"],
            stdin=stdin,
            stderr=file,
            env={**daemon.ENVIRONMENT, "XDG_RUNTIME_DIR": str(folder)},
            start_new_session=True,
        )
    try:
        yield daemon.Daemon(process, ready, log)
    finally:
        daemon.end(process)


def test_standard_input_is_served_and_not_followed(tmp_path: Path, pod: sockets.Namer) -> None:
    file, address = web(tmp_path, pod)
    with file.open("rb") as stdin, with_input(tmp_path, stdin.fileno()) as proxy:
        proxy.wait_ready()
        assert sockets.ask(address) == "pod"
        assert proxy.wait_logged("standard input: it is read once")
        assert proxy.stop() == 0


def test_standard_input_goes_together_with_files(tmp_path: Path, pod: sockets.Namer) -> None:
    first, from_input = web(tmp_path, pod)
    second, from_file = web(tmp_path, pod, "other")
    with (
        first.open("rb") as stdin,
        with_input(tmp_path, stdin.fileno(), "-f", str(second)) as proxy,
    ):
        proxy.wait_ready()
        assert sockets.ask(from_input) == sockets.ask(from_file) == "pod"


def test_standard_input_that_does_not_end_holds_neither_others_nor_the_end_up(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    file, address = web(tmp_path, pod)
    reading, writing = os.pipe()
    try:
        with with_input(tmp_path, reading, "-f", str(file)) as proxy:
            proxy.wait_ready()
            assert proxy.wait_logged("standard input: reading it takes long")
            assert sockets.ask(address) == "pod"
            assert proxy.stop() == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_empty_standard_input_is_said(tmp_path: Path) -> None:
    with with_input(tmp_path, subprocess.DEVNULL) as proxy:
        proxy.wait_ready()
        assert proxy.wait_logged("standard input: nothing came on it")


@pytest.mark.parametrize("place", ["directory", "parent"])
def test_h2_a_stranger_with_a_name_that_is_not_utf_8_ends_nothing(
    tmp_path: Path, run: conftest.Run, pod: sockets.Namer, place: str
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    file, address = web(folder, pod)
    os.mknod(os.fsencode(folder if place == "directory" else tmp_path) + b"/\xff.yaml")
    proxy = run(file if place == "directory" else folder)
    os.mknod(os.fsencode(folder if place == "directory" else tmp_path) + b"/\xfe\n")
    assert sockets.ask(address) == "pod"
    file.write_text("")
    daemon.wait_until(lambda: sockets.is_refused(address), "web is refused")
    assert proxy.stop() == 0


def test_a_service_without_a_cluster_ip_gets_the_same_one_again(
    tmp_path: Path, pod: sockets.Namer
) -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 8080}]}\n"
    ip, port = pod.address
    text += (
        "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
        f"subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{port: {port}}}]}}]\n"
    )
    file = tmp_path / "web.yaml"
    file.write_text(text)
    addresses = set()
    for life in ("one", "two"):
        with daemon.running(tmp_path / life, file) as proxy:
            addresses.add(proxy.address("web"))
            assert sockets.ask(proxy.address("web")) == "pod"
            assert proxy.wait_logged("spec.clusterIP is absent: it gets 10.")
    assert len(addresses) == 1


def test_an_edit_is_logged_and_so_is_the_mending_of_a_file(
    tmp_path: Path, run: conftest.Run, pod: sockets.Namer
) -> None:
    file, _ = web(tmp_path, pod)
    good = file.read_text()
    proxy = run(file)
    manifests.write_text(file, "a: [")
    daemon.wait_until(lambda: proxy.log_lines("web.yaml: not valid YAML"), "the fault")
    manifests.write_text(file, good.replace("web", "shop"))
    edited = "web.yaml was edited: 1 Service added, 1 Endpoints added, 1 Service removed"
    daemon.wait_until(lambda: proxy.log_lines(edited), "the edit")
    daemon.wait_until(lambda: proxy.log_lines("web.yaml is good again"), "the mending")
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
