"""`kproxy simulate` as a process, and what it wrote."""

import base64
import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from kproxy.demo import stage
from tests.e2e.rig import daemon


class Simulation:
    """A running `kproxy simulate` with a folder for what it writes."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"

    def out(self) -> str:
        """What it has written on stdout."""
        return (self.folder / "out").read_text()

    def err(self) -> str:
        """What it has written on stderr."""
        return (self.folder / "err").read_text()

    def wait_up(self) -> None:
        """Return when it has said how to reach it."""
        daemon.wait_until(lambda: "Ctrl-C" in self.out() or self.process.poll() is not None, "up")
        assert self.process.poll() is None, self.err()

    def get(self, path: str) -> dict[str, Any]:
        """An object of its API, by way of the kubeconfig."""
        return self._ask(path, None)

    def post(self, path: str, body: object) -> dict[str, Any]:
        """The answer to a POST, by way of the kubeconfig."""
        return self._ask(path, json.dumps(body).encode())

    def patch(self, path: str, body: object) -> dict[str, Any]:
        """The answer to a merge patch, by way of the kubeconfig."""
        kind = "application/merge-patch+json"
        return self._ask(path, json.dumps(body).encode(), method="PATCH", kind=kind)

    def _ask(
        self,
        path: str,
        body: bytes | None,
        *,
        method: str | None = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        found = yaml.safe_load(self.kubeconfig.read_text())
        entry, token = found["clusters"][0]["cluster"], found["users"][0]["user"]["token"]
        authority = base64.b64decode(entry["certificate-authority-data"]).decode()
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json",
            "Content-Type": kind,
        }
        request = urllib.request.Request(
            entry["server"] + path, data=body, headers=headers, method=method
        )
        context = ssl.create_default_context(cadata=authority)
        with urllib.request.urlopen(request, timeout=daemon.DEADLINE, context=context) as answer:
            read: dict[str, Any] = json.load(answer)
        return read


@contextlib.contextmanager
def started(
    folder: Path,
    *flags: str,
    wrapper: Sequence[str] = (),
    stdin: bytes = b"",
    chooses: bool = False,
) -> Iterator[Simulation]:
    """Start it in a process group and in ranges of its own; end it at the end.

    `chooses`: it is to find the ranges itself.
    """
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "in").write_bytes(stdin)
    with (
        stage.claimed_ranges() as ranges,
        (folder / "in").open("rb") as source,
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
    ):
        ours = ["--service-cidr", ranges.services, "--pod-cidr", ranges.pods]
        ours = [] if chooses else ours
        out_flag = ["--kubeconfig-out", str(folder / "kubeconfig")]
        process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "kproxy", "simulate", *ours, *out_flag, *flags],
            stdin=source,
            stdout=out,
            stderr=err,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            start_new_session=True,
        )
        try:
            yield Simulation(process, folder)
        finally:
            daemon.end(process)
