"""`kproxy simulate` and `kproxy run --kubeconfig` in processes of their own."""

import base64
import contextlib
import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kproxy.ops.views import control_client
from tests.e2e.rig import daemon


class Simulation:
    """A running `kproxy simulate`. The process belongs to `simulating`, which ends it."""

    def __init__(self, process: subprocess.Popen[bytes], kubeconfig: Path) -> None:
        self.process = process
        self.kubeconfig = kubeconfig

    def post(self, path: str, body: Any) -> None:
        """Create an object. Raises OSError."""
        content = yaml.safe_load(self.kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        request = urllib.request.Request(
            cluster["server"] + path,
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cadata=authority)
        with urllib.request.urlopen(request, timeout=daemon.DEADLINE, context=context) as answer:
            assert answer.status == 201


@contextlib.contextmanager
def simulating(
    folder: Path, manifest: Path, *flags: str, wrapper: Sequence[str] = ()
) -> Iterator[Simulation]:
    """Run a simulated cluster in which `manifest` is applied, and end it at the end."""
    kubeconfig = folder / "kubeconfig"
    options = ("--apply", str(manifest), "--kubeconfig-out", str(kubeconfig))
    with (folder / "simulate.log").open("wb") as log:
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "kproxy", "simulate", *options, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        daemon.wait_until(kubeconfig.exists, "a kubeconfig")
        yield Simulation(process, kubeconfig)
    finally:
        daemon.end(process)


class Follower(daemon.Daemon):
    """A running `kproxy run --kubeconfig`."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        super().__init__(process, folder / "ready.json", folder / "stderr.log")
        self.control = folder / "control"

    def endpoints(self) -> set[tuple[str, str]]:
        """What it has now: pairs of a Service's name and an address behind it."""
        views = control_client.fetch(self.control, "endpoints")
        return {(view["service"], view["address"]) for view in views}


@contextlib.contextmanager
def following(folder: Path, kubeconfig: Path, *, wrapper: Sequence[str] = ()) -> Iterator[Follower]:
    """Run a proxy beside the cluster of a kubeconfig, and end it at the end. Not ready yet."""
    folder.mkdir(mode=0o700)
    command = [
        *(*wrapper, *daemon.PROGRAM, "run", "--kubeconfig", str(kubeconfig)),
        *("--ready-file", str(folder / "ready.json"), "--control", str(folder / "control")),
        *("--healthz-bind-address", "", "--metrics-bind-address", "127.0.0.1:0"),
        "--allow-loopback-endpoints",
    ]
    with (folder / "stderr.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=daemon.ENVIRONMENT,
            start_new_session=True,
        )
    try:
        yield Follower(process, folder)
    finally:
        daemon.end(process)
